//! Old things go: ended tasks that are past their time, and what nobody asks for any more.

use std::time::Duration;

use super::SqliteStore;
use crate::store::counts::COUNTED;
use crate::store::stamp::Stamp;
use crate::store::{Fence, Retention, StoreError};
use crate::tasks::QueueKey;

/// Tasks that one transaction deletes: the database is locked meanwhile.
const BATCH: u64 = 1_000;
/// Batches that one call deletes of one queue and state.
const BATCHES: u64 = 20;
/// A worker that has not reported for so long is forgotten.
pub(super) const WORKER_KEPT: Duration = Duration::from_secs(3_600);
/// All but the last run of a schedule are forgotten after that.
const RUN_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

impl SqliteStore {
    pub(super) async fn drop_old(&self, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for (queue, Retention { queue: _, completed, failed }) in self.of_queues(retention).await? {
            for (state, kept) in [("completed", completed), ("failed", failed), ("cancelled", failed)] {
                let before = self.now().before(*kept);
                for _ in 0..BATCHES {
                    let batch = self.drop_batch(fence, &queue.namespace, &queue.name, state, before).await?;
                    dropped += batch;
                    if batch < BATCH {
                        break;
                    }
                }
            }
        }
        self.forget(fence).await?;
        Ok(dropped)
    }

    /// How long the tasks of each queue that has ended ones are kept, where anybody said so.
    async fn of_queues<'a>(&self, retention: &'a [Retention]) -> Result<Vec<(QueueKey, &'a Retention)>, StoreError> {
        let named = |queue: &QueueKey| retention.iter().find(|one| one.queue.as_ref() == Some(queue));
        let others = retention.iter().find(|one| one.queue.is_none());
        let mut found = Vec::new();
        let mut last = (String::new(), String::new());
        // From queue to queue in the index, however many tasks each has.
        loop {
            let next: Option<(String, String)> = sqlx::query_as(
                "SELECT namespace, queue FROM finished_tasks WHERE (namespace, queue) > (?, ?) ORDER BY namespace, queue LIMIT 1",
            )
            .bind(&last.0)
            .bind(&last.1)
            .fetch_optional(&self.reader)
            .await?;
            let Some(next) = next else { return Ok(found) };
            last.clone_from(&next);
            let queue = QueueKey { namespace: next.0, name: next.1 };
            let kept = named(&queue).or(others);
            found.extend(kept.map(|kept| (queue, kept)));
        }
    }

    async fn drop_batch(
        &self,
        fence: &Fence,
        namespace: &str,
        queue: &str,
        state: &str,
        before: Stamp,
    ) -> Result<u64, StoreError> {
        let any: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM finished_tasks WHERE namespace = ?1 AND queue = ?2 AND state = ?3 AND state_since < ?4)",
        )
        .bind(namespace)
        .bind(queue)
        .bind(state)
        .bind(before)
        .fetch_one(&self.reader)
        .await?;
        if !any {
            return Ok(0);
        }
        let mut tx = self.write_fenced(fence).await?;
        let mut dropped = 0;
        for statement in [
            "DELETE FROM task_keys WHERE namespace = ?1 AND queue = ?2 AND key IN (SELECT key FROM finished_tasks
                WHERE namespace = ?1 AND queue = ?2 AND state = ?3 AND state_since < ?4 ORDER BY state_since, id LIMIT ?5)",
            "DELETE FROM finished_tasks WHERE id IN (SELECT id FROM finished_tasks
                WHERE namespace = ?1 AND queue = ?2 AND state = ?3 AND state_since < ?4 ORDER BY state_since, id LIMIT ?5)",
        ] {
            let deleted = sqlx::query(statement)
                .bind(namespace)
                .bind(queue)
                .bind(state)
                .bind(before)
                .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
                .execute(&mut *tx)
                .await?;
            dropped = deleted.rows_affected();
        }
        tx.commit().await?;
        Ok(dropped)
    }

    async fn forget(&self, fence: &Fence) -> Result<(), StoreError> {
        let now = self.now();
        let mut tx = self.write_fenced(fence).await?;
        let workers = sqlx::query("DELETE FROM workers WHERE reported_at < ?")
            .bind(now.before(WORKER_KEPT))
            .execute(&mut *tx)
            .await?;
        let runs = sqlx::query(
            "DELETE FROM schedule_runs WHERE run_at < ?1
             AND run_at < (SELECT max(run_at) FROM schedule_runs AS later WHERE later.schedule = schedule_runs.schedule)",
        )
        .bind(now.before(RUN_KEPT))
        .execute(&mut *tx)
        .await?;
        // Ended tasks are counted for a day.
        let counts =
            sqlx::query("DELETE FROM task_counts WHERE count = 0 AND ended_at = 0 OR ended_at > 0 AND ended_at < ?")
                .bind(now.before(2 * Duration::from_micros(COUNTED.unsigned_abs())))
                .execute(&mut *tx)
                .await?;
        if workers.rows_affected() + runs.rows_affected() + counts.rows_affected() > 0 {
            tx.commit().await?;
        }
        Ok(())
    }
}
