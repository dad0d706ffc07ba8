//! Commands of people and programs.

use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder};

use super::moving::{Happening, happen};
use super::places;
use crate::store::batch::BATCH_BYTES;
use crate::store::filter::CommandBatch;
use crate::store::filter::{TaskPart, push_filter};
use crate::store::text::text;
use crate::store::words::Words;
use crate::store::{StoreError, TaskCommand, TaskFilter};
use crate::tasks::TaskId;
use crate::tasks::machine::TaskEvent;

/// The oldest that match and that the command applies to, from above `after`: at most `most`, and no more bytes than one transaction
/// copies in its time.
pub(super) async fn command(
    connection: &mut PgConnection,
    filter: &TaskFilter,
    command: &TaskCommand,
    reason: &str,
    (after, most): (TaskId, i64),
) -> Result<CommandBatch, StoreError> {
    let (event, part, states) = command.applies_to();
    let ids = choose(connection, (part, states), filter, (after, most), |_| {}).await?;
    if let TaskCommand::Reassign { expert, model } = command {
        reassign(connection, &ids, expert, model.as_deref(), reason).await?;
    }
    let last = ids.last().copied();
    Ok(CommandBatch { done: let_happen(connection, ids, event, reason).await?, last })
}

/// Locks a batch of what matches, in the order of ids.
pub(super) async fn choose(
    connection: &mut PgConnection,
    (part, states): (TaskPart, &str),
    filter: &TaskFilter,
    (after, most): (TaskId, i64),
    more: impl Fn(&mut QueryBuilder<Postgres>),
) -> Result<Vec<TaskId>, StoreError> {
    let mut query = QueryBuilder::new("SELECT id FROM ");
    query
        .push(part.table())
        .push(" WHERE ")
        .push(states)
        .push(" AND id = ANY (ARRAY(SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM (");
    query.push("SELECT id, bytes FROM ").push(part.table()).push(" WHERE ").push(states);
    push_filter(&mut query, filter, part);
    more(&mut query);
    query.push(" AND id > ").push_bind(after).push(" ORDER BY id LIMIT ").push_bind(most.max(0));
    query.push(") AS found) AS sized WHERE before < ").push_bind(BATCH_BYTES).push("))");
    push_filter(&mut query, filter, part);
    query.push(" ORDER BY id FOR UPDATE");
    Ok(query.build_query_scalar().fetch_all(connection).await?)
}

/// Lets an event happen to each; returns those that it happened to.
pub(super) async fn let_happen(
    connection: &mut PgConnection,
    ids: Vec<TaskId>,
    event: TaskEvent,
    reason: &str,
) -> Result<Vec<TaskId>, StoreError> {
    let happening = |id: &TaskId| Happening { id: *id, event, words: Words::reason(reason) };
    let happened = happen(connection, ids.iter().map(happening).collect()).await?;
    places::leave(connection, happened.over).await?;
    Ok(ids.into_iter().zip(happened.next).filter(|(_, next)| next.is_some()).map(|(id, _)| id).collect())
}

/// Before the event, so that what becomes pending follows the model of an expert that is known.
async fn reassign(
    connection: &mut PgConnection,
    ids: &[TaskId],
    expert: &str,
    model: Option<&str>,
    reason: &str,
) -> Result<(), StoreError> {
    let why = if reason.is_empty() { "reassigned" } else { reason };
    let namespaces: Vec<(String, String)> = sqlx::query_as(
        "UPDATE tasks SET expert = $2, assigned_model = $3, assignment_reason = $4, candidates = NULL WHERE id = ANY ($1)
         RETURNING namespace, expert",
    )
    .bind(ids)
    .bind(text(expert))
    .bind(model.map(text))
    .bind(text(why))
    .fetch_all(&mut *connection)
    .await?;
    places::none_for_unknown(connection, namespaces.into_iter()).await
}
