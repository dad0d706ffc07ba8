//! What happened, newest first.

use async_trait::async_trait;
use jiff::Timestamp;

use super::SqliteStore;
use crate::store::rows::{JournalRecord, journal_limit};
use crate::store::stamp::Stamp;
use crate::store::text::text;
use crate::store::{Journal, JournalEntry, JournalFilter, StoreError};

#[async_trait]
impl Journal for SqliteStore {
    async fn append(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO journal (at, kind, namespace, name, warning, reason, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(Stamp::from(entry.at))
        .bind(&entry.about.kind)
        .bind(&entry.about.namespace)
        .bind(&entry.about.name)
        .bind(entry.warning)
        .bind(text(&entry.reason))
        .bind(text(&entry.message))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn journal(&self, filter: &JournalFilter) -> Result<Vec<JournalEntry>, StoreError> {
        let records: Vec<JournalRecord> = sqlx::query_as(
            "SELECT at, kind, namespace, name, warning, reason, message FROM journal
             WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR namespace = ?2) AND (?3 IS NULL OR name = ?3)
                AND (?4 IS NULL OR at >= ?4)
             ORDER BY at DESC, id DESC LIMIT ?5",
        )
        .bind(&filter.kind)
        .bind(&filter.namespace)
        .bind(&filter.name)
        .bind(filter.since.map(Stamp::from))
        .bind(journal_limit(filter.limit))
        .fetch_all(&self.reader)
        .await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn prune_journal(&self, before: Timestamp) -> Result<u64, StoreError> {
        let pruned = sqlx::query("DELETE FROM journal WHERE at < ?").bind(Stamp::from(before));
        Ok(pruned.execute(&self.writer).await?.rows_affected())
    }
}
