//! Causes and who was told of them, in both databases alike. The leader writes both in one transaction; what people say of a cause is
//! written beside it.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;
use sqlx::types::Json;

use super::changes::Topics;
use super::counted::{Counted, store_traits};
use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::stamp::Stamp;
use super::text::text;
use super::{Fence, StoreError};
use crate::causes::{Acknowledgment, Cause, Delivery, KnownCause};

/// Causes that are read at once: the latest.
const MOST_CAUSES: i64 = 2_000;
/// Deliveries that are read at once: the latest.
const MOST_DELIVERIES: i64 = 20_000;

store_traits! {
    /// What is wrong, and who knows.
    Causes {
        /// Causes that are open, and those that were resolved since then; the latest first.
        fn causes(resolved_since: Timestamp) -> Vec<KnownCause>;
        /// What Notifiers were told, and what is due; the latest causes first.
        fn deliveries() -> Vec<Delivery>;
        /// Inserts or replaces all of it, or nothing. A cause that is resolved is in nobody's hands any more.
        fn put_causes(fence: &Fence, causes: &[Cause], deliveries: &[Delivery]) -> ();
        /// Says that somebody has taken an open cause into their hands. False: there is none.
        fn acknowledge_cause(key: &str, by: &Acknowledgment) -> bool;
        /// Forgets causes that were resolved before a time, with their deliveries; returns how many causes.
        fn prune_causes(fence: &Fence, before: Timestamp) -> u64;
    }
}

#[derive(FromRow)]
struct CauseRecord {
    document: serde_json::Value,
    acknowledged_by: Option<String>,
    acknowledged_until: Option<Stamp>,
}

impl CauseRecord {
    /// `None`: another release wrote what this one can't read.
    fn known(self) -> Option<KnownCause> {
        let cause: Cause = serde_json::from_value(self.document).ok()?;
        let acknowledged = self.acknowledged_by.zip(self.acknowledged_until);
        let acknowledged = acknowledged.map(|(by, until)| Acknowledgment { by, until: until.into() });
        Some(KnownCause { cause, acknowledged })
    }
}

macro_rules! causes {
    ($store:ty) => {
        #[async_trait]
        impl Causes for $store {
            async fn causes(&self, resolved_since: Timestamp) -> Result<Vec<KnownCause>, StoreError> {
                let causes = sqlx::query_as(
                    "SELECT document, acknowledged_by, acknowledged_until FROM causes
                     WHERE resolved_at IS NULL OR resolved_at >= $1 ORDER BY opened_at DESC, key LIMIT $2",
                );
                let records: Vec<CauseRecord> =
                    self.fetch(causes.bind(Stamp::from(resolved_since)).bind(MOST_CAUSES)).await?;
                Ok(records.into_iter().filter_map(CauseRecord::known).collect())
            }

            async fn deliveries(&self) -> Result<Vec<Delivery>, StoreError> {
                let deliveries =
                    sqlx::query_as("SELECT document FROM deliveries ORDER BY opened_at DESC, uid, cause LIMIT $1");
                let records: Vec<(serde_json::Value,)> = self.fetch(deliveries.bind(MOST_DELIVERIES)).await?;
                Ok(records.into_iter().filter_map(|(document,)| serde_json::from_value(document).ok()).collect())
            }

            async fn put_causes(
                &self,
                fence: &Fence,
                causes: &[Cause],
                deliveries: &[Delivery],
            ) -> Result<(), StoreError> {
                let mut all = Vec::with_capacity(causes.len() + deliveries.len());
                for cause in causes {
                    let put = sqlx::query(
                        "INSERT INTO causes (key, opened_at, resolved_at, document) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (key, opened_at) DO UPDATE SET resolved_at = $3, document = $4,
                            acknowledged_by = CASE WHEN $3 IS NULL THEN causes.acknowledged_by END,
                            acknowledged_until = CASE WHEN $3 IS NULL THEN causes.acknowledged_until END",
                    );
                    let put = put.bind(text(&cause.key)).bind(Stamp::from(cause.opened_at));
                    all.push(put.bind(cause.resolved_at.map(Stamp::from)).bind(Json(cause)));
                }
                for delivery in deliveries {
                    let put = sqlx::query(
                        "INSERT INTO deliveries (uid, cause, opened_at, document) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (uid, cause, opened_at) DO UPDATE SET document = $4",
                    );
                    let put = put.bind(&delivery.uid).bind(text(&delivery.cause));
                    all.push(put.bind(Stamp::from(delivery.opened_at)).bind(Json(delivery)));
                }
                self.execute_all_fenced(fence, all).await
            }

            async fn acknowledge_cause(&self, key: &str, by: &Acknowledgment) -> Result<bool, StoreError> {
                let acknowledge = sqlx::query(
                    "UPDATE causes SET acknowledged_by = $2, acknowledged_until = $3 WHERE key = $1 AND resolved_at IS NULL",
                );
                let acknowledge = acknowledge.bind(key).bind(text(&by.by)).bind(Stamp::from(by.until));
                let changed = self.execute(acknowledge).await? > 0;
                self.changed(Topics::WISHES);
                Ok(changed)
            }

            async fn prune_causes(&self, fence: &Fence, before: Timestamp) -> Result<u64, StoreError> {
                let old = sqlx::query_as("SELECT count(*) FROM causes WHERE resolved_at < $1");
                let old: Vec<(i64,)> = self.fetch(old.bind(Stamp::from(before))).await?;
                let count = old.first().map_or(0, |(count,)| *count);
                if count > 0 {
                    let at = Stamp::from(before);
                    let deliveries = "DELETE FROM deliveries WHERE EXISTS (SELECT 1 FROM causes WHERE causes.key = deliveries.cause
                        AND causes.opened_at = deliveries.opened_at AND causes.resolved_at < $1)";
                    let gone = [deliveries, "DELETE FROM causes WHERE resolved_at < $1"];
                    let gone = gone.into_iter().map(|statement| sqlx::query(statement).bind(at));
                    self.execute_all_fenced(fence, gone.collect()).await?;
                }
                Ok(u64::try_from(count).unwrap_or_default())
            }
        }
    };
}

causes!(PostgresStore);
causes!(SqliteStore);
