//! Holders of slots and leases, and what is left of those that died.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;

use super::{over, reaping};
use crate::store::holders::FORGOTTEN;
use crate::store::postgres::PostgresStore;
use crate::store::postgres::slots::lock_server;
use crate::store::{Fence, HolderRow, Holders, ProcessIdentity, Reaped, StoreError};

#[derive(FromRow)]
struct Record {
    holder: String,
    process: Json<ProcessIdentity>,
    slots: i64,
    leases: i64,
    renews: bool,
    reported_micros: Option<i64>,
}

impl From<Record> for HolderRow {
    fn from(record: Record) -> Self {
        let Record { holder, process: Json(process), slots, leases, renews, reported_micros } = record;
        let reported_ago = reported_micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
        // A database without a data folder.
        Self { holder, process, is_predecessor: false, slots, leases, renews, reported_ago }
    }
}

#[async_trait]
impl Holders for PostgresStore {
    async fn register_holder(&self, holder: &str, process: &ProcessIdentity) -> Result<(), StoreError> {
        let register = async |connection: &mut PgConnection| register(connection, holder, process).await;
        self.within(async { over(self.write().await?, register).await }).await
    }

    async fn busy_holders(&self) -> Result<Vec<HolderRow>, StoreError> {
        // A lease may be a doubted one's successor: `HOLDER+1`.
        let busy = sqlx::query_as(
            "SELECT h.holder, h.process, held.slots, held.leases, held.renews,
                (extract(epoch FROM clock_timestamp() - w.reported_at) * 1000000)::bigint AS reported_micros
             FROM (
                SELECT holder, count(*) FILTER (WHERE slot) AS slots, count(*) FILTER (WHERE NOT slot) AS leases,
                    coalesce(bool_or(renewed), false) AS renews
                FROM (
                    SELECT holder, true AS slot, lease_expires_at > clock_timestamp() AS renewed FROM slots
                    WHERE frees_at IS NULL AND greatest(lease_expires_at, call_ends_at) > clock_timestamp()
                    UNION ALL SELECT split_part(holder, '+', 1), false, NULL FROM leases
                ) AS one GROUP BY holder
             ) AS held JOIN holders AS h USING (holder) LEFT JOIN workers AS w USING (holder) ORDER BY h.holder",
        );
        let busy: Vec<Record> = self.fetch(busy).await?;
        Ok(busy.into_iter().map(HolderRow::from).collect())
    }

    async fn free_holder_slots(&self, holder: &str, linger: Duration) -> Result<u64, StoreError> {
        let free = sqlx::query(
            "UPDATE slots SET lease_expires_at = least(lease_expires_at, clock_timestamp()),
                frees_at = CASE WHEN NOT outlives_client THEN clock_timestamp() + $2 * interval '1 microsecond' END
             WHERE holder = $1 AND frees_at IS NULL AND greatest(lease_expires_at, call_ends_at) > clock_timestamp()
             AND NOT (outlives_client AND lease_expires_at <= clock_timestamp())",
        )
        .bind(holder)
        .bind(micros(linger));
        self.execute(free).await
    }

    async fn free_holder_tasks(&self, holder: &str) -> Result<Reaped, StoreError> {
        let mut all = Reaped::default();
        loop {
            let whose = reaping::Whose::Holder(holder);
            let batch = self.work.reaped.run(async |rows| transaction!(self, reaping::reap(whose, rows)));
            let (reaped, more) = batch.await?;
            self.note_reaped(&mut all, reaped);
            if !more {
                return Ok(all);
            }
        }
    }

    async fn free_lapsed_slots(&self, fence: &Fence, server_url: &str, linger: Duration) -> Result<u64, StoreError> {
        let free = async |connection: &mut PgConnection| free_lapsed(connection, server_url, linger).await;
        self.within(async { over(self.write_fenced(fence).await?, free).await }).await
    }
}

async fn register(connection: &mut PgConnection, holder: &str, process: &ProcessIdentity) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM holders AS h WHERE registered_at < clock_timestamp() - $1 * interval '1 microsecond'
         AND NOT EXISTS (SELECT FROM slots AS s WHERE s.holder = h.holder)
         AND NOT EXISTS (SELECT FROM leases AS l WHERE split_part(l.holder, '+', 1) = h.holder)",
    )
    .bind(micros(FORGOTTEN))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO holders (holder, process, registered_at) VALUES ($1, $2, clock_timestamp())
         ON CONFLICT (holder) DO UPDATE SET process = excluded.process, registered_at = excluded.registered_at",
    )
    .bind(holder)
    .bind(Json(process))
    .execute(connection)
    .await?;
    Ok(())
}

async fn free_lapsed(connection: &mut PgConnection, server_url: &str, linger: Duration) -> Result<u64, StoreError> {
    lock_server(connection, server_url).await?;
    let freed = sqlx::query(
        "UPDATE slots SET frees_at = clock_timestamp() + $2 * interval '1 microsecond'
         WHERE server_url = $1 AND frees_at IS NULL AND call_ends_at > clock_timestamp()
         AND NOT EXISTS (SELECT FROM slots AS s
            WHERE s.server_url = $1 AND s.frees_at IS NULL AND s.lease_expires_at > clock_timestamp())",
    )
    .bind(server_url)
    .bind(micros(linger))
    .execute(connection)
    .await?;
    Ok(freed.rows_affected())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
