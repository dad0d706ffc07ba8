//! The embedded migrations, and which schema this binary can work with.

use sqlx::migrate::Migrator;
use uuid::Uuid;

use super::StoreError;

pub(super) static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
pub(super) static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// What a database says about its schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The highest migration applied; 0 for none.
    pub version: i64,
    /// The oldest version whose binaries can work with it; `None` when it does not say.
    pub oldest_reader: Option<i64>,
}

/// What is to be done with a schema before it can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It can be used as it is: it has our version, or a newer one that says that ours will do (the release before keeps
    /// working while replicas are replaced one by one).
    Usable,
    /// Migrations are missing.
    Older,
}

pub(super) fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Whether a binary that knows migrations up to `known` can use what was found.
pub(super) fn fit(found: Found, known: i64) -> Result<Fit, StoreError> {
    if found.version < known {
        return Ok(Fit::Older);
    }
    if found.version == known || found.oldest_reader.is_some_and(|oldest| oldest <= known) {
        return Ok(Fit::Usable);
    }
    Err(StoreError::NewerSchema { found: found.version, known })
}

/// Like [`fit`], for whoever does not migrate.
pub(super) fn usable(found: Found, known: i64) -> Result<(), StoreError> {
    match fit(found, known)? {
        Fit::Usable => Ok(()),
        Fit::Older => Err(StoreError::OlderSchema { found: found.version, known }),
    }
}

/// The id that is to be recorded: the one that is there, else the expected one, else a new one. A recorded id and another
/// expected one don't go together, unless `adopt`.
pub(super) fn installation(recorded: Option<Uuid>, expected: Option<Uuid>, adopt: bool) -> Result<Uuid, StoreError> {
    match (recorded, expected) {
        (Some(found), Some(expected)) if found != expected && !adopt => {
            Err(StoreError::OtherInstallation { found, expected })
        }
        (_, Some(expected)) => Ok(expected),
        (Some(found), None) => Ok(found),
        (None, None) => Ok(Uuid::new_v4()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_refused_unless_it_says_that_the_release_before_may_read_it() {
        let newer = Err(StoreError::NewerSchema { found: 8, known: 7 });
        for (version, oldest_reader, wanted) in [
            (0, None, Ok(Fit::Older)),
            (6, Some(5), Ok(Fit::Older)),
            (7, None, Ok(Fit::Usable)),
            (8, Some(7), Ok(Fit::Usable)),
            (8, Some(6), Ok(Fit::Usable)),
            (8, Some(8), newer.clone()),
            (8, None, newer),
        ] {
            assert_eq!(fit(Found { version, oldest_reader }, 7), wanted, "{version} {oldest_reader:?}");
        }
    }

    #[test]
    fn both_databases_have_the_same_migrations_in_the_same_order() {
        let names = |migrator: &Migrator| -> Vec<_> {
            migrator.iter().map(|one| (one.version, one.description.to_string())).collect()
        };
        assert_eq!(names(&POSTGRES), names(&SQLITE));
        assert!(newest(&SQLITE) >= 1);
    }

    #[test]
    fn every_migration_says_which_releases_can_still_work_with_it() {
        for migration in POSTGRES.iter().chain(SQLITE.iter()) {
            let says =
                format!("INSERT INTO schema_compatibility (version, oldest_reader) VALUES ({}, ", migration.version);
            assert!(migration.sql.as_str().contains(&says), "migration {} lacks: {says}", migration.version);
        }
    }
}
