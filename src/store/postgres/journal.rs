//! What happened, newest first.

use async_trait::async_trait;
use jiff::Timestamp;

use super::PostgresStore;
use super::text::text;
use crate::store::rows::{JournalRecord, journal_limit};
use crate::store::stamp::Stamp;
use crate::store::{Journal, JournalEntry, JournalFilter, StoreError};

#[async_trait]
impl Journal for PostgresStore {
    async fn append(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        let entry = sqlx::query(
            "INSERT INTO journal (at, kind, namespace, name, warning, reason, message) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(Stamp::from(entry.at))
        .bind(&entry.about.kind)
        .bind(&entry.about.namespace)
        .bind(&entry.about.name)
        .bind(entry.warning)
        .bind(text(&entry.reason))
        .bind(text(&entry.message));
        self.execute(entry).await?;
        Ok(())
    }

    async fn journal(&self, filter: &JournalFilter) -> Result<Vec<JournalEntry>, StoreError> {
        let entries = sqlx::query_as(
            "SELECT at, kind, namespace, name, warning, reason, message FROM journal
             WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR namespace = $2) AND ($3::text IS NULL OR name = $3)
                AND ($4::timestamptz IS NULL OR at >= $4)
             ORDER BY at DESC, id DESC LIMIT $5",
        )
        .bind(&filter.kind)
        .bind(&filter.namespace)
        .bind(&filter.name)
        .bind(filter.since.map(Stamp::from))
        .bind(journal_limit(filter.limit));
        let records: Vec<JournalRecord> = self.fetch(entries).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn prune_journal(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.execute(sqlx::query("DELETE FROM journal WHERE at < $1").bind(Stamp::from(before))).await
    }
}
