//! A process's output file: opened for it, read for lack of memory, rotated by copy and truncate.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
};

use nix::unistd::{Gid, Uid, User};

use crate::{
    agent::{
        config::LogSpec,
        os::{FileOwner, SafePath},
    },
    host::{
        LogPart,
        mask::{masked, one_line},
    },
};

/// At most so much is read at once, in bytes.
const CHUNK: u64 = 1 << 20;

/// Opens the file for a process's output. A new one is the user's, as if the user had made it.
pub fn open(path: &Path, user: Option<&str>) -> io::Result<File> {
    let user = user.and_then(|name| User::from_name(name).ok().flatten()).filter(|_| Uid::effective().is_root());
    SafePath::of(path)?.append(user.map(|user| (user.uid, user.gid)))
}

/// How long the file is, in bytes.
pub fn length(path: &Path) -> u64 {
    SafePath::of(path).and_then(|place| place.length()).ok().flatten().unwrap_or(0)
}

/// Moves what is in the file to `file.1` when there is too much of it. The process goes on writing to the same file; what
/// it writes between copy and truncate is lost.
pub fn rotate(spec: &LogSpec) -> io::Result<bool> {
    let place = match SafePath::of(&spec.file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        place => place?,
    };
    if place.length()?.is_none_or(|length| length <= spec.max_bytes) {
        return Ok(false);
    }
    let mut current = place.read_and_write()?;
    if spec.files > 0 {
        // Copied before anything is moved: a disk that is full must not cost the old files.
        let numbered = |n: u32| place.beside(&format!(".{n}"));
        copy(&mut current, &place, &numbered(0))?;
        for n in (1..spec.files).rev() {
            place.rename(&numbered(n), &numbered(n + 1))?;
        }
        place.rename(&numbered(0), &numbered(1))?;
    }
    current.set_len(0)?;
    Ok(true)
}

fn copy(current: &mut File, place: &SafePath, name: &OsStr) -> io::Result<()> {
    let meta = current.metadata()?;
    let owner: Option<FileOwner> =
        Uid::effective().is_root().then(|| (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid())));
    let mut written = || {
        let mut copy = place.replace(name, owner)?;
        io::copy(current, &mut copy)?;
        copy.sync_data()
    };
    written().inspect_err(|_| {
        // Half a copy helps nobody, and the disk may be full.
        let _ = place.remove(name);
    })
}

/// A part of a log for people, in whole lines: what follows `after`, or the end. A log that is shorter than that was rotated, and
/// begins anew. The part of a line that is still being written is left for the next call.
pub fn part(path: &Path, after: Option<u64>, most: u64) -> io::Result<LogPart> {
    let of = |text: String, next| LogPart { file: path.display().to_string(), text, next };
    let mut file = match SafePath::of(path).and_then(|place| place.read()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(of(String::new(), 0)),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let begin = match after {
        Some(after) if after <= length => after,
        Some(_) => 0,
        None => length.saturating_sub(most),
    };
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let at_end = begin + bytes.len() as u64 >= length;
    let cut_before = if after.is_none() && begin > 0 {
        bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |at| at + 1)
    } else {
        0
    };
    // A line that is longer than all that may be read is taken as it is.
    let last_break = bytes.iter().rposition(|b| *b == b'\n').map(|at| at + 1).filter(|end| *end > cut_before);
    let end = match last_break {
        Some(end) => end,
        None if at_end => cut_before,
        None => bytes.len(),
    };
    let text = String::from_utf8_lossy(bytes.get(cut_before..end).unwrap_or_default());
    Ok(of(masked(&text, &[]), begin + end as u64))
}

/// What servers write, in lower case, when somebody has their port: by the C library, in Node.
const PORT_TAKEN: [&str; 2] = ["address already in use", "eaddrinuse"];

/// The line of a log that tells best why its process ended.
#[derive(Debug, PartialEq, Eq)]
pub struct LastWords {
    pub line: String,
    /// It says that somebody has the port.
    pub port_taken: bool,
}

