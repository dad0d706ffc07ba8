//! A look at a PostgreSQL database, by one connection of its own.

use jiff::Timestamp;
use sqlx::{Connection, PgConnection};

use super::{DatabaseUrl, PATIENCE, migrate, within};
use crate::store::{StoreError, inspect::DatabaseFacts, schema};

pub async fn inspect(url: &DatabaseUrl) -> Result<DatabaseFacts, StoreError> {
    within(&url.place(), async {
        let mut connection = PgConnection::connect_with(&url.options(Some(PATIENCE))).await?;
        let found = migrate::found(&mut connection).await?;
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
