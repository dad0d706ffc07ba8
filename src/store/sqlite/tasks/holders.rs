//! Holders of slots and leases, and what is left of those that died.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::types::Json;

use super::reaping;
use crate::store::changes::Topics;
use crate::store::holders::FORGOTTEN;
use crate::store::sqlite::{FolderAccess, SqliteStore};
use crate::store::stamp::Stamp;
use crate::store::{Fence, HolderRow, Holders, ProcessIdentity, Reaped, StoreError};

#[derive(FromRow)]
struct Record {
    holder: String,
    process: Json<ProcessIdentity>,
    locked_folder: bool,
    slots: i64,
    leases: i64,
    renews: bool,
    reported_at: Option<Stamp>,
}

#[async_trait]
impl Holders for SqliteStore {
    async fn register_holder(&self, holder: &str, process: &ProcessIdentity) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let now = self.now();
        sqlx::query(
            "DELETE FROM holders WHERE registered_at < ? AND holder NOT IN (SELECT holder FROM slots)
             AND holder NOT IN (SELECT CASE instr(holder, '+') WHEN 0 THEN holder ELSE substr(holder, 1, instr(holder, '+') - 1) END FROM leases)",
        )
        .bind(now.before(FORGOTTEN))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO holders (holder, process, locked_folder, registered_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (holder) DO UPDATE SET process = ?2, locked_folder = ?3, registered_at = ?4",
        )
        .bind(holder)
        .bind(Json(process))
        .bind(self.hold == FolderAccess::Lock)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    async fn busy_holders(&self) -> Result<Vec<HolderRow>, StoreError> {
        let now = self.now();
        // A lease may be a doubted one's successor: `HOLDER+1`.
        let busy: Vec<Record> = sqlx::query_as(
            "SELECT h.holder, h.process, h.locked_folder, held.slots, held.leases, held.renews, w.reported_at
             FROM (
                SELECT holder, sum(slot) AS slots, sum(1 - slot) AS leases, max(renewed) AS renews
                FROM (
                    SELECT holder, 1 AS slot, lease_expires_at > ?1 AS renewed FROM slots
                    WHERE frees_at IS NULL AND max(lease_expires_at, call_ends_at) > ?1
                    UNION ALL
                    SELECT CASE instr(holder, '+') WHEN 0 THEN holder ELSE substr(holder, 1, instr(holder, '+') - 1) END, 0, 0
                    FROM leases
                ) GROUP BY holder
             ) AS held JOIN holders AS h ON h.holder = held.holder LEFT JOIN workers AS w ON w.holder = h.holder
             ORDER BY h.holder",
        )
        .bind(now)
        .fetch_all(&mut *self.reader.acquire().await?)
        .await?;
        Ok(busy.into_iter().map(|record| self.holder_row(record, now)).collect())
    }

    async fn free_holder_slots(&self, holder: &str, linger: Duration) -> Result<u64, StoreError> {
        let now = self.now();
        let freed = sqlx::query(
            "UPDATE slots SET lease_expires_at = min(lease_expires_at, ?3), frees_at = iif(outlives_client, NULL, ?2)
             WHERE holder = ?1 AND frees_at IS NULL AND max(lease_expires_at, call_ends_at) > ?3
             AND NOT (outlives_client AND lease_expires_at <= ?3)",
        )
        .bind(holder)
        .bind(now.after(linger))
        .bind(now)
        .execute(&self.writer)
        .await?;
        Ok(freed.rows_affected())
    }

    async fn free_holder_tasks(&self, holder: &str) -> Result<Reaped, StoreError> {
        let mut all = Reaped::default();
        loop {
            let mut tx = self.write().await?;
            let (reaped, more) = reaping::reap_holder(&mut tx, holder, self.now()).await?;
            self.commit(tx, Topics::TASKS).await?;
            all += reaped;
            if !more {
                return Ok(all);
            }
        }
    }

    async fn free_lapsed_slots(&self, fence: &Fence, server_url: &str, linger: Duration) -> Result<u64, StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        let now = self.now();
        let freed = sqlx::query(
            "UPDATE slots SET frees_at = ?2 WHERE server_url = ?1 AND frees_at IS NULL AND call_ends_at > ?3
             AND NOT EXISTS (SELECT 1 FROM slots AS s
                WHERE s.server_url = ?1 AND s.frees_at IS NULL AND s.lease_expires_at > ?3)",
        )
        .bind(server_url)
        .bind(now.after(linger))
        .bind(now)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(freed.rows_affected())
    }
}

impl SqliteStore {
    fn holder_row(&self, record: Record, now: Stamp) -> HolderRow {
        let Record { holder, process: Json(process), locked_folder, slots, leases, renews, reported_at } = record;
        let is_predecessor = locked_folder && self.hold == FolderAccess::Lock && !process.is(ProcessIdentity::own());
        let reported_ago = self.memory.reported_ago(&holder, now).or_else(|| reported_at.map(|at| at.until(now)));
        HolderRow { holder, process, is_predecessor, slots, leases, renews, reported_ago }
    }
}
