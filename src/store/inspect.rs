//! A database as it is found, for whoever asks without changing it; and a whole copy of a data folder's.

use std::path::Path;

use jiff::Timestamp;

use super::{Home, StoreError, postgres, sqlite};

/// What a database says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// The version of its schema; 0: it has none.
    pub schema: i64,
    /// Why this release can't work with that schema, if it can't.
    pub unfit: Option<StoreError>,
    /// Its character set, as it names it.
    pub encoding: String,
    pub now: Timestamp,
    /// For how long the oldest transaction is open, in seconds: nothing that was deleted since is cleaned up.
    pub oldest_transaction: i64,
    /// It takes no writes: a standby, or a file that may not be written.
    pub read_only: bool,
}

/// Looks at a database, and changes nothing. `None`: a data folder without one.
///
/// # Errors
/// [`StoreError::Unavailable`] when it can't be reached.
pub async fn inspect(home: &Home) -> Result<Option<DatabaseFacts>, StoreError> {
    match home {
        Home::Folder { path, hold: _ } => sqlite::inspect(path).await,
        Home::Postgres(url) => postgres::inspect(url).await.map(Some),
    }
}

/// Writes a whole copy of a data folder's database into a new file, readable by its owner only, while `up` works. Its size in bytes.
///
/// # Errors
/// [`StoreError::Unavailable`] when the folder has no database, or the copy can't be written.
pub async fn back_up(folder: &Path, to: &Path) -> Result<u64, StoreError> {
    sqlite::back_up(folder, to).await
}
