//! Commands of people and programs.

use sqlx::{QueryBuilder, SqliteConnection};

use super::moving::{Words, happen};
use super::reading::push_filter;
use crate::store::stamp::Stamp;
use crate::store::text::text;
use crate::store::{StoreError, TaskCommand, TaskFilter};
use crate::tasks::TaskId;
use crate::tasks::machine::Event;

/// The oldest that match and that the command applies to, from above `after`, at most `most`.
pub(super) async fn command(
    tx: &mut SqliteConnection,
    filter: &TaskFilter,
    command: &TaskCommand,
    reason: &str,
    (after, most): (TaskId, i64),
    now: Stamp,
) -> Result<Vec<TaskId>, StoreError> {
    let (event, from) = match command {
        TaskCommand::Cancel => (Event::Cancel, "tasks WHERE true"),
        TaskCommand::Retry => (Event::Retry, "finished_tasks WHERE true"),
        TaskCommand::Resume => (Event::Resume, "tasks WHERE state = 'deferred_to_human'"),
        TaskCommand::Reassign { .. } => (Event::Reassign, "tasks WHERE state IN ('pending', 'deferred_to_human')"),
        TaskCommand::Close => (Event::Close, "tasks WHERE state = 'deferred_to_human'"),
        TaskCommand::Purge => (Event::Purge, "finished_tasks WHERE true"),
    };
    let mut query = QueryBuilder::new("SELECT id FROM ");
    query.push(from);
    push_filter(&mut query, filter);
    query.push(" AND id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(most.max(0));
    let ids: Vec<TaskId> = query.build_query_scalar().fetch_all(&mut *tx).await?;
    let mut done = Vec::with_capacity(ids.len());
    for id in ids {
        if let TaskCommand::Reassign { expert, model } = command {
            reassign(tx, id, expert, model.as_deref(), reason).await?;
        }
        if happen(tx, id, event, Words::reason(reason), now).await?.is_some() {
            done.push(id);
        }
    }
    Ok(done)
}

/// Before the event, so that what becomes pending follows the model of an expert that is known.
async fn reassign(
    tx: &mut SqliteConnection,
    id: TaskId,
    expert: &str,
    model: Option<&str>,
    reason: &str,
) -> Result<(), StoreError> {
    let why = if reason.is_empty() { "reassigned" } else { reason };
    sqlx::query(
        "UPDATE tasks SET expert = ?2, assigned_model = ?3, assignment_reason = ?4, candidates = '[]' WHERE id = ?1",
    )
    .bind(id)
    .bind(text(expert))
    .bind(model.map(text))
    .bind(text(why))
    .execute(tx)
    .await?;
    Ok(())
}
