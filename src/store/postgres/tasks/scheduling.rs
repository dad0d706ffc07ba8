//! Tasks that are not due yet stand apart from those that are, so that no claim goes over them: their rank is [`SCHEDULED`] and their
//! time. When that has come they are moved among the others, by whoever looks for work.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use crate::store::postgres::PostgresStore;
use crate::store::words::SCHEDULED;
use crate::store::{BootInstant, Due, StoreError};
use crate::tasks::QueueKey;

/// Tasks that one statement moves.
const BATCH: i64 = 2_000;
/// The shortest time between two looks for what is due beside claims, whatever comes in.
const BETWEEN: Duration = Duration::from_millis(20);
/// The longest, while claims are made.
const LONGEST: Duration = Duration::from_secs(1);

/// When claims of this process next look for what is due.
pub(super) struct DueClock(Mutex<(BootInstant, BootInstant)>);

impl Default for DueClock {
    fn default() -> Self {
        let never = BootInstant::from_boot(Duration::ZERO);
        Self(Mutex::new((never, never)))
    }
}

impl DueClock {
    fn is_over(&self, now: BootInstant) -> bool {
        now >= self.lock().1
    }

    fn looked(&self, now: BootInstant, next: Option<Duration>) {
        *self.lock() = (now, now + next.unwrap_or(LONGEST).clamp(BETWEEN, LONGEST));
    }

    /// Tasks came in that may be due soon.
    pub fn hurry(&self) {
        let mut known = self.lock();
        known.1 = known.1.min(known.0 + BETWEEN);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (BootInstant, BootInstant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before a claim: moves what is due, unless that was looked at just now.
pub(super) async fn move_due_now_and_then(store: &PostgresStore) -> Result<(), StoreError> {
    if store.work.due.is_over(BootInstant::now()) {
        move_due(store).await?;
    }
    Ok(())
}

/// Moves all that is due; returns in how long the next is.
async fn move_due(store: &PostgresStore) -> Result<Option<Duration>, StoreError> {
    let began = BootInstant::now();
    loop {
        let (moved, next) = store
            .within(async {
                let mut session = store.session().await?;
                let moved = move_batch(session.connection()).await?;
                session.end();
                Ok(moved)
            })
            .await?;
        if moved < BATCH {
            let next = next.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
            store.work.due.looked(began, next);
            return Ok(next);
        }
    }
}

/// Returns how many were moved, and in how many milliseconds the next is due.
async fn move_batch(connection: &mut PgConnection) -> Result<(i64, Option<i64>), StoreError> {
    let moved = sqlx::query_as(MOVE).bind(BATCH).bind(SCHEDULED);
    Ok(moved.fetch_one(connection).await?)
}

/// The bounds of ranks are written out where an index depends on them. What somebody else moves now is left to him.
pub(super) const MOVE: &str = "WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS now, $2 + floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS rank
    ), due AS MATERIALIZED (
        SELECT id FROM tasks WHERE rank >= 4611686018427387904 AND rank < 9223372036854775807
            AND rank <= (SELECT rank FROM clock) AND run_after <= (SELECT now FROM clock)
        ORDER BY rank LIMIT $1 FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE tasks SET rank = task_rank(state_since, run_after, priority, (SELECT now FROM clock))
        WHERE id = ANY (ARRAY(SELECT id FROM due)) RETURNING id
    )
    SELECT (SELECT count(*) FROM moved), (SELECT min(rank) - (SELECT rank FROM clock) + 1 FROM tasks
        WHERE rank >= 4611686018427387904 AND rank < 9223372036854775807 AND rank > (SELECT rank FROM clock))";

pub(super) async fn due(store: &PostgresStore, queues: &[QueueKey]) -> Result<Due, StoreError> {
    let next = move_due(store).await?;
    let now = sqlx::query_as(DUE)
        .bind(queues.iter().map(|queue| queue.namespace.as_str()).collect::<Vec<_>>())
        .bind(queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>());
    let now: Vec<(bool,)> = store.fetch(now).await?;
    Ok(Due { now: now.iter().any(|(now,)| *now), next })
}

/// Stops at the first one of each queue, in the order of the index: cheap however many wait, and whatever else there is.
pub(super) const DUE: &str =
    "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS q (namespace, queue) CROSS JOIN LATERAL (
        SELECT FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND t.state = 'pending'
            AND t.assignment_reason IS NOT NULL AND t.rank < 4611686018427387904
            ORDER BY coalesce(t.assigned_model, ''), t.rank, t.id LIMIT 1) AS first)";
