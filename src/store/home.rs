//! Which database, and how one gets a store from it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use super::postgres::{self, DatabaseUrl, PostgresStore};
use super::sqlite::{FolderAccess, SqliteStore};
use super::{Store, StoreError};

/// Where an installation keeps its data.
#[derive(Clone, Debug)]
pub enum Home {
    /// A data folder with an SQLite database.
    Folder { path: PathBuf, hold: FolderAccess },
    /// A schema of a PostgreSQL database.
    Postgres(DatabaseUrl),
}

impl fmt::Display for Home {
    /// Where it is, for people; never a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path, hold: _ } => write!(f, "data folder {}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The id that is recorded in the database now.
    pub installation: Uuid,
    /// How many migrations were applied.
    pub applied: i64,
}

/// Opens the store.
///
/// `installation` is the id that the caller expects, if it has one. A data folder that is opened with [`FolderAccess::Lock`] is
/// migrated on the way.
///
/// # Errors
/// [`StoreError::OtherInstallation`], [`StoreError::OlderSchema`], [`StoreError::NewerSchema`], [`StoreError::Locked`],
/// [`StoreError::Unavailable`].
pub async fn open(home: &Home, installation: Option<Uuid>) -> Result<Arc<dyn Store>, StoreError> {
    match home {
        Home::Folder { path, hold } => {
            let (store, _) = SqliteStore::open_and_migrate(path, *hold, installation, false).await?;
            Ok(Arc::new(store))
        }
        Home::Postgres(url) => Ok(Arc::new(PostgresStore::open(url, installation).await?)),
    }
}

/// Brings the schema up to date and records the installation's id: `installation`, else a new one. A database with
/// another id is refused, unless `adopt` says that it is ours from now on.
///
/// # Errors
/// As [`open`], but for the older schema.
pub async fn migrate(home: &Home, installation: Option<Uuid>, adopt: bool) -> Result<Migrated, StoreError> {
    match home {
        Home::Folder { path, hold: _ } => {
            let (store, applied) = SqliteStore::open_and_migrate(path, FolderAccess::Lock, installation, adopt).await?;
            Ok(Migrated { installation: store.id(), applied })
        }
        Home::Postgres(url) => postgres::migrate(url, installation, adopt).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opening_and_migrating_can_be_spawned() {
        let path = std::env::temp_dir().join(format!("ostler-home-{}", std::process::id()));
        let home = Home::Folder { path: path.clone(), hold: FolderAccess::Lock };
        let spawned = tokio::spawn(async move {
            let migrated = migrate(&home, None, false).await?;
            open(&home, Some(migrated.installation)).await?.installation().await.map(|id| (id, migrated.installation))
        });
        let (opened, migrated) = spawned.await.expect("no panic").expect("a new folder");
        assert_eq!(opened, migrated);
        std::fs::remove_dir_all(&path).expect("remove the folder");
    }
}