/// What a process wrote last, from `since` on: the line that says why, or else the last one that says something.
pub fn last_words(path: &Path, since: u64) -> Option<LastWords> {
    let mut file = SafePath::of(path).and_then(|place| place.read()).ok()?;
    let length = file.metadata().ok()?.len();
    // A file that is shorter was rotated meanwhile.
    let since = if since <= length { since } else { 0 };
    file.seek(SeekFrom::Start(since.max(length.saturating_sub(4096)))).ok()?;
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let says = |line: &&str| !line.trim().is_empty();
    let taken = |line: &&str| PORT_TAKEN.iter().any(|words| line.to_ascii_lowercase().contains(words));
    let told = text.lines().rev().find(taken);
    let line = told.or_else(|| text.lines().rev().find(says))?;
    Some(LastWords { line: one_line(line, 200), port_taken: told.is_some() })
}

/// Looks for texts in what was written since it last looked.
#[derive(Debug, Default)]
pub struct LogScanner {
    offset: u64,
    /// The end of what was read: a text may be cut in two by two readings.
    carry: Vec<u8>,
}

impl LogScanner {
    /// Begins at an offset remembered from before, or at the end of the file.
    pub fn begin(path: &Path, remembered: Option<u64>) -> Self {
        let length = length(path);
        Self { offset: remembered.filter(|&o| o <= length).unwrap_or(length), carry: Vec::new() }
    }

    /// After a rotation.
    pub fn rewind(&mut self) {
        *self = Self::default();
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether any of the texts was written since. A file shorter than before was rotated, and is read from its start.
    pub fn found(&mut self, path: &Path, patterns: &[String]) -> io::Result<bool> {
        let mut file = match SafePath::of(path).and_then(|place| place.read()) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            self.offset = 0;
            self.carry.clear();
        }
        if patterns.is_empty() {
            self.offset = length;
            return Ok(false);
        }
        let longest = patterns.iter().map(String::len).max().unwrap_or(1);
        let mut found = false;
        while self.offset < length {
            file.seek(SeekFrom::Start(self.offset))?;
            let read = file.by_ref().take(CHUNK).read_to_end(&mut self.carry)?;
            if read == 0 {
                break;
            }
            self.offset += read as u64;
            found |= patterns.iter().any(|p| contains(&self.carry, p.as_bytes()));
            let keep = if found { 0 } else { longest.saturating_sub(1) };
            let drop = self.carry.len().saturating_sub(keep);
            self.carry.drain(..drop);
        }
        Ok(found)
    }
}

