//! Finished results wait here, on disk, while the database is away. They stay fenced: what another worker did meanwhile is
//! not touched when they are replayed.

use std::{
    fs, io,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    store::{new_file, open_own, own_folder},
    tasks::{Finished, TaskId, Verdict},
};

/// Nothing that this program wrote is larger.
const LARGEST: u64 = 1 << 30;

/// A folder with a file for each end that is not recorded yet. Several processes of one user may share it: whoever is first
/// replays a file, and a second time changes nothing. All of it blocks.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
    /// For names of files that are being written.
    written: Arc<AtomicU64>,
}

/// A file. The result is a text in it: so it may be as deep as a document of its own.
#[derive(Serialize, Deserialize)]
struct Document {
    finished: Finished,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<String>,
}

impl Document {
    fn of(finished: &Finished) -> io::Result<Self> {
        let mut finished = finished.clone();
        let result = match &mut finished.completion.verdict {
            Verdict::Completed { result } => Some(serde_json::to_string(&result.take())?),
            _ => None,
        };
        Ok(Self { finished, result })
    }

    fn finished(self) -> serde_json::Result<Finished> {
        let Self { mut finished, result } = self;
        if let (Verdict::Completed { result }, Some(text)) = (&mut finished.completion.verdict, result) {
            *result = serde_json::from_str::<Value>(&text)?;
        }
        Ok(finished)
    }
}

impl Spool {
    /// Makes the folder, for its owner only: results are somebody's data, and what is read here becomes somebody's answer.
    pub fn open(folder: &Path) -> io::Result<Self> {
        own_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), written: Arc::default() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes them so that they survive the machine's death. Says for each whether it did.
    pub fn put(&self, all: &[Finished]) -> Vec<io::Result<()>> {
        let mut written: Vec<io::Result<()>> = all.iter().map(|one| self.write(one)).collect();
        if let Err(error) = fs::File::open(&self.folder).and_then(|folder| folder.sync_all()) {
            let kind = error.kind();
            written.iter_mut().filter(|one| one.is_ok()).for_each(|one| *one = Err(kind.into()));
        }
        written
    }

    fn write(&self, finished: &Finished) -> io::Result<()> {
        let path = self.path(finished.completion.task, finished.completion.epoch);
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let new = path.with_extension(format!("{}-{number}.new", std::process::id()));
        // Of a process that had this id and died.
        let _ = fs::remove_file(&new);
        let done = fill(&new, finished).and_then(|()| fs::rename(&new, &path));
        if done.is_err() {
            // On a full disk it would keep its room.
            let _ = fs::remove_file(&new);
        }
        done
    }

    /// What is recorded now.
    pub fn remove(&self, ends: &[(TaskId, i64)]) {
        for (task, epoch) in ends {
            match fs::remove_file(self.path(*task, *epoch)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(task, %error, "can't delete a spooled result that is recorded; it will be replayed in vain");
                }
                _ => {}
            }
        }
    }

    /// Everything that waits, whoever put it there. A file that can't be read is set aside as `.bad`; one that is somebody else's
    /// is left alone.
    pub fn waiting(&self) -> Vec<Finished> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| self.read(&path)).collect()
    }

    fn read(&self, path: &Path) -> Option<Finished> {
        let file = match open_own(path) {
            Ok(file) => file,
            // Another process was first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "ignoring a file in the spool folder");
                return None;
            }
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        let read = serde_json::from_slice::<Document>(&bytes).and_then(Document::finished);
        match read {
            Ok(finished) if path == self.path(finished.completion.task, finished.completion.epoch) => Some(finished),
            Ok(_) => bad(path, "its name is not that of its task"),
            Err(error) => bad(path, &error.to_string()),
        }
    }

    fn path(&self, task: TaskId, epoch: i64) -> PathBuf {
        self.folder.join(format!("{task}-{epoch}.json"))
    }
}

