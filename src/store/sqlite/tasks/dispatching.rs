//! Assignments, and the runs of schedules.

use jiff::Timestamp;
use sqlx::SqliteConnection;
use sqlx::types::Json;

use crate::store::stamp::Stamp;
use crate::store::task_rows::UnassignedRecord;
use crate::store::{StoreError, Unassigned};
use crate::tasks::{Assignment, TaskId};

pub(super) async fn unassigned(
    connection: &mut SqliteConnection,
    after: TaskId,
    most: i64,
) -> Result<Vec<Unassigned>, StoreError> {
    let records: Vec<UnassignedRecord> = sqlx::query_as(
        "SELECT id, namespace, queue, domain, role, model, expert FROM tasks
         WHERE state = 'pending' AND assignment_reason IS NULL AND id > ? ORDER BY id LIMIT ?",
    )
    .bind(after)
    .bind(most.max(0))
    .fetch_all(connection)
    .await?;
    Ok(records.into_iter().map(Into::into).collect())
}

/// An expert that was named meanwhile is not overruled.
pub(super) async fn assign(tx: &mut SqliteConnection, assignments: &[Assignment]) -> Result<u64, StoreError> {
    let mut assigned = 0;
    for Assignment { task, expert, model, reason, candidates } in assignments {
        assigned += sqlx::query(
            "UPDATE tasks SET expert = ?2, assigned_model = ?3, assignment_reason = ?4, candidates = ?5
             WHERE id = ?1 AND state = 'pending' AND assignment_reason IS NULL AND coalesce(expert, ?2) = ?2",
        )
        .bind(task)
        .bind(expert)
        .bind(model)
        .bind(reason)
        .bind(Json(&**candidates))
        .execute(&mut *tx)
        .await?
        .rows_affected();
    }
    Ok(assigned)
}

/// Notes a run; false when it is noted already.
pub(super) async fn first_time(tx: &mut SqliteConnection, schedule: &str, run: Timestamp) -> Result<bool, StoreError> {
    let noted = sqlx::query("INSERT INTO schedule_runs (schedule, run_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(schedule)
        .bind(Stamp::from(run))
        .execute(tx)
        .await?;
    Ok(noted.rows_affected() == 1)
}

pub(super) async fn last_runs(connection: &mut SqliteConnection) -> Result<Vec<(String, Timestamp)>, StoreError> {
    let runs: Vec<(String, Stamp)> =
        sqlx::query_as("SELECT schedule, max(run_at) FROM schedule_runs GROUP BY schedule ORDER BY schedule")
            .fetch_all(connection)
            .await?;
    Ok(runs.into_iter().map(|(schedule, run)| (schedule, run.into())).collect())
}
