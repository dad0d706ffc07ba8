//! Tasks that are not due yet stand apart from those that are, so that no claim goes over them: their rank is [`SCHEDULED`] and their
//! time. When that has come they are moved among the others, by whoever looks for work.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::store::stamp::Stamp;
use crate::store::words::SCHEDULED;
use crate::store::{Due, StoreError};
use crate::tasks::QueueKey;

/// Tasks that one transaction moves: the database is locked meanwhile.
const BATCH: i64 = 1_000;

/// Moves what is due, as far as one transaction may; returns how many.
pub(super) async fn move_due(tx: &mut SqliteConnection, now: Stamp) -> Result<u64, StoreError> {
    let moved = sqlx::query(
        "UPDATE tasks SET rank = max(state_since, run_after) / 1000 - priority * 600000 WHERE id IN (
            SELECT id FROM tasks WHERE state = 'pending' AND rank >= 4611686018427387904 AND rank <= ?1 AND run_after <= ?2
            ORDER BY rank LIMIT ?3)",
    );
    let moved = moved.bind(SCHEDULED + now.millis()).bind(now).bind(BATCH).execute(tx).await?;
    Ok(moved.rows_affected())
}

impl SqliteStore {
    pub(super) async fn look_for_due(&self, queues: &[QueueKey]) -> Result<Due, StoreError> {
        let mut next = self.next_scheduled().await?;
        while next.is_some_and(|at| at <= self.now().millis()) {
            let mut tx = self.write().await?;
            let moved = move_due(&mut tx, self.now()).await?;
            tx.commit().await?;
            next = self.next_scheduled().await?;
            if moved == 0 {
                break;
            }
        }
        let next = next.map(|at| Duration::from_millis(u64::try_from(at + 1 - self.now().millis()).unwrap_or(1)));
        let mut connection = self.reader.acquire().await?;
        let mut now = false;
        for queue in queues {
            let any = sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT 1 FROM tasks WHERE namespace = ?1 AND queue = ?2 AND state = 'pending'
                    AND assignment_reason IS NOT NULL AND rank < 4611686018427387904)",
            );
            now |= any.bind(&queue.namespace).bind(&queue.name).fetch_one(&mut *connection).await?;
        }
        Ok(Due { now, next })
    }

    /// When the next task is due, in milliseconds since 1970.
    async fn next_scheduled(&self) -> Result<Option<i64>, StoreError> {
        let next: Option<i64> =
            sqlx::query_scalar("SELECT min(rank) FROM tasks WHERE state = 'pending' AND rank >= 4611686018427387904")
                .fetch_one(&self.reader)
                .await?;
        Ok(next.map(|rank| rank - SCHEDULED))
    }
}