fn contains(text: &[u8], pattern: &[u8]) -> bool {
    !pattern.is_empty() && text.windows(pattern.len()).any(|w| w == pattern)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::PathBuf};

    use super::*;

    fn folder() -> PathBuf {
        let path = std::env::temp_dir().join(format!("ostler-log-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_log_is_read_in_whole_lines_from_where_the_last_part_ended() {
        let path = std::env::temp_dir().join(format!("ostler-log-part-{}", uuid::Uuid::new_v4()));
        let text = |part: &LogPart| part.text.clone();
        assert_eq!(part(&path, None, 100).unwrap().next, 0, "nothing was written yet");
        fs::write(&path, "one\ntwo\ntoken=hush-hush-hush\nhal").unwrap();
        let all = part(&path, None, 100).unwrap();
        assert_eq!(text(&all), "one\ntwo\ntoken=***\n");
        let end = part(&path, None, 26).unwrap();
        assert_eq!(text(&end), "token=***\n", "a line that is cut is left out");
        fs::write(&path, "one\ntwo\ntoken=hush-hush-hush\nhalf\n").unwrap();
        let more = part(&path, Some(all.next), 100).unwrap();
        assert_eq!(text(&more), "half\n");
        assert_eq!(text(&part(&path, Some(more.next), 100).unwrap()), "");
        fs::write(&path, "new\n").unwrap();
        assert_eq!(text(&part(&path, Some(more.next), 100).unwrap()), "new\n", "it was rotated");
        fs::write(&path, "x".repeat(50)).unwrap();
        assert_eq!(part(&path, Some(0), 10).unwrap().text.len(), 10, "a line without an end does not stop it");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_log_is_copied_and_truncated_while_its_writer_goes_on() {
        let dir = folder();
        let spec = LogSpec { file: dir.join("x.log"), max_bytes: 10, files: 2 };
        let mut writer = open(&spec.file, None).unwrap();
        assert!(!rotate(&spec).unwrap(), "an empty file");
        for text in ["first first\n", "second second\n", "third third\n"] {
            writer.write_all(text.as_bytes()).unwrap();
            assert!(rotate(&spec).unwrap());
        }
        writer.write_all(b"now\n").unwrap();
        assert!(!rotate(&spec).unwrap());
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(
            (read("x.log"), read("x.log.1"), read("x.log.2")),
            ("now\n".into(), "third third\n".into(), "second second\n".into())
        );
        assert!(!dir.join("x.log.3").exists());
        assert_eq!(last_words(&spec.file, 0), Some(LastWords { line: "now".into(), port_taken: false }));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_last_words_are_of_this_process_and_name_a_port_that_is_taken() {
        let dir = folder();
        let path = dir.join("x.log");
        fs::write(&path, "OSError: [Errno 98] Address already in use\n").unwrap();
        let before = fs::metadata(&path).unwrap().len();
        assert_eq!(last_words(&path, before), None, "of the process before");
        assert!(last_words(&path, 9999).is_some_and(|w| w.port_taken), "rotated meanwhile");
        let mut writer = open(&path, None).unwrap();
        writer.write_all(b"loading\nError: listen EADDRINUSE: :::8080\n  at Server.listen\n\n").unwrap();
        let words = last_words(&path, before).unwrap();
        assert_eq!((words.line.as_str(), words.port_taken), ("Error: listen EADDRINUSE: :::8080", true));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_log_that_is_a_link_is_not_followed() {
        let dir = folder();
        fs::write(dir.join("precious"), "x".repeat(100)).unwrap();
        std::os::unix::fs::symlink(dir.join("precious"), dir.join("x.log")).unwrap();
        assert!(open(&dir.join("x.log"), None).is_err());
        let spec = LogSpec { file: dir.join("x.log"), max_bytes: 1, files: 1 };
        assert!(rotate(&spec).is_err());
        assert_eq!(fs::metadata(dir.join("precious")).unwrap().len(), 100);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_pipe_in_its_place_holds_nobody_up() {
        let dir = folder();
        let path = dir.join("x.log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(&path, None).unwrap_err().to_string().contains("no regular file"));
        assert_eq!((length(&path), last_words(&path, 0)), (0, None));
        assert!(rotate(&LogSpec { file: path.clone(), max_bytes: 0, files: 1 }).is_err());
        assert!(LogScanner::begin(&path, None).found(&path, &["x".to_owned()]).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_text_is_found_once_even_when_it_comes_in_two_pieces_or_after_a_rotation() {
        let dir = folder();
        let path = dir.join("x.log");
        let mut writer = open(&path, None).unwrap();
        writer.write_all(b"old: Insufficient Memory\n").unwrap();
        let patterns = ["Insufficient Memory".to_owned()];
        let mut watch = LogScanner::begin(&path, None);
        assert!(!watch.found(&path, &patterns).unwrap(), "written before it looked");
        writer.write_all(b"metal: Insufficient M").unwrap();
        assert!(!watch.found(&path, &patterns).unwrap());
        writer.write_all(b"emory\n").unwrap();
        assert!(watch.found(&path, &patterns).unwrap());
        assert!(!watch.found(&path, &patterns).unwrap(), "once");
        writer.set_len(0).unwrap();
        writer.write_all(b"Insufficient Memory").unwrap();
        assert!(watch.found(&path, &patterns).unwrap());
        assert!(LogScanner::begin(&path, Some(0)).found(&path, &patterns).unwrap(), "remembered offset");
        fs::remove_dir_all(dir).unwrap();
    }
}
