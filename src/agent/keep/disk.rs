//! Files that are either the old ones or the new ones, whenever the process or the host dies.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Why the agent's state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "can't {what} {path}: {cause}; the agent does nothing that it can't write down: see that the disk has space and that this user may write there"
    )]
    Io { what: &'static str, path: String, cause: io::Error },
    #[error(
        "{path} is not what an agent wrote ({cause}): put it right, or remove it, which forgets the holds or operations in it"
    )]
    Damaged { path: String, cause: String },
    #[error("another agent uses the state folder {path}: end it, or give this one a folder of its own (--state-dir)")]
    InUse { path: String },
}

impl StateError {
    pub fn io(what: &'static str, path: &Path, cause: io::Error) -> Self {
        Self::Io { what, path: path.display().to_string(), cause }
    }
}

/// The state folder, held by this agent alone until it is dropped or the process ends.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder (for its user only) and takes its lock.
    pub fn take(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| StateError::io("make the folder", path, e))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| StateError::io("open", &lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::InUse { path: path.display().to_string() }),
            Err(fs::TryLockError::Error(e)) => Err(StateError::io("lock", &lock_path, e)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// Reads what `write` wrote; `None` when there is no such file.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StateError::io("read", path, e)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| StateError::Damaged { path: path.display().to_string(), cause: e.to_string() })
}

/// Replaces a file by rename once the new one is on disk, and the folder's entry too.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| StateError::Damaged { path: path.display().to_string(), cause: e.to_string() })?;
    replace(path, &bytes).map_err(|e| StateError::io("write", path, e))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn temporary() -> PathBuf {
        let path = std::env::temp_dir().join(format!("ostler-keep-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_named() {
        let folder = temporary();
        let path = folder.join("x.json");
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), None);
        write(&path, &vec![1, 2]).unwrap();
        write(&path, &vec![3]).unwrap();
        assert_eq!(read::<Vec<u8>>(&path).unwrap(), Some(vec![3]));
        fs::write(&path, "{").unwrap();
        assert!(read::<Vec<u8>>(&path).unwrap_err().to_string().contains("x.json"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_has_one_agent_at_a_time() {
        let path = temporary();
        let first = StateFolder::take(&path).unwrap();
        assert!(matches!(StateFolder::take(&path), Err(StateError::InUse { .. })));
        drop(first);
        StateFolder::take(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}
