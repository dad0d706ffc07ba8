//! Brings the file's schema up to date, after copying it; called with the folder's lock held.

use std::path::{Path, PathBuf};

use sqlx::SqlitePool;
use sqlx::migrate::Migrator;
use uuid::Uuid;

use crate::store::StoreError;
use crate::store::schema::{self, Fit, Found};

/// What the file says about its schema.
pub(super) async fn found(pool: &SqlitePool) -> Result<Found, StoreError> {
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('_sqlx_migrations', 'schema_compatibility')",
    )
    .fetch_one(pool)
    .await?;
    if tables < 2 {
        return Ok(Found::default());
    }
    let (version, oldest_reader) = sqlx::query_as(
        "SELECT m.version, c.oldest_reader FROM _sqlx_migrations m LEFT JOIN schema_compatibility c USING (version)
         ORDER BY m.version DESC LIMIT 1",
    )
    .fetch_optional(pool)
    .await?
    .unwrap_or((0, None));
    Ok(Found { version, oldest_reader })
}

/// Applies what is missing; returns how many migrations that were. A file that has a schema is copied first, to
/// `ostler.db.before-N`, where N is the version that it gets.
pub(super) async fn bring_up_to_date(pool: &SqlitePool, file: &Path, migrator: &Migrator) -> Result<i64, StoreError> {
    let found = found(pool).await?;
    let target = schema::newest(migrator);
    if schema::fit(found, target)? == Fit::Usable {
        return Ok(0);
    }
    if found.version > 0 {
        copy(pool, &before(file, target)).await?;
    }
    migrator.run(pool).await?;
    let missing = migrator.iter().filter(|migration| migration.version > found.version).count();
    Ok(i64::try_from(missing).unwrap_or(i64::MAX))
}

fn before(file: &Path, version: i64) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".before-{version}"));
    name.into()
}

/// `VACUUM INTO` gives a whole database, what is in the WAL included; the name appears only when it is complete.
async fn copy(pool: &SqlitePool, to: &Path) -> Result<(), StoreError> {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let failed = |error: std::io::Error| {
        StoreError::Unavailable(format!("can't copy the database to {} before its migration: {error}", to.display()))
    };
    match std::fs::remove_file(&part) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let Some(path) = part.to_str() else {
        return Err(StoreError::Broken(format!("the data folder's path is no UTF-8: {}", part.display())));
    };
    sqlx::query("VACUUM INTO ?").bind(path).execute(pool).await?;
    std::fs::rename(&part, to).map_err(failed)
}

/// The installation's id: recorded on first use.
pub(super) async fn installation(pool: &SqlitePool, expected: Option<Uuid>, adopt: bool) -> Result<Uuid, StoreError> {
    let recorded: Option<String> =
        sqlx::query_scalar("SELECT id FROM installation WHERE one = 1").fetch_optional(pool).await?;
    let recorded = match recorded {
        Some(text) => Some(
            Uuid::try_parse(&text)
                .map_err(|_| StoreError::Broken(format!("the installation's id {text:?} is no UUID")))?,
        ),
        None => None,
    };
    let id = schema::installation(recorded, expected, adopt)?;
    if recorded == Some(id) {
        return Ok(id);
    }
    sqlx::query("INSERT INTO installation (one, id) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET id = excluded.id")
        .bind(id.to_string())
        .execute(pool)
        .await?;
    Ok(id)
}
