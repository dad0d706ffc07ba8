//! The count of a process's starts, kept in a file between them.

use std::path::{Path, PathBuf};
use std::{fs, io};

#[derive(Debug, thiserror::Error)]
#[error("can't count starts in {path}: {source}; name a file that can be written, or delete it to begin anew")]
pub struct StartsError {
    path: PathBuf,
    source: io::Error,
}

/// Adds one to the number in the file, which need not exist yet, and returns it.
pub fn count_start(path: &Path) -> Result<u64, StartsError> {
    let failed = |source| StartsError { path: path.to_owned(), source };
    let before = match fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|error| failed(io::Error::other(error)))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    let start = before.saturating_add(1);
    // Renamed into place: a crash at this moment must not leave half a number.
    let new = path.with_extension("new");
    fs::write(&new, format!("{start}\n")).and_then(|()| fs::rename(&new, path)).map_err(failed)?;
    Ok(start)
}
