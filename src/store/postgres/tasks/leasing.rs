//! Leases: opened, renewed, closed, handed to a webhook's task.

use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::moving::{Happening, happen};
use super::places;
use crate::store::words::Words;
use crate::store::{Lease, StoreError};
use crate::tasks::machine::TaskEvent;
use crate::tasks::{QueueKey, TaskId};

pub(super) async fn open(
    connection: &mut PgConnection,
    holder: &str,
    queue: &QueueKey,
    lease: Duration,
) -> Result<Lease, StoreError> {
    let id = sqlx::query_scalar(
        "INSERT INTO leases (holder, namespace, queue, expires_at)
         VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 microsecond')
         ON CONFLICT (holder, namespace, queue) DO UPDATE SET expires_at = excluded.expires_at RETURNING id",
    )
    .bind(holder)
    .bind(&queue.namespace)
    .bind(&queue.name)
    .bind(micros(lease))
    .fetch_one(connection)
    .await?;
    Ok(Lease { id, holder: holder.to_owned() })
}

/// Returns those that are not there any more. One that lapsed but that nobody took is renewed: a pause is not a death.
pub(super) async fn renew(
    connection: &mut PgConnection,
    leases: &[(Lease, Duration)],
) -> Result<Vec<Lease>, StoreError> {
    let mut sorted: Vec<&(Lease, Duration)> = leases.iter().collect();
    sorted.sort_by_key(|(lease, _)| lease.id);
    sqlx::query(FORGET_CLAIMS)
        .bind(sorted.iter().map(|(lease, _)| lease.id).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    let renewed: Vec<i64> = sqlx::query_scalar(
        "UPDATE leases AS l SET expires_at = clock_timestamp() + w.micros * interval '1 microsecond'
         FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS w (id, holder, micros)
         WHERE l.id = w.id AND l.holder = w.holder RETURNING l.id",
    )
    .bind(sorted.iter().map(|(lease, _)| lease.id).collect::<Vec<_>>())
    .bind(sorted.iter().map(|(lease, _)| lease.holder.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|(_, duration)| micros(*duration)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(leases.iter().map(|(lease, _)| lease).filter(|lease| !renewed.contains(&lease.id)).cloned().collect())
}

/// Rows of claims of which no task is in progress any more.
pub(super) const FORGET_CLAIMS: &str = "DELETE FROM claims AS c WHERE lease = ANY ($1) AND NOT EXISTS (
        SELECT FROM unnest(c.tasks, c.epochs) AS claimed (id, epoch)
        JOIN tasks AS t ON t.id = claimed.id AND t.epoch = claimed.epoch AND t.lease = c.lease)";

/// Returns whether any task was claimed under it.
pub(super) async fn close(connection: &mut PgConnection, lease: &Lease) -> Result<bool, StoreError> {
    let locked = sqlx::query("SELECT FROM leases WHERE id = $1 AND holder = $2 FOR UPDATE")
        .bind(lease.id)
        .bind(&lease.holder)
        .fetch_optional(&mut *connection)
        .await?;
    if locked.is_none() {
        return Ok(false);
    }
    // A statement of its own: it sees what a claim did that the first one waited for.
    let claimed: Vec<TaskId> = sqlx::query_scalar("SELECT id FROM running_tasks WHERE lease = $1 ORDER BY id")
        .bind(lease.id)
        .fetch_all(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM leases WHERE id = $1").bind(lease.id).execute(&mut *connection).await?;
    let closed = |id| Happening { id, event: TaskEvent::LeaseClosed, words: Words::reason("its worker ended") };
    let happened = happen(connection, claimed.into_iter().map(closed).collect()).await?;
    places::leave(connection, happened.over).await?;
    Ok(happened.next.iter().any(Option::is_some))
}

/// Once more is a heartbeat.
pub(super) async fn hand_over(
    connection: &mut PgConnection,
    task: TaskId,
    epoch: i64,
    lease: Duration,
) -> Result<Lease, StoreError> {
    // Leases before tasks, as the reaper locks them.
    let own = format!("task/{task}");
    sqlx::query("SELECT FROM leases WHERE holder = $1 FOR UPDATE").bind(&own).execute(&mut *connection).await?;
    let queue: Option<(String, String)> = sqlx::query_as(
        "SELECT namespace, queue FROM tasks WHERE id = $1 AND epoch = $2 AND state = 'in_progress' FOR UPDATE",
    )
    .bind(task)
    .bind(epoch)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((namespace, name)) = queue else {
        return Err(StoreError::Fenced(format!("task {task} is not claimed with epoch {epoch} any more")));
    };
    let lease = open(connection, &own, &QueueKey { namespace, name }, lease).await?;
    let own = sqlx::query(
        "WITH given AS (UPDATE tasks SET lease = $2 WHERE id = $1 AND lease <> $2 RETURNING id, lease, epoch)
         INSERT INTO claims SELECT lease, ARRAY[id], ARRAY[epoch] FROM given",
    );
    own.bind(task).bind(lease.id).execute(connection).await?;
    Ok(lease)
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