fn fill(path: &Path, finished: &Finished) -> io::Result<()> {
    let mut file = io::BufWriter::new(new_file().open(path)?);
    serde_json::to_writer(&mut file, &Document::of(finished)?)?;
    file.flush()?;
    file.get_ref().sync_all()
}

fn bad(path: &Path, error: &str) -> Option<Finished> {
    tracing::error!(file = %path.display(), error, "can't read a spooled result; its task is given to another worker when its lease has lapsed");
    // Whoever looks for the reason finds it there.
    let _ = fs::rename(path, path.with_extension("bad"));
    None
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::tasks::{
        Attempt, AttemptClass,
        retry::{Ended, RetryPolicy, TriedTask},
    };

    pub fn finished(task: TaskId, epoch: i64, ended: Ended) -> Finished {
        let attempt = Attempt {
            expert: "igor".into(),
            backend: Some("mlx".into()),
            model: Some("tiny".into()),
            holder: "h".into(),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: Timestamp::UNIX_EPOCH,
            first_token_at: None,
            prompt_tokens: Some(3),
            completion_tokens: None,
            class: AttemptClass::Ok,
            error: None,
        };
        let tried = TriedTask { attempts_used: 0, free_requeues: 0, deadline: None, attempts: &[] };
        Finished::new((task, epoch), tried, &RetryPolicy::default(), ended, attempt, Timestamp::UNIX_EPOCH, 1.0)
    }

    fn folder() -> PathBuf {
        std::env::temp_dir().join(format!("ostler-spool-{}", uuid::Uuid::new_v4()))
    }

    #[test]
    fn what_is_put_is_found_by_another_process_until_it_is_removed() {
        let folder = folder();
        let spool = Spool::open(&folder).unwrap();
        let deep = (0..120).fold(json!(1), |inner, _| json!([inner]));
        let ends = [
            Ended::Ok { result: json!({"text": "hay"}) },
            Ended::Retryable { why: "no hay".into(), retry_after: None },
            Ended::Ok { result: deep },
        ];
        let all: Vec<_> = (1..).zip(ends).map(|(task, ended)| finished(task, 7, ended)).collect();
        assert!(spool.put(&all).iter().all(Result::is_ok));
        assert!(spool.put(&all[..1]).iter().all(Result::is_ok), "once more");
        new_file().open(folder.join("4-1.json")).unwrap().write_all(b"{").unwrap();
        let mut found = Spool::open(&folder).unwrap().waiting();
        found.sort_by_key(|one| one.completion.task);
        assert_eq!(found, all);
        assert!(folder.join("4-1.bad").exists());
        let mode = fs::metadata(folder.join("1-7.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        spool.remove(&[(1, 7), (3, 7)]);
        spool.remove(&[(1, 7)]);
        assert_eq!(spool.waiting(), all[1..2]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_somebody_else_put_there_is_no_answer() {
        let folder = folder();
        let spool = Spool::open(&folder).unwrap();
        let one = finished(2, 1, Ended::Ok { result: json!("stolen") });
        spool.put(std::slice::from_ref(&one));
        fs::rename(folder.join("2-1.json"), folder.join("5-1.json")).unwrap();
        assert_eq!(spool.waiting(), [], "another task's name");
        spool.put(std::slice::from_ref(&one));
        fs::rename(folder.join("2-1.json"), folder.join("real")).unwrap();
        std::os::unix::fs::symlink(folder.join("real"), folder.join("2-1.json")).unwrap();
        assert_eq!(spool.waiting(), [], "a link");
        fs::remove_file(folder.join("2-1.json")).unwrap();
        fs::rename(folder.join("real"), folder.join("2-1.json")).unwrap();
        assert_eq!(spool.waiting(), [one]);
        if nix::unistd::Uid::effective().is_root() {
            std::os::unix::fs::chown(folder.join("2-1.json"), Some(12_345), None).unwrap();
            assert_eq!(spool.waiting(), [], "another user's");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_others_wrote_into_is_refused() {
        let folder = folder();
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("/etc/hosts", folder.join("2-1.json")).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(Spool::open(&folder).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
