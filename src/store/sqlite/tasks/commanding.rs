//! Commands of people and programs.

use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::moving::happen;
use crate::store::batch::BATCH_BYTES;
use crate::store::filter::CommandBatch;
use crate::store::filter::{TaskPart, push_filter};
use crate::store::stamp::Stamp;
use crate::store::text::text;
use crate::store::words::Words;
use crate::store::{StoreError, TaskCommand, TaskFilter};
use crate::tasks::TaskId;

/// The oldest that match and that the command applies to, from above `after`: at most `most`, and no more bytes than one transaction
/// copies in its time.
pub(super) async fn command(
    tx: &mut SqliteConnection,
    filter: &TaskFilter,
    command: &TaskCommand,
    reason: &str,
    (after, most): (TaskId, i64),
    now: Stamp,
) -> Result<CommandBatch, StoreError> {
    let (event, part, states) = command.applies_to();
    let ids = choose(tx, (part, states), filter, (after, most), |_| {}).await?;
    let last = ids.last().copied();
    let mut done = Vec::with_capacity(ids.len());
    for id in ids {
        if let TaskCommand::Reassign { expert, model } = command {
            reassign(tx, id, expert, model.as_deref(), reason).await?;
        }
        if happen(tx, id, event, Words::reason(reason), now).await?.is_some() {
            done.push(id);
        }
    }
    Ok(CommandBatch { done, last })
}

/// A batch of what matches, in the order of ids.
pub(super) async fn choose(
    tx: &mut SqliteConnection,
    (part, states): (TaskPart, &str),
    filter: &TaskFilter,
    (after, most): (TaskId, i64),
    more: impl Fn(&mut QueryBuilder<Sqlite>),
) -> Result<Vec<TaskId>, StoreError> {
    let mut query = QueryBuilder::new(
        "SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM (SELECT id, octet_length(payload) AS bytes FROM ",
    );
    query.push(part.table()).push(" WHERE ").push(states);
    push_filter(&mut query, filter, part);
    more(&mut query);
    query.push(" AND id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(most.max(0));
    query.push(")) WHERE before < ").push_bind(BATCH_BYTES).push(" ORDER BY id");
    Ok(query.build_query_scalar().fetch_all(tx).await?)
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
