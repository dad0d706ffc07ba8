//! New tasks, all or none.

use sqlx::SqliteConnection;

use crate::store::stamp::Stamp;
use crate::store::text::{json_text, text};
use crate::store::words::rank;
use crate::store::{Inserted, StoreError};
use crate::tasks::{NewTask, TaskId};

pub(super) async fn insert(
    tx: &mut SqliteConnection,
    tasks: &[NewTask],
    now: Stamp,
) -> Result<Vec<Inserted>, StoreError> {
    let mut inserted = Vec::with_capacity(tasks.len());
    for task in tasks {
        inserted.push(match existing(tx, task).await? {
            Some(id) => Inserted { id, existed: true },
            None => Inserted { id: insert_one(tx, task, now).await?, existed: false },
        });
    }
    Ok(inserted)
}

async fn existing(tx: &mut SqliteConnection, task: &NewTask) -> Result<Option<TaskId>, StoreError> {
    let Some(key) = &task.key else { return Ok(None) };
    let id = sqlx::query_scalar("SELECT id FROM task_keys WHERE namespace = ? AND queue = ? AND key = ?")
        .bind(text(&task.namespace))
        .bind(text(&task.queue))
        .bind(text(key))
        .fetch_optional(tx)
        .await?;
    Ok(id)
}

async fn insert_one(tx: &mut SqliteConnection, task: &NewTask, now: Stamp) -> Result<TaskId, StoreError> {
    // A queue's deadline counts from when the task may first run.
    let id = sqlx::query_scalar(
        "INSERT INTO tasks (namespace, queue, domain, role, model, priority, run_after, deadline, key, labels, state,
            created_at, state_since, rank, expert, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7,
            coalesce(?8, (SELECT max(?11, coalesce(?7, ?11)) + 1000000 * nullif(spec ->> '$.deadlineSeconds', 0) FROM declared
                WHERE kind = 'TaskQueue' AND namespace = ?1 AND name = ?2 AND gone_at IS NULL)),
            ?9, ?10, 'pending', ?11, ?11, ?12, ?13, ?14)
         RETURNING id",
    )
    .bind(text(&task.namespace))
    .bind(text(&task.queue))
    .bind(text(&task.domain))
    .bind(text(&task.role))
    .bind(task.model.as_deref().map(text))
    .bind(task.priority)
    .bind(task.run_after.map(Stamp::from))
    .bind(task.deadline.map(Stamp::from))
    .bind(task.key.as_deref().map(text))
    .bind(json_text(&task.labels))
    .bind(now)
    .bind(rank(now, task.run_after.map(Stamp::from), task.priority, now))
    .bind(task.expert.as_deref().map(text))
    .bind(json_text(&task.payload))
    .fetch_one(&mut *tx)
    .await?;
    if let Some(key) = &task.key {
        sqlx::query("INSERT INTO task_keys (namespace, queue, key, id) VALUES (?, ?, ?, ?)")
            .bind(text(&task.namespace))
            .bind(text(&task.queue))
            .bind(text(key))
            .bind(id)
            .execute(tx)
            .await?;
    }
    Ok(id)
}
