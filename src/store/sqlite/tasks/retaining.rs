//! Old things go: ended tasks that are past their time, and what nobody asks for any more.

use std::time::Duration;

use super::SqliteStore;
use crate::store::stamp::Stamp;
use crate::store::{Fence, Retention, StoreError};

/// Tasks that one transaction deletes: the database is locked meanwhile.
const BATCH: u64 = 1_000;
/// Batches that one call deletes of one queue and state.
const BATCHES: u64 = 20;
/// A worker that has not reported for so long is forgotten.
const WORKER_KEPT: Duration = Duration::from_secs(3_600);
/// All but the last run of a schedule are forgotten after that.
const RUN_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

impl SqliteStore {
    pub(super) async fn drop_old(&self, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for Retention { queue, completed, failed } in retention {
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
        self.commit_tasks(tx).await?;
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
        if workers.rows_affected() + runs.rows_affected() > 0 {
            tx.commit().await?;
        }
        Ok(())
    }
}
