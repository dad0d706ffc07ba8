//! Brings the file's schema up to date, after copying it; called with the folder's lock held.

use std::os::unix::fs::PermissionsExt;
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
    // What `run` does; its signature makes a future that is not Send.
    migrator.run_direct(None, &mut *pool.acquire().await?, false).await?;
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
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&part, private).and_then(|()| std::fs::rename(&part, to)).map_err(failed)
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sqlx::SqlSafeStr;
    use sqlx::migrate::{Migration, MigrationType};

    use super::*;
    use crate::store::sqlite::{FolderAccess, SqliteStore, database_file, pool};

    /// The real migrations and one of a later release.
    fn later(sql: &'static str) -> Migrator {
        let mut migrations: Vec<Migration> = schema::SQLITE.iter().cloned().collect();
        let version = schema::newest(&schema::SQLITE) + 1;
        let description = Cow::Borrowed("later");
        migrations.push(Migration::new(version, description, MigrationType::Simple, sql.into_sql_str(), false));
        Migrator::with_migrations(migrations)
    }

    #[tokio::test]
    async fn a_file_is_copied_before_it_is_changed_and_a_failed_change_leaves_it_as_it_was() {
        let folder = std::env::temp_dir().join(format!("ostler-migrate-{}", std::process::id()));
        let store = SqliteStore::open(&folder, FolderAccess::Lock).await.expect("open");
        let id = store.id();
        drop(store);
        let file = database_file(&folder);
        let target = schema::newest(&schema::SQLITE) + 1;
        assert!(!before(&file, target - 1).exists(), "there was nothing to copy");

        let writer = pool(&file, 1, "off");
        let broken = later("CREATE TABLE extra (a INTEGER); INSERT INTO nowhere VALUES (1)");
        let error = bring_up_to_date(&writer, &file, &broken).await.expect_err("refused by SQLite");
        assert!(matches!(&error, StoreError::Broken(why) if why.contains("nowhere")), "{error:?}");
        assert_eq!(found(&writer).await.expect("readable").version, target - 1);

        let applied = bring_up_to_date(&writer, &file, &later("CREATE TABLE extra (a INTEGER)")).await;
        assert_eq!(applied, Ok(1), "the copy of the failed attempt is in nobody's way");
        assert_eq!(found(&writer).await, Ok(Found { version: target, oldest_reader: None }));

        let mode = std::fs::metadata(before(&file, target)).expect("copied").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "its owner's alone, as the database is");
        let copy = pool(&before(&file, target), 1, "on");
        assert_eq!(found(&copy).await, Ok(Found { version: target - 1, oldest_reader: Some(1) }));
        let copied: String = sqlx::query_scalar("SELECT id FROM installation").fetch_one(&copy).await.expect("whole");
        assert_eq!(copied, id.to_string());
        copy.close().await;
        writer.close().await;
        std::fs::remove_dir_all(&folder).expect("remove the folder");
    }
}
