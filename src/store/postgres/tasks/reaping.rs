//! What lapsed: leases, and deadlines of tasks that wait.

use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::moving::{Happening, Words, happen};
use super::places;
use crate::store::stamp::Stamp;
use crate::store::{Reapable, Reaped, StoreError};
use crate::tasks::machine::{Event, Next};
use crate::tasks::retry::leases_lost_reason;
use crate::tasks::{Attempt, AttemptClass, DEFERRING_LOST_LEASES, TaskId, TaskState};

/// Tasks that one pass fails for their deadline: the next pass goes on.
const AT_ONCE: i64 = 5_000;

#[derive(FromRow)]
struct Lost {
    id: TaskId,
    expert: String,
    holder: String,
    state_since: Stamp,
    leases_lost: i32,
    now: Stamp,
}

/// A lease that is being renewed, or claimed under, is not taken: it is not dead.
pub(super) async fn reap(connection: &mut PgConnection, reapable: &Reapable) -> Result<Reaped, StoreError> {
    let queues = match reapable {
        Reapable::Of(queues) => Some(queues),
        Reapable::All => None,
    };
    let lapsed: Vec<(i64, String)> = sqlx::query_as(
        "DELETE FROM leases WHERE id = ANY (ARRAY(
            SELECT id FROM leases WHERE expires_at <= clock_timestamp()
                AND ($1 OR (namespace, queue) IN (SELECT * FROM unnest($2::text[], $3::text[])))
            ORDER BY id FOR UPDATE SKIP LOCKED))
         RETURNING id, holder",
    )
    .bind(queues.is_none())
    .bind(queues.into_iter().flatten().map(|queue| queue.namespace.as_str()).collect::<Vec<_>>())
    .bind(queues.into_iter().flatten().map(|queue| queue.name.as_str()).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let expired: Vec<TaskId> = sqlx::query_scalar(
        "SELECT id FROM tasks WHERE state = 'pending' AND deadline <= clock_timestamp() ORDER BY deadline LIMIT $1",
    )
    .bind(AT_ONCE)
    .fetch_all(&mut *connection)
    .await?;
    take_back(connection, &lapsed, "lost the lease", expired).await
}

/// What a dead process held, lapsed or not.
pub(super) async fn reap_holder(connection: &mut PgConnection, holder: &str) -> Result<Reaped, StoreError> {
    let held: Vec<(i64, String)> =
        sqlx::query_as("DELETE FROM leases WHERE split_part(holder, '+', 1) = $1 RETURNING id, holder")
            .bind(holder)
            .fetch_all(&mut *connection)
            .await?;
    take_back(connection, &held, "died", Vec::new()).await
}

/// Takes the tasks of leases that are gone back, and fails what is past its deadline.
async fn take_back(
    connection: &mut PgConnection,
    leases: &[(i64, String)],
    what: &str,
    expired: Vec<TaskId>,
) -> Result<Reaped, StoreError> {
    let mut reaped = Reaped { leases: u64::try_from(leases.len()).unwrap_or(u64::MAX), ..Reaped::default() };
    let lost = if leases.is_empty() { Vec::new() } else { lost(connection, leases).await? };
    let lost =
        lost.into_iter().map(|lost| Happening { id: lost.id, event: Event::LeaseLost, words: evidence(lost, what) });
    let past = || Words::reason("its deadline passed before it was done");
    let expired = expired.into_iter().map(|id| Happening { id, event: Event::DeadlinePassed, words: past() });
    let happened = happen(connection, lost.chain(expired).collect()).await?;
    for next in happened.next.iter().flatten() {
        match next {
            Next::Is(life) if life.state == TaskState::DeferredToHuman => reaped.deferred += 1,
            Next::Is(life) if life.state == TaskState::Failed => reaped.expired += 1,
            Next::Is(_) | Next::Gone => reaped.requeued += 1,
        }
    }
    places::leave(connection, happened.over).await?;
    Ok(reaped)
}

/// A statement after the leases are gone: it sees all that was claimed under them. No index leads to them: this is rare.
async fn lost(connection: &mut PgConnection, lapsed: &[(i64, String)]) -> Result<Vec<Lost>, StoreError> {
    let lost = sqlx::query_as(
        "SELECT t.id, t.expert, l.holder, t.state_since, t.leases_lost, clock_timestamp() AS now FROM tasks AS t
         JOIN unnest($1::bigint[], $2::text[]) AS l (id, holder) ON l.id = t.lease ORDER BY t.id",
    );
    Ok(lost
        .bind(lapsed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(lapsed.iter().map(|(_, holder)| holder.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?)
}

fn evidence(lost: Lost, what: &str) -> Words {
    let Lost { id: _, expert, holder, state_since, leases_lost, now } = lost;
    let times = leases_lost + 1;
    let reason =
        if times >= DEFERRING_LOST_LEASES { leases_lost_reason(times) } else { format!("its worker {holder} {what}") };
    let attempt = Attempt {
        expert,
        backend: None,
        model: None,
        holder,
        started_at: state_since.into(),
        ended_at: now.into(),
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: AttemptClass::LeaseLost,
        error: Some(format!("its worker {what}")),
    };
    Words { reason: Some(reason), attempt: Some(attempt), result: None }
}
