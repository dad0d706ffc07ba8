//! Ends of executions.

use sqlx::SqliteConnection;

use super::moving::happen;
use crate::store::StoreError;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::tasks::machine::{End, TaskEvent};
use crate::tasks::{Completion, TaskId};

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
