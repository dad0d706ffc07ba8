//! Finished results wait here, on disk, while the database is away. They stay fenced: what another worker did meanwhile is
//! not touched when they are replayed.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::tasks::{Completion, TaskId};

/// A folder with a file for each completion that is not recorded yet. Several processes may share it: whoever is first
/// replays a file, and a second time changes nothing.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// Makes the folder, for its owner only: results are somebody's data.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a completion so that it survives the machine's death.
    pub fn put(&self, completion: &Completion) -> io::Result<()> {
        let path = self.path(completion.task, completion.epoch);
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        serde_json::to_writer(&mut file, completion)?;
        file.flush()?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// What is recorded now.
    pub fn remove(&self, task: TaskId, epoch: i64) {
        match fs::remove_file(self.path(task, epoch)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(task, %error, "a spooled result is recorded, and its file stays: it will be replayed for nothing");
            }
            _ => {}
        }
    }

    /// Everything that waits, whoever put it there. A file that can't be read is set aside as `.bad`.
    pub fn waiting(&self) -> Vec<Completion> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(|path| read(&path)).collect()
    }

    fn path(&self, task: TaskId, epoch: i64) -> PathBuf {
        self.folder.join(format!("{task}-{epoch}.json"))
    }
}

fn read(path: &Path) -> Option<Completion> {
    let bytes = fs::read(path).ok()?;
    match serde_json::from_slice(&bytes) {
        Ok(completion) => Some(completion),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "a spooled result can't be read: its task is given to another worker when its lease has lapsed");
            // Whoever looks for the reason finds it there.
            let _ = fs::rename(path, path.with_extension("bad"));
            None
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::tasks::{Attempt, AttemptClass, Verdict};

    pub fn completion(task: TaskId, epoch: i64, verdict: Verdict) -> Completion {
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
        Completion { task, epoch, verdict, attempt }
    }

    #[test]
    fn what_is_put_is_found_by_another_process_until_it_is_removed() {
        let folder = std::env::temp_dir().join(format!("ostler-spool-{}", uuid::Uuid::new_v4()));
        let spool = Spool::open(&folder).unwrap();
        let verdicts = [
            Verdict::Completed { result: json!({"text": "hay"}) },
            Verdict::Retry { after: Duration::from_millis(1500), reason: "no hay".into() },
        ];
        let completions: Vec<_> = (1..).zip(verdicts).map(|(task, verdict)| completion(task, 7, verdict)).collect();
        for one in &completions {
            spool.put(one).unwrap();
        }
        fs::write(folder.join("3-1.json"), "{").unwrap();
        let mut found = Spool::open(&folder).unwrap().waiting();
        found.sort_by_key(|completion| completion.task);
        assert_eq!(found, completions);
        assert!(folder.join("3-1.bad").exists());
        let mode = fs::metadata(folder.join("1-7.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        spool.remove(1, 7);
        spool.remove(1, 7);
        assert_eq!(spool.waiting(), completions[1..]);
        fs::remove_dir_all(folder).unwrap();
    }
}
