//! What happened, newest first.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::QueryBuilder;

use super::PostgresStore;
use crate::store::rows::{JournalRecord, journal_limit};
use crate::store::stamp::Stamp;
use crate::store::text::text;
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
        // Only what is asked for is in the statement, so that the planner sees which index fits.
        let mut query =
            QueryBuilder::new("SELECT at, kind, namespace, name, warning, reason, message FROM journal WHERE true");
        for (column, wanted) in
            [(" AND kind = ", &filter.kind), (" AND namespace = ", &filter.namespace), (" AND name = ", &filter.name)]
        {
            if let Some(wanted) = wanted {
                query.push(column).push_bind(wanted.clone());
            }
        }
        if let Some(since) = filter.since {
            query.push(" AND at >= ").push_bind(Stamp::from(since));
        }
        query.push(" ORDER BY at DESC, id DESC LIMIT ").push_bind(journal_limit(filter.limit));
        let records: Vec<JournalRecord> = self.fetch(query.build_query_as()).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn prune_journal(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.execute(sqlx::query("DELETE FROM journal WHERE at < $1").bind(Stamp::from(before))).await
    }
}
