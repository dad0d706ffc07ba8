//! One event of one task: decided by the machine, written here.

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::declaring::refresh_task;
use crate::store::StoreError;
use crate::store::stamp::Stamp;
use crate::store::text::{json_text, text};
use crate::store::words::{Words, rank, tell_refused, with_attempt};
use crate::tasks::machine::{End, Life, TaskEvent, Transition, step};
use crate::tasks::{Completion, Task, TaskId, TaskState};

/// Lets `event` happen to a task; tells what it is then, or `None` where the machine refuses, which changes nothing.
/// Claims are not made here: they need a lease.
pub(super) async fn happen(
    tx: &mut SqliteConnection,
    id: TaskId,
    event: TaskEvent,
    words: Words,
    now: Stamp,
) -> Result<Option<Transition>, StoreError> {
    let Some(task) = find(tx, id, event).await? else { return Ok(None) };
    let Ok(next) = step(&Life::of(&task), event, Timestamp::from(now)) else { return Ok(None) };
    match &next {
        Transition::Gone => delete_finished(tx, &task).await?,
        Transition::Is(life) => {
            if task.state.is_terminal() {
                bring_back(tx, id).await?;
            }
            write(tx, &task, life, &words, now).await?;
            if life.state.is_terminal() {
                archive(tx, id, life.state, words.result).await?;
            } else if life.state == TaskState::Pending && life.assigned {
                refresh_task(tx, id).await?;
            }
            if task.state == TaskState::InProgress {
                drop_own_lease(tx, id).await?;
            }
        }
    }
    Ok(Some(next))
}

/// As [`happen`]; where the database refuses it for this task, nothing of it is written and the transaction goes on.
pub(super) async fn happen_apart(
    tx: &mut SqliteConnection,
    id: TaskId,
    event: TaskEvent,
    words: Words,
    now: Stamp,
) -> Result<Option<Transition>, StoreError> {
    sqlx::query("SAVEPOINT one").execute(&mut *tx).await?;
    let happened = match happen(tx, id, event, words, now).await {
        Err(StoreError::Refused(why)) => {
            sqlx::query("ROLLBACK TO one").execute(&mut *tx).await?;
            tell_refused(id, &why);
            None
        }
        other => other?,
    };
    sqlx::query("RELEASE one").execute(tx).await?;
    Ok(happened)
}

async fn find(tx: &mut SqliteConnection, id: TaskId, event: TaskEvent) -> Result<Option<Task>, StoreError> {
    let statement = match event {
        TaskEvent::Retry | TaskEvent::Purge => {
            concat!("SELECT ", columns!("NULL", "NULL"), " FROM finished_tasks WHERE id = ?")
        }
        _ => concat!("SELECT ", columns!("NULL", "NULL"), " FROM tasks WHERE id = ?"),
    };
    Ok(sqlx::query_as(statement).bind(id).fetch_optional(tx).await?)
}

/// A terminal state is written by [`archive`]: the table of live tasks has none.
async fn write(
    tx: &mut SqliteConnection,
    task: &Task,
    life: &Life,
    words: &Words,
    now: Stamp,
) -> Result<(), StoreError> {
    let since = if life.state == task.state { Stamp::from(task.state_since) } else { now };
    let attempts = match &words.attempt {
        Some(attempt) => json_text(&with_attempt(task.attempts.clone(), attempt.clone()).0),
        None => json_text(&task.attempts),
    };
    let state = if life.state.is_terminal() { TaskState::DeferredToHuman } else { life.state };
    sqlx::query(
        "UPDATE tasks SET state = ?2, state_since = ?3, rank = ?4, run_after = ?5, deadline = ?6, attempts_used = ?7,
            free_requeues = ?8, leases_lost = ?9, cycle = ?10, epoch = ?11, reason = ?12, attempts = ?13, lease = NULL
         WHERE id = ?1",
    )
    .bind(task.id)
    .bind(state.as_str())
    .bind(since)
    .bind(rank(since, life.run_after.map(Stamp::from), task.priority, now))
    .bind(life.run_after.map(Stamp::from))
    .bind(life.deadline.map(Stamp::from))
    .bind(life.attempts_used)
    .bind(life.free_requeues)
    .bind(life.leases_lost)
    .bind(life.cycle)
    .bind(life.epoch)
    .bind(words.reason.as_deref().map(text))
    .bind(attempts)
    .execute(tx)
    .await?;
    Ok(())
}

macro_rules! moved_columns {
    () => {
        "id, namespace, queue, domain, role, model, priority, run_after, deadline, key, labels, created_at, state_since,
         expert, assignment_reason, candidates, assigned_model, attempts_used, free_requeues, leases_lost, cycle, epoch,
         reason, attempts, payload"
    };
}

async fn archive(
    tx: &mut SqliteConnection,
    id: TaskId,
    state: TaskState,
    result: Option<serde_json::Value>,
) -> Result<(), StoreError> {
    sqlx::query(concat!(
        "INSERT INTO finished_tasks (state, result, ",
        moved_columns!(),
        ") SELECT ?2, ?3, ",
        moved_columns!(),
        " FROM tasks WHERE id = ?1"
    ))
    .bind(id)
    .bind(state.as_str())
    .bind(result.as_ref().map(json_text))
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM tasks WHERE id = ?").bind(id).execute(tx).await?;
    Ok(())
}

/// As deferred, until [`write`] says better.
async fn bring_back(tx: &mut SqliteConnection, id: TaskId) -> Result<(), StoreError> {
    sqlx::query(concat!(
        "INSERT INTO tasks (state, rank, ",
        moved_columns!(),
        ") SELECT 'deferred_to_human', 0, ",
        moved_columns!(),
        " FROM finished_tasks WHERE id = ?"
    ))
    .bind(id)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM finished_tasks WHERE id = ?").bind(id).execute(tx).await?;
    Ok(())
}

async fn delete_finished(tx: &mut SqliteConnection, task: &Task) -> Result<(), StoreError> {
    if let Some(key) = &task.key {
        sqlx::query("DELETE FROM task_keys WHERE namespace = ? AND queue = ? AND key = ?")
            .bind(&task.namespace)
            .bind(&task.queue)
            .bind(key)
            .execute(&mut *tx)
            .await?;
    }
    sqlx::query("DELETE FROM finished_tasks WHERE id = ?").bind(task.id).execute(tx).await?;
    Ok(())
}

/// The lease that [`super::leasing::hand_over`] made for this task alone.
async fn drop_own_lease(tx: &mut SqliteConnection, id: TaskId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM leases WHERE holder = 'task/' || ?").bind(id).execute(tx).await?;
    Ok(())
}

pub(super) async fn complete(
    tx: &mut SqliteConnection,
    completions: &[Completion],
    now: Stamp,
) -> Result<Vec<bool>, StoreError> {
    let mut changed = Vec::with_capacity(completions.len());
    for one in completions {
        let event = TaskEvent::End { epoch: one.epoch, end: End::from(&one.verdict) };
        changed.push(happen(tx, one.task, event, Words::of(one), now).await?.is_some());
    }
    Ok(changed)
}

pub(super) async fn lost(
    connection: &mut SqliteConnection,
    claims: &[(TaskId, i64)],
) -> Result<Vec<TaskId>, StoreError> {
    let claims = serde_json::to_string(claims).map_err(|error| StoreError::Broken(error.to_string()))?;
    let lost = sqlx::query_scalar(
        "SELECT value ->> 0 FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM tasks
            WHERE id = value ->> 0 AND epoch = value ->> 1 AND state = 'in_progress')",
    );
    Ok(lost.bind(claims).fetch_all(connection).await?)
}
