//! Brings the schema up to date, one process at a time; and looks at a database without changing it.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use uuid::Uuid;

use super::{DatabaseUrl, PATIENCE, session, within};
use crate::store::inspect::DatabaseFacts;
use crate::store::schema::{self, Fit, Found};
use crate::store::{Migrated, StoreError};

/// How long one waits for another process that migrates.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);
const LOCK_RETRY: Duration = Duration::from_millis(200);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// What the schema says about itself.
pub(super) async fn found(connection: &mut PgConnection) -> Result<Found, StoreError> {
    let there: bool = sqlx::query_scalar(
        "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('schema_compatibility') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        return Ok(Found::default());
    }
    let (version, oldest_reader) = sqlx::query_as(
        "SELECT version, oldest_reader FROM _sqlx_migrations LEFT JOIN schema_compatibility USING (version)
         ORDER BY version DESC LIMIT 1",
    )
    .fetch_optional(connection)
    .await?
    .unwrap_or((0, None));
    Ok(Found { version, oldest_reader })
}

/// The id of the installation that the schema belongs to.
pub(super) async fn recorded(connection: &mut PgConnection) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar("SELECT id FROM installation").fetch_optional(connection).await?)
}

/// Makes the schema when it is not there, applies what is missing, records the installation's id.
pub(in crate::store) async fn migrate(
    url: &DatabaseUrl,
    expected: Option<Uuid>,
    adopt: bool,
) -> Result<Migrated, StoreError> {
    let mut connection = connect(url).await?;
    session::check(&mut connection, url, None).await?;
    session::check_own(&mut connection, url).await?;
    // Where the role brings bounds along, they are for short statements.
    sqlx::raw_sql("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        .execute(&mut connection)
        .await?;
    lock(&mut connection, url).await?;
    make_schema(&mut connection, url.schema()).await?;
    may_use(&mut connection, url.schema()).await?;
    let applied = apply(&mut connection).await?;
    let installation = record(&mut connection, expected, adopt).await?;
    // The lock ends with the session.
    connection.close().await?;
    Ok(Migrated { installation, applied })
}

/// Drops the URL's schema with all that is in it.
///
/// # Errors
/// [`StoreError::Unavailable`]; [`StoreError::Broken`] when the role may not.
pub async fn drop_schema(url: &DatabaseUrl) -> Result<(), StoreError> {
    let mut connection = connect(url).await?;
    // The URL's reader let only plain names through.
    let statement = format!("DROP SCHEMA IF EXISTS \"{}\" CASCADE", url.schema());
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

async fn connect(url: &DatabaseUrl) -> Result<PgConnection, StoreError> {
    let place = url.place();
    let options = url.options(None);
    match tokio::time::timeout(CONNECT_PATIENCE, PgConnection::connect_with(&options)).await {
        Err(_) => Err(StoreError::Unavailable(format!("no connection to {place} within {CONNECT_PATIENCE:?}"))),
        Ok(Err(error)) => Err(match error.into() {
            StoreError::Unavailable(why) => StoreError::Unavailable(format!("{place}: {why}")),
            other => other,
        }),
        Ok(Ok(connection)) => Ok(connection),
    }
}

async fn lock(connection: &mut PgConnection, url: &DatabaseUrl) -> Result<(), StoreError> {
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    let name = format!("ostler migrates {}", url.schema());
    loop {
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended($1, 0))")
            .bind(&name)
            .fetch_one(&mut *connection)
            .await?;
        if taken {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let why = format!("another process has been migrating schema {} for {LOCK_PATIENCE:?}", url.schema());
            return Err(StoreError::Unavailable(why));
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

/// A schema that somebody made for us is used as it is: our role need not be allowed to make one.
async fn make_schema(connection: &mut PgConnection, schema: &str) -> Result<(), StoreError> {
    let there: bool =
        sqlx::query_scalar("SELECT to_regnamespace($1) IS NOT NULL").bind(schema).fetch_one(&mut *connection).await?;
    if !there {
        // The URL's reader let only plain names through.
        let statement = format!("CREATE SCHEMA \"{schema}\"");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    }
    Ok(())
}

/// A schema that the role has no right to is left out of `search_path` without a word.
async fn may_use(connection: &mut PgConnection, schema: &str) -> Result<(), StoreError> {
    let (current, role): (Option<String>, String) =
        sqlx::query_as("SELECT current_schema()::text, current_user::text").fetch_one(connection).await?;
    if current.as_deref() == Some(schema) {
        return Ok(());
    }
    Err(StoreError::Unfit(format!(
        "the role {role:?} has no right to use the schema {schema:?}: GRANT USAGE, CREATE ON SCHEMA \"{schema}\" TO \"{role}\""
    )))
}

async fn apply(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let migrator = &schema::POSTGRES;
    let found = found(connection).await?;
    if schema::fit(found, schema::newest(migrator))? == Fit::Usable {
        return Ok(0);
    }
    // What `run` does; its signature makes a future that is not Send.
    migrator.run_direct(None, connection, false).await?;
    let missing = migrator.iter().filter(|migration| migration.version > found.version).count();
    Ok(i64::try_from(missing).unwrap_or(i64::MAX))
}

async fn record(connection: &mut PgConnection, expected: Option<Uuid>, adopt: bool) -> Result<Uuid, StoreError> {
    let recorded = recorded(connection).await?;
    let id = schema::installation(recorded, expected, adopt)?;
    if recorded != Some(id) {
        sqlx::query("INSERT INTO installation (one, id) VALUES (true, $1) ON CONFLICT (one) DO UPDATE SET id = $1")
            .bind(id)
            .execute(connection)
            .await?;
    }
    Ok(id)
}

/// A look by a connection of its own.
pub async fn inspect(url: &DatabaseUrl) -> Result<DatabaseFacts, StoreError> {
    within(&url.place(), async {
        let mut connection = PgConnection::connect_with(&url.options(Some(PATIENCE))).await?;
        let found = found(&mut connection).await?;
        // The oldest transaction of anybody's that this user may see: it holds up the cleaning of all tables.
        let (encoding, micros, oldest_transaction, read_only): (String, i64, i64, bool) = sqlx::query_as(
            "SELECT current_setting('server_encoding'), (extract(epoch FROM clock_timestamp()) * 1000000)::int8,
                 coalesce((SELECT extract(epoch FROM max(now() - xact_start)) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()), 0)::int8,
                 pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(DatabaseFacts {
            schema: found.version,
            unfit: schema::usable(found, schema::newest(&schema::POSTGRES)).err(),
            encoding,
            now: Timestamp::from_microsecond(micros).unwrap_or_default(),
            oldest_transaction,
            read_only,
        })
    })
    .await
}
