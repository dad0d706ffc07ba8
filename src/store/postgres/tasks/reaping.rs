//! What lapsed: leases, and deadlines of tasks that wait.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::moving::{Happening, happen_apart};
use super::places;
use crate::store::postgres::PostgresStore;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::store::{Reapable, Reaped, StoreError};
use crate::tasks::machine::{TaskEvent, Transition};
use crate::tasks::{TaskId, TaskState};

/// Leases that one transaction takes.
const LEASES: i64 = 200;

#[derive(FromRow)]
struct Lost {
    id: TaskId,
    lease: i64,
    expert: String,
    holder: String,
    claimed_at: Stamp,
    leases_lost: i32,
    now: Stamp,
}

/// In how long the next lease lapses or deadline passes.
pub(super) async fn next_lapse(store: &PostgresStore) -> Result<Option<Duration>, StoreError> {
    let next: Vec<(Option<i64>,)> = store.fetch(sqlx::query_as(NEXT_LAPSE)).await?;
    let micros = next.into_iter().find_map(|(micros,)| micros);
    Ok(micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
}

pub(super) const NEXT_LAPSE: &str = "SELECT (extract(epoch FROM least((SELECT min(expires_at) FROM leases), (
        SELECT deadline FROM tasks WHERE state = 'pending' AND deadline IS NOT NULL AND rank < 9223372036854775807
        ORDER BY deadline LIMIT 1)) - clock_timestamp()) * 1000000)::bigint";

/// Whose leases are taken.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    Lapsed(&'a Reapable),
    /// A dead process', lapsed or not.
    Holder(&'a str),
}

/// One batch: at most `most` tasks of leases, and as many that are past their deadline. Returns whether there may be more.
///
/// A lease that is being renewed, or claimed under, is not taken: it is not dead. It goes with the last of its tasks; until then nothing
/// is claimed under it, because it has lapsed, or its holder is dead.
pub(super) async fn reap(
    connection: &mut PgConnection,
    whose: Whose<'_>,
    most: i64,
) -> Result<(Reaped, bool), StoreError> {
    let (leases, what) = match whose {
        Whose::Lapsed(reapable) => (lapsed(connection, reapable).await?, "lost the lease"),
        Whose::Holder(holder) => (held(connection, holder).await?, "died"),
    };
    let lost = if leases.is_empty() { Vec::new() } else { lost(connection, &leases, most).await? };
    let all = i64::try_from(lost.len()).is_ok_and(|lost| lost < most);
    let mut reaped = Reaped::default();
    let expired: Vec<TaskId> = match whose {
        Whose::Holder(_) => Vec::new(),
        Whose::Lapsed(_) => sqlx::query_scalar(EXPIRED).bind(most).fetch_all(&mut *connection).await?,
    };
    let more = !all
        || i64::try_from(leases.len()).is_ok_and(|taken| taken == LEASES)
        || i64::try_from(expired.len()).is_ok_and(|expired| expired == most);
    let lease_of: HashMap<TaskId, i64> = lost.iter().map(|lost| (lost.id, lost.lease)).collect();
    let lost = lost.into_iter().map(|lost| Happening {
        id: lost.id,
        event: TaskEvent::LeaseLost,
        words: evidence(lost, what),
    });
    let past = || Words::reason("its deadline passed before it was done");
    let expired = expired.into_iter().map(|id| Happening { id, event: TaskEvent::DeadlinePassed, words: past() });
    let happened = happen_apart(connection, lost.chain(expired).collect()).await?;
    for next in happened.next.iter().flatten() {
        match next {
            Transition::Is(life) if life.state == TaskState::DeferredToHuman => reaped.deferred += 1,
            Transition::Is(life) if life.state == TaskState::Failed => reaped.expired += 1,
            Transition::Is(_) | Transition::Gone => reaped.requeued += 1,
        }
    }
    if all && !leases.is_empty() {
        // A lease stays with a task that the database would not let go.
        let stays = |id: &i64| happened.refused.iter().any(|task| lease_of.get(task) == Some(id));
        let ids = leases.iter().map(|(id, _)| *id).filter(|id| !stays(id)).collect::<Vec<_>>();
        let gone = sqlx::query("DELETE FROM leases WHERE id = ANY ($1)").bind(ids).execute(&mut *connection).await?;
        reaped.leases = gone.rows_affected();
    }
    places::leave(connection, happened.over).await?;
    Ok((reaped, more))
}

pub(super) const EXPIRED: &str = "SELECT id FROM tasks
    WHERE state = 'pending' AND deadline <= statement_timestamp() AND rank < 9223372036854775807 ORDER BY deadline LIMIT $1";

async fn lapsed(connection: &mut PgConnection, reapable: &Reapable) -> Result<Vec<(i64, String)>, StoreError> {
    let queues = match reapable {
        Reapable::Of(queues) => Some(queues),
        Reapable::All => None,
    };
    let lapsed = sqlx::query_as(LAPSED)
        .bind(queues.is_none())
        .bind(queues.into_iter().flatten().map(|queue| queue.namespace.as_str()).collect::<Vec<_>>())
        .bind(queues.into_iter().flatten().map(|queue| queue.name.as_str()).collect::<Vec<_>>())
        .bind(LEASES);
    Ok(lapsed.fetch_all(connection).await?)
}

/// The oldest, in the order of ids, as everybody locks them. An index can't be searched by `clock_timestamp()`.
pub(super) const LAPSED: &str = "SELECT id, holder FROM leases WHERE id = ANY (ARRAY(
        SELECT id FROM leases WHERE expires_at <= statement_timestamp()
            AND ($1 OR (namespace, queue) IN (SELECT * FROM unnest($2::text[], $3::text[])))
        ORDER BY expires_at LIMIT $4)) AND expires_at <= clock_timestamp()
    ORDER BY id FOR UPDATE SKIP LOCKED";

async fn held(connection: &mut PgConnection, holder: &str) -> Result<Vec<(i64, String)>, StoreError> {
    Ok(sqlx::query_as(HELD).bind(holder).bind(LEASES).fetch_all(connection).await?)
}

pub(super) const HELD: &str =
    "SELECT id, holder FROM leases WHERE split_part(holder, '+', 1) = $1 ORDER BY id LIMIT $2 FOR UPDATE";

/// A statement after the leases are locked: it sees all that was claimed under them.
async fn lost(connection: &mut PgConnection, leases: &[(i64, String)], most: i64) -> Result<Vec<Lost>, StoreError> {
    Ok(sqlx::query_as(LOST)
        .bind(leases.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(leases.iter().map(|(_, holder)| holder.as_str()).collect::<Vec<_>>())
        .bind(most)
        .fetch_all(connection)
        .await?)
}

pub(super) const LOST: &str = "SELECT t.id, l.id AS lease, t.expert, l.holder, t.claimed_at, t.leases_lost, clock_timestamp() AS now
    FROM unnest($1::bigint[], $2::text[]) AS l (id, holder) JOIN running_tasks AS t ON t.lease = l.id ORDER BY t.id LIMIT $3";

fn evidence(lost: Lost, what: &str) -> Words {
    let Lost { id: _, lease: _, expert, holder, claimed_at, leases_lost, now } = lost;
    Words::of_lost_lease(expert, holder, leases_lost + 1, what, claimed_at.into(), now.into())
}
