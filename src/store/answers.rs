//! Answers that are given again to the same request of the same owner: a Caller of the gateway, or a queue. In both databases alike.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::FromRow;

use super::counted::{Counted, store_traits};
use super::{StoreError, postgres::PostgresStore, sqlite::SqliteStore};

/// Whose answer it is, and to which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerKey {
    /// Never anybody else's: `caller team/editor`, `queue team/night`.
    pub owner: String,
    /// A hash of everything that an answer depends on.
    pub request: [u8; 32],
}

/// An answer as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    pub content_type: String,
    pub body: Vec<u8>,
    pub age: Duration,
}

store_traits! {
    /// Kept answers.
    Answers {
        /// The answer to a request, where one is kept and not too old.
        fn kept_answer(key: &AnswerKey) -> Option<KeptAnswer>;
        /// Keeps an answer `lasting` so long, and of this owner the newest ones that are `most_bytes` together. Forgets what lapsed, of all.
        fn keep_answer(key: &AnswerKey, content_type: &str, body: &[u8], lasting: Duration, most_bytes: i64) -> ();
    }
}

#[derive(FromRow)]
struct AnswerRecord {
    content_type: String,
    body: Vec<u8>,
    age_millis: i64,
}

impl From<AnswerRecord> for KeptAnswer {
    fn from(AnswerRecord { content_type, body, age_millis }: AnswerRecord) -> Self {
        Self { content_type, body, age: Duration::from_millis(age_millis.max(0).unsigned_abs()) }
    }
}

/// `$now` is the database's time as its tables keep it, `$age` that of an answer in milliseconds, `$lapses` when what lasts `$6` seconds lapses.
macro_rules! answers {
    ($store:ty, $now:literal, $age:literal, $lapses:literal) => {
        #[async_trait]
        impl Answers for $store {
            async fn kept_answer(&self, key: &AnswerKey) -> Result<Option<KeptAnswer>, StoreError> {
                let statement = concat!(
                    "SELECT content_type, body, ",
                    $age,
                    " AS age_millis FROM kept_answers WHERE owner = $1 AND request = $2 AND lapses_at > ",
                    $now
                );
                let kept = sqlx::query_as(statement).bind(&key.owner).bind(key.request.as_slice());
                let records: Vec<AnswerRecord> = self.fetch(kept).await?;
                Ok(records.into_iter().next().map(KeptAnswer::from))
            }

            async fn keep_answer(
                &self,
                key: &AnswerKey,
                content_type: &str,
                body: &[u8],
                lasting: Duration,
                most_bytes: i64,
            ) -> Result<(), StoreError> {
                let forget = sqlx::query(concat!("DELETE FROM kept_answers WHERE lapses_at <= ", $now));
                let keep = sqlx::query(concat!(
                    "INSERT INTO kept_answers (owner, request, content_type, body, bytes, kept_at, lapses_at)
                     VALUES ($1, $2, $3, $4, $5, ",
                    $now,
                    ", ",
                    $lapses,
                    ") ON CONFLICT (owner, request) DO UPDATE SET content_type = excluded.content_type, body = excluded.body,
                        bytes = excluded.bytes, kept_at = excluded.kept_at, lapses_at = excluded.lapses_at"
                ))
                .bind(&key.owner)
                .bind(key.request.as_slice())
                .bind(content_type)
                .bind(body)
                .bind(i64::try_from(body.len()).unwrap_or(i64::MAX))
                .bind(i64::try_from(lasting.as_secs()).unwrap_or(i64::MAX));
                let shrink = sqlx::query(
                    "DELETE FROM kept_answers WHERE owner = $1 AND request IN (
                        SELECT request FROM (
                            SELECT request, sum(bytes) OVER (ORDER BY kept_at DESC, request) AS bytes_with_newer
                            FROM kept_answers WHERE owner = $1
                        ) AS sized WHERE bytes_with_newer > $2)",
                )
                .bind(&key.owner)
                .bind(most_bytes);
                self.execute_all(vec![forget, keep, shrink]).await
            }
        }
    };
}

answers!(
    PostgresStore,
    "clock_timestamp()",
    "(extract(epoch FROM clock_timestamp() - kept_at) * 1000)::bigint",
    "clock_timestamp() + $6 * interval '1 second'"
);
answers!(
    SqliteStore,
    "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)",
    "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) / 1000 - kept_at / 1000",
    "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER) + $6 * 1000000"
);
