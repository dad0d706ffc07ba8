//! Leases: opened, renewed, closed, handed to a webhook's task.

use std::time::Duration;

use sqlx::SqliteConnection;

use super::moving::happen;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::store::{Lease, StoreError};
use crate::tasks::machine::TaskEvent;
use crate::tasks::{QueueKey, TaskId};

/// One for each process and queue: opened again, it is the same one.
pub(super) async fn open(
    tx: &mut SqliteConnection,
    holder: &str,
    queue: &QueueKey,
    until: Stamp,
) -> Result<Lease, StoreError> {
    let id = sqlx::query_scalar(
        "INSERT INTO leases (holder, namespace, queue, expires_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (holder, namespace, queue) DO UPDATE SET expires_at = ?4 RETURNING id",
    )
    .bind(holder)
    .bind(&queue.namespace)
    .bind(&queue.name)
    .bind(until)
    .fetch_one(tx)
    .await?;
    Ok(Lease { id, holder: holder.to_owned() })
}

/// One that lapsed but that nobody took is renewed: a pause is not a death.
pub(super) async fn renew(
    tx: &mut SqliteConnection,
    leases: &[(Lease, Duration)],
    now: Stamp,
) -> Result<Vec<Lease>, StoreError> {
    let mut lost = Vec::new();
    for (lease, duration) in leases {
        let renewed = sqlx::query("UPDATE leases SET expires_at = ? WHERE id = ? AND holder = ?")
            .bind(now.after(*duration))
            .bind(lease.id)
            .bind(&lease.holder)
            .execute(&mut *tx)
            .await?;
        if renewed.rows_affected() == 0 {
            lost.push(lease.clone());
        }
    }
    Ok(lost)
}

/// Returns whether any task was claimed under it.
pub(super) async fn close(tx: &mut SqliteConnection, lease: &Lease, now: Stamp) -> Result<bool, StoreError> {
    let claimed: Vec<TaskId> =
        sqlx::query_scalar("SELECT t.id FROM tasks t JOIN leases l ON l.id = t.lease WHERE l.id = ? AND l.holder = ?")
            .bind(lease.id)
            .bind(&lease.holder)
            .fetch_all(&mut *tx)
            .await?;
    let any = !claimed.is_empty();
    for id in claimed {
        happen(tx, id, TaskEvent::LeaseClosed, Words::reason("its worker ended"), now).await?;
    }
    sqlx::query("DELETE FROM leases WHERE id = ? AND holder = ?")
        .bind(lease.id)
        .bind(&lease.holder)
        .execute(tx)
        .await?;
    Ok(any)
}

pub(super) async fn hand_over(
    tx: &mut SqliteConnection,
    task: TaskId,
    epoch: i64,
    until: Stamp,
) -> Result<Lease, StoreError> {
    let queue: Option<(String, String)> =
        sqlx::query_as("SELECT namespace, queue FROM tasks WHERE id = ? AND epoch = ? AND state = 'in_progress'")
            .bind(task)
            .bind(epoch)
            .fetch_optional(&mut *tx)
            .await?;
    let Some((namespace, name)) = queue else {
        return Err(StoreError::Fenced(format!("task {task} is not claimed with epoch {epoch} any more")));
    };
    let lease = open(tx, &format!("task/{task}"), &QueueKey { namespace, name }, until).await?;
    sqlx::query("UPDATE tasks SET lease = ? WHERE id = ?").bind(lease.id).bind(task).execute(tx).await?;
    Ok(lease)
}
