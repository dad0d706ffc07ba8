//! What lapsed: leases, and deadlines of tasks that wait.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{FromRow, SqliteConnection};

use super::moving::happen_apart;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::store::{Reapable, Reaped, StoreError};
use crate::tasks::machine::{TaskEvent, Transition};
use crate::tasks::{TaskId, TaskState};

/// Tasks that one transaction takes back, and fails for their deadline: the database is locked meanwhile.
const AT_ONCE: i64 = 1_000;

#[derive(FromRow)]
struct Lost {
    id: TaskId,
    expert: String,
    holder: String,
    state_since: Stamp,
    leases_lost: i32,
}

/// In how long the next lease lapses or deadline passes.
pub(super) async fn next_lapse(connection: &mut SqliteConnection, now: Stamp) -> Result<Option<Duration>, StoreError> {
    let (lease, deadline): (Option<Stamp>, Option<Stamp>) = sqlx::query_as(
        "SELECT (SELECT min(expires_at) FROM leases),
            (SELECT min(deadline) FROM tasks WHERE state = 'pending' AND deadline IS NOT NULL)",
    )
    .fetch_one(connection)
    .await?;
    Ok(lease.into_iter().chain(deadline).min().map(|next| now.until(next)))
}

/// One batch; returns whether there may be more.
pub(super) async fn reap(
    tx: &mut SqliteConnection,
    reapable: &Reapable,
    now: Stamp,
) -> Result<(Reaped, bool), StoreError> {
    let lapsed: Vec<(i64, String, String)> =
        sqlx::query_as("SELECT id, namespace, queue FROM leases WHERE expires_at <= ?")
            .bind(now)
            .fetch_all(&mut *tx)
            .await?;
    let goes = |namespace: &str, name: &str| match reapable {
        Reapable::Of(queues) => queues.iter().any(|queue| queue.namespace == namespace && queue.name == name),
        Reapable::All => true,
    };
    let lapsed: Vec<i64> = lapsed.into_iter().filter(|(_, ns, name)| goes(ns, name)).map(|(id, _, _)| id).collect();
    let (mut reaped, more) = take_back(tx, &lapsed, "lost the lease", now).await?;
    let expired: Vec<TaskId> =
        sqlx::query_scalar("SELECT id FROM tasks WHERE state = 'pending' AND deadline <= ? ORDER BY deadline LIMIT ?")
            .bind(now)
            .bind(AT_ONCE)
            .fetch_all(&mut *tx)
            .await?;
    let more = more || i64::try_from(expired.len()).is_ok_and(|expired| expired == AT_ONCE);
    for id in expired {
        let words = Words::reason("its deadline passed before it was done");
        reaped.expired += u64::from(happen_apart(tx, id, TaskEvent::DeadlinePassed, words, now).await?.is_some());
    }
    Ok((reaped, more))
}

/// One batch of what a dead process held, lapsed or not; returns whether there may be more.
pub(super) async fn reap_holder(
    tx: &mut SqliteConnection,
    holder: &str,
    now: Stamp,
) -> Result<(Reaped, bool), StoreError> {
    let held: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM leases WHERE holder = ?1 OR substr(holder, 1, length(?1) + 1) = ?1 || '+'")
            .bind(holder)
            .fetch_all(&mut *tx)
            .await?;
    take_back(tx, &held, "died", now).await
}

/// Takes tasks of leases back, and ends the leases with the last of them: until then nothing is claimed under them, because they lapsed, or
/// their holder is dead.
async fn take_back(
    tx: &mut SqliteConnection,
    leases: &[i64],
    what: &str,
    now: Stamp,
) -> Result<(Reaped, bool), StoreError> {
    let mut reaped = Reaped::default();
    let lost: Vec<Lost> = sqlx::query_as(
        "SELECT t.id, t.expert, l.holder, t.state_since, t.leases_lost FROM leases l JOIN tasks t ON t.lease = l.id
         WHERE l.id IN (SELECT value FROM json_each(?)) ORDER BY t.id LIMIT ?",
    )
    .bind(Json(leases))
    .bind(AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    let more = i64::try_from(lost.len()).is_ok_and(|lost| lost == AT_ONCE);
    for task in lost {
        let id = task.id;
        match happen_apart(tx, id, TaskEvent::LeaseLost, evidence(task, what, now), now).await? {
            Some(Transition::Is(life)) if life.state == TaskState::DeferredToHuman => reaped.deferred += 1,
            Some(_) => reaped.requeued += 1,
            None => {}
        }
    }
    if !more {
        // A lease stays with a task that the database would not let go.
        let gone = sqlx::query(
            "DELETE FROM leases WHERE id IN (SELECT value FROM json_each(?))
             AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.lease = leases.id)",
        );
        reaped.leases = gone.bind(Json(leases)).execute(&mut *tx).await?.rows_affected();
    }
    Ok((reaped, more))
}

fn evidence(lost: Lost, what: &str, now: Stamp) -> Words {
    let Lost { id: _, expert, holder, state_since, leases_lost } = lost;
    Words::of_lost_lease(expert, holder, leases_lost + 1, what, state_since.into(), now.into())
}
