//! Ends of tasks that somebody is still to be told of, in both databases alike. They are written by a trigger, with the end itself.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::FromRow;

use super::counted::{Counted, store_traits};
use super::postgres::PostgresStore;
use super::sqlite::SqliteStore;
use super::stamp::Stamp;
use super::{Fence, StoreError};
use crate::tasks::{QueueKey, TaskId, TaskState};

/// Those that are forgotten at once.
pub const MOST_EXPIRED: i64 = 5_000;

/// The end of a task, as its queue's `onFinished` is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Rises in the order of the ends of one task.
    pub id: i64,
    pub task: TaskId,
    pub key: Option<String>,
    pub state: TaskState,
    pub reason: Option<String>,
    pub cycle: i32,
    pub ended_at: Timestamp,
    /// Those that failed.
    pub attempts: i32,
}

store_traits! {
    /// Ends of tasks that somebody is still to be told of.
    Callbacks {
        /// Those of a queue that are due, the longest first; of each task the first one alone.
        fn due_callbacks(queue: &QueueKey, now: Timestamp, most: i64) -> Vec<Callback>;
        /// Forgets those that were told; the others failed once more, and are due again at a time.
        fn settle_callbacks(fence: &Fence, told: &[i64], failed: &[(i64, Timestamp)]) -> ();
        /// Forgets those of tasks that ended before a time, the oldest [`MOST_EXPIRED`]; returns how many, by queue.
        fn expire_callbacks(fence: &Fence, before: Timestamp) -> Vec<(QueueKey, i64)>;
    }
}

#[derive(FromRow)]
struct CallbackRecord {
    id: i64,
    task: i64,
    key: Option<String>,
    state: String,
    reason: Option<String>,
    cycle: i32,
    ended_at: Stamp,
    attempts: i32,
}

impl CallbackRecord {
    fn callback(self) -> Result<Callback, StoreError> {
        let Self { id, task, key, state, reason, cycle, ended_at, attempts } = self;
        let state = TaskState::parse(&state)
            .ok_or_else(|| StoreError::Broken(format!("task {task} ended in the unknown state {state:?}")))?;
        Ok(Callback { id, task, key, state, reason, cycle, ended_at: ended_at.into(), attempts })
    }
}

macro_rules! callbacks {
    ($store:ty) => {
        #[async_trait]
        impl Callbacks for $store {
            async fn due_callbacks(
                &self,
                queue: &QueueKey,
                now: Timestamp,
                most: i64,
            ) -> Result<Vec<Callback>, StoreError> {
                let due = sqlx::query_as(
                    "SELECT id, task, key, state, reason, cycle, ended_at, attempts FROM callbacks AS c
                     WHERE namespace = $1 AND queue = $2 AND due_at <= $3
                        AND NOT EXISTS (SELECT 1 FROM callbacks AS e WHERE e.task = c.task AND e.id < c.id)
                     ORDER BY due_at, id LIMIT $4",
                );
                let due = due.bind(&queue.namespace).bind(&queue.name).bind(Stamp::from(now)).bind(most);
                let records: Vec<CallbackRecord> = self.fetch(due).await?;
                records.into_iter().map(CallbackRecord::callback).collect()
            }

            async fn settle_callbacks(
                &self,
                fence: &Fence,
                told: &[i64],
                failed: &[(i64, Timestamp)],
            ) -> Result<(), StoreError> {
                let gone = told.iter().map(|id| sqlx::query("DELETE FROM callbacks WHERE id = $1").bind(id));
                let again = failed.iter().map(|(id, at)| {
                    sqlx::query("UPDATE callbacks SET attempts = attempts + 1, due_at = $2 WHERE id = $1")
                        .bind(id)
                        .bind(Stamp::from(*at))
                });
                self.execute_all_fenced(fence, gone.chain(again).collect()).await
            }

            async fn expire_callbacks(
                &self,
                fence: &Fence,
                before: Timestamp,
            ) -> Result<Vec<(QueueKey, i64)>, StoreError> {
                let old = sqlx::query_as(
                    "SELECT namespace, queue, count(*) FROM (
                        SELECT namespace, queue FROM callbacks WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2) AS old
                     GROUP BY namespace, queue",
                );
                let old: Vec<(String, String, i64)> =
                    self.fetch(old.bind(Stamp::from(before)).bind(MOST_EXPIRED)).await?;
                if !old.is_empty() {
                    let gone = sqlx::query(
                        "DELETE FROM callbacks WHERE id IN (
                            SELECT id FROM callbacks WHERE ended_at < $1 ORDER BY ended_at, id LIMIT $2)",
                    );
                    let gone = gone.bind(Stamp::from(before)).bind(MOST_EXPIRED);
                    self.execute_all_fenced(fence, vec![gone]).await?;
                }
                Ok(old.into_iter().map(|(namespace, name, count)| (QueueKey { namespace, name }, count)).collect())
            }
        }
    };
}

callbacks!(PostgresStore);
callbacks!(SqliteStore);
