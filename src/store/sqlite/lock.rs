//! The data folder's lock: the kernel gives it to one process and takes it back when that dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::store::{StoreError, own_folder};

/// Held until dropped.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder (0700) and the database's file (0600) when they are not there, and takes the lock.
    pub fn take(folder: &Path) -> Result<Self, StoreError> {
        let failed = |what: &str, error: std::io::Error| {
            StoreError::Unavailable(format!("can't {what} in the data folder {}: {error}", folder.display()))
        };
        own_folder(folder).map_err(|error| unfit(folder, &error))?;
        let mut file = private(&folder.join("lock")).map_err(|error| failed("open the file `lock`", error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(held_by(folder, &mut file))),
            Err(TryLockError::Error(error)) => return Err(failed("lock the file `lock`", error)),
        }
        // The pid is for people; what counts is the kernel's lock.
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|error| failed("write the file `lock`", error))?;
        private(&super::database_file(folder)).map_err(|error| failed("make the database", error))?;
        Ok(Self { _file: file })
    }

    /// Whether some process has it now.
    pub fn is_taken(folder: &Path) -> bool {
        let file = File::open(folder.join("lock"));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

fn private(path: &Path) -> std::io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// A folder that is not this user's own, or can't be made.
pub(super) fn unfit(folder: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unfit(format!("can't use the data folder {}: {error}; or name another --data-dir", folder.display()))
}

fn held_by(folder: &Path, file: &mut File) -> String {
    let mut pid = String::new();
    let holder = match file.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
        _ => "another process".to_owned(),
    };
    format!(
        "the data folder {} is in use by {holder}: end that ostler first (`ostler down`), or name another --data-dir",
        folder.display()
    )
}
