//! Backends, their observations and their recovery documents.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::store::changes::Topics;
use crate::store::rows::{BackendRecord, in_microseconds};
use crate::store::stamp::Stamp;
use crate::store::text::{json_text, text};
use crate::store::{BackendRow, Fence, GONE_KEPT, Observation, Projections, StoreError};

const LIVING: &str =
    "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
    ready_since FROM backends WHERE gone_at IS NULL ORDER BY namespace, name, uid";

#[async_trait]
impl Projections for SqliteStore {
    async fn project_backend(&self, fence: &Fence, row: &BackendRow) -> Result<(), StoreError> {
        let before: Option<BackendRecord> = sqlx::query_as(
            "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                ready_since FROM backends WHERE uid = ? AND gone_at IS NULL",
        )
        .bind(&row.uid)
        .fetch_optional(&self.reader)
        .await?;
        if before.map(BackendRow::from).is_some_and(|before| before == in_microseconds(row)) {
            return Ok(());
        }
        let mut tx = self.write_fenced(fence).await?;
        sqlx::query(
            "INSERT INTO backends (uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason,
                ready, ready_since, gone_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, NULL)
             ON CONFLICT (uid) DO UPDATE SET namespace = ?2, name = ?3, generation = ?4, engine = ?5, url = ?6,
                server_url = ?7, priority = ?8, spec = ?9, state = ?10, reason = ?11, ready = ?12, ready_since = ?13,
                gone_at = NULL",
        )
        .bind(&row.uid)
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(row.generation)
        .bind(&row.engine)
        .bind(&row.url)
        .bind(&row.server_url)
        .bind(row.priority)
        .bind(json_text(&row.spec))
        .bind(&row.state)
        .bind(text(&row.reason))
        .bind(row.ready)
        .bind(row.ready_since.map(Stamp::from))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.waker.changed(Topics::WORLD);
        Ok(())
    }

    async fn sweep_backends(&self, fence: &Fence, complete: &[String]) -> Result<Vec<BackendRow>, StoreError> {
        let complete: HashSet<&str> = complete.iter().map(String::as_str).collect();
        let purge_before = self.now().before(GONE_KEPT);
        let mut missing = self.backends().await?;
        missing.retain(|row| !complete.contains(row.uid.as_str()));
        let stale: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM backends WHERE gone_at < ?)")
            .bind(purge_before)
            .fetch_one(&self.reader)
            .await?;
        if missing.is_empty() && !stale {
            return Ok(missing);
        }
        let mut tx = self.write_fenced(fence).await?;
        for row in &missing {
            mark_gone(&mut tx, row, self.now()).await?;
        }
        purge(&mut tx, purge_before, self.now()).await?;
        tx.commit().await?;
        self.memory.forget_observations(&missing.iter().map(|row| row.uid.clone()).collect::<Vec<_>>());
        self.waker.changed(Topics::WORLD);
        Ok(missing)
    }

    async fn backends(&self) -> Result<Vec<BackendRow>, StoreError> {
        let records: Vec<BackendRecord> = sqlx::query_as(LIVING).fetch_all(&self.reader).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn record_observations(&self, fence: &Fence, seen: &[(String, Observation)]) -> Result<(), StoreError> {
        // Dropped without a change: only the fence is checked.
        self.write_fenced(fence).await?;
        self.memory.observe(seen);
        Ok(())
    }

    async fn observations(&self) -> Result<Vec<(String, Observation)>, StoreError> {
        Ok(self.memory.observations())
    }
}

/// A gone backend gives no new slots, unless another one is declared for the same server.
async fn mark_gone(tx: &mut SqliteConnection, row: &BackendRow, now: Stamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE backends SET gone_at = ? WHERE uid = ? AND gone_at IS NULL")
        .bind(now)
        .bind(&row.uid)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE servers SET admission = 'Closed' WHERE url = ?1
         AND NOT EXISTS (SELECT 1 FROM backends WHERE server_url = ?1 AND gone_at IS NULL)",
    )
    .bind(&row.server_url)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Rows go when nothing refers to them: backends that are gone for long, with what is known about them, and servers that
/// nobody declares any more and that no call can be running on.
async fn purge(tx: &mut SqliteConnection, before: Stamp, now: Stamp) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM servers WHERE url IN (SELECT server_url FROM backends WHERE gone_at < ?1)
         AND NOT EXISTS (SELECT 1 FROM backends WHERE server_url = servers.url AND (gone_at IS NULL OR gone_at >= ?1))
         AND NOT EXISTS (SELECT 1 FROM slots WHERE server_url = servers.url
            AND max(coalesce(frees_at, lease_expires_at), call_ends_at) > ?2)",
        "DELETE FROM recoveries WHERE uid IN (SELECT uid FROM backends WHERE gone_at < ?1) AND ?2 > 0",
        "DELETE FROM backends WHERE gone_at < ?1 AND ?2 > 0",
    ] {
        sqlx::query(statement).bind(before).bind(now).execute(&mut *tx).await?;
    }
    Ok(())
}
