//! Ends of executions. Final ones, by far the most, are moved to the ended tasks by one statement.

use std::collections::HashSet;

use sqlx::FromRow;
use sqlx::postgres::{PgConnection, PgRow};

use super::moving::moved_columns;
use super::moving::{Happening, happen};
use super::places;
use crate::store::StoreError;
use crate::store::text::json_text;
use crate::store::text::text;
use crate::store::words::{Words, reason_of};
use crate::tasks::machine::{End, TaskEvent};
use crate::tasks::{Completion, TaskId, TaskState, Verdict};

/// Which completions changed something. Of two for one execution the first counts. Where all are final this is one statement, which
/// needs no transaction around it.
pub(super) async fn complete(
    connection: &mut PgConnection,
    completions: &[Completion],
) -> Result<Vec<bool>, StoreError> {
    let mut seen = HashSet::new();
    let counted: Vec<bool> = completions.iter().map(|one| seen.insert((one.task, one.epoch))).collect();
    let (mut last, mut others) = (Vec::new(), Vec::new());
    for (one, _) in completions.iter().zip(&counted).filter(|(_, counted)| **counted) {
        if one.verdict.is_final() { last.push(one) } else { others.push(one) }
    }
    last.sort_by_key(|one| (one.task, one.epoch));
    let done = if others.is_empty() {
        // One row for all, which costs less to send and to read than one for each.
        let mut told: Vec<(Vec<TaskId>, Vec<i64>)> = finish(connection, FINISH_ALL, &last).await?;
        told.pop().map(|(ids, epochs)| ids.into_iter().zip(epochs).collect()).unwrap_or_default()
    } else {
        lock(connection, &seen).await?;
        several(connection, &last, others).await?
    };
    let changed = |(one, counted): (&Completion, bool)| counted && done.contains(&(one.task, one.epoch));
    Ok(completions.iter().zip(counted).map(changed).collect())
}

/// Places are given back after all else.
async fn several(
    connection: &mut PgConnection,
    last: &[&Completion],
    others: Vec<&Completion>,
) -> Result<HashSet<(TaskId, i64)>, StoreError> {
    let finished: Vec<(TaskId, i64, String, String)> = finish(connection, FINISH, last).await?;
    let happened = happen(connection, others.iter().map(|one| happening(one)).collect()).await?;
    let changed = others.iter().zip(&happened.next).filter(|(_, next)| next.is_some());
    let mut done: HashSet<_> = changed.map(|(one, _)| (one.task, one.epoch)).collect();
    let mut over = happened.over;
    for (id, epoch, namespace, expert) in finished {
        done.insert((id, epoch));
        over.push((namespace, expert));
    }
    places::leave(connection, over).await?;
    Ok(done)
}

const fn final_state(verdict: &Verdict) -> Option<TaskState> {
    match verdict {
        Verdict::Completed { .. } => Some(TaskState::Completed),
        Verdict::Failed { .. } => Some(TaskState::Failed),
        Verdict::Cancelled { .. } => Some(TaskState::Cancelled),
        Verdict::Retry { .. } | Verdict::Requeue { .. } | Verdict::DeferredToHuman { .. } => None,
    }
}

fn happening(completion: &Completion) -> Happening {
    let Completion { task, epoch, verdict, .. } = completion;
    Happening {
        id: *task,
        event: TaskEvent::End { epoch: *epoch, end: End::from(verdict) },
        words: Words::of(completion),
    }
}

/// Where two statements are to change tasks, so that their locks are in one order.
async fn lock(connection: &mut PgConnection, claims: &HashSet<(TaskId, i64)>) -> Result<(), StoreError> {
    sqlx::query("SELECT FROM tasks WHERE id = ANY ($1) ORDER BY id FOR UPDATE")
        .bind(claims.iter().map(|(task, _)| *task).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// As the machine has it for each final end in progress with the same epoch: a cancelled one is counted as given back, others as
/// an attempt used. Sorted by id, which is the order of locks; a lease of its own that is locked is being reaped anyway.
macro_rules! finish {
    ($more:literal, $told:literal) => {
        concat!(
            "WITH gone AS (
                DELETE FROM tasks AS t
                USING unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
                    AS w (id, epoch, ended, result, why, attempt)
                WHERE t.id = w.id AND t.epoch = w.epoch AND t.lease IS NOT NULL
                RETURNING t.lease, t.id, t.created_at, clock_timestamp(), t.epoch, t.priority,
                    t.attempts_used + (w.ended <> 'cancelled')::integer, t.free_requeues + (w.ended = 'cancelled')::integer,
                    t.leases_lost, t.cycle, t.bytes + coalesce(octet_length(w.result), 0), t.namespace, t.queue, t.domain, t.role, t.labels,
                    CASE WHEN t.attempts::text = '[]' THEN ('[' || w.attempt || ']')::json ELSE
                        (CASE WHEN json_array_length(t.attempts) < 20 THEN t.attempts::jsonb ELSE t.attempts::jsonb - 0 END
                            || w.attempt::jsonb)::json END,
                    t.payload, t.run_after, t.deadline, t.expert, t.assignment_reason, t.candidates, t.assigned_model,
                    t.model, t.key, w.why, w.ended, w.result::json
            ), own AS (
                DELETE FROM leases WHERE id = ANY (ARRAY(SELECT l.id FROM leases AS l
                    WHERE l.holder LIKE 'task/%' AND l.id = ANY (ARRAY(SELECT DISTINCT lease FROM gone)) FOR UPDATE SKIP LOCKED))
            ), kept AS (
                INSERT INTO finished_tasks (",
            moved_columns!(),
            ", state, result) SELECT ",
            moved_columns!(),
            ", state, result FROM gone AS g (lease, ",
            moved_columns!(),
            ", state, result) RETURNING id, epoch, namespace, expert
            )",
            $more,
            " SELECT ",
            $told,
            " FROM kept"
        )
    };
}

const FINISH: &str = finish!("", "id, epoch, namespace, expert");
/// And gives the places back: within the statement, so that nobody waits for them while answers travel.
const FINISH_ALL: &str = finish!(
    ", locked AS MATERIALIZED (
        SELECT p.namespace, p.expert, w.count FROM expert_places AS p
        JOIN (SELECT namespace, expert, count(*)::integer AS count FROM kept GROUP BY 1, 2) AS w
            ON p.namespace = w.namespace AND p.expert = w.expert
        ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p
    ), freed AS (
        UPDATE expert_places AS p SET running = greatest(p.running - l.count, 0) FROM locked AS l
        WHERE p.namespace = l.namespace AND p.expert = l.expert
    )",
    "coalesce(array_agg(id), '{}'), coalesce(array_agg(epoch), '{}')"
);

/// What the statement tells of each execution that is over.
async fn finish<T>(
    connection: &mut PgConnection,
    statement: &'static str,
    last: &[&Completion],
) -> Result<Vec<T>, StoreError>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    if last.is_empty() {
        return Ok(Vec::new());
    }
    let result = |one: &&Completion| match &one.verdict {
        Verdict::Completed { result } => Some(json_text(result)),
        _ => None,
    };
    let state = |one: &&Completion| final_state(&one.verdict).unwrap_or(TaskState::Failed).as_str();
    let finished = sqlx::query_as(statement)
        .bind(last.iter().map(|one| one.task).collect::<Vec<_>>())
        .bind(last.iter().map(|one| one.epoch).collect::<Vec<_>>())
        .bind(last.iter().map(state).collect::<Vec<_>>())
        .bind(last.iter().map(result).collect::<Vec<_>>())
        .bind(last.iter().map(|one| reason_of(&one.verdict).map(text)).collect::<Vec<_>>())
        .bind(last.iter().map(|one| json_text(&one.attempt)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(finished)
}

pub(super) async fn lost(connection: &mut PgConnection, claims: &[(TaskId, i64)]) -> Result<Vec<TaskId>, StoreError> {
    let lost = sqlx::query_scalar(
        "SELECT w.id FROM unnest($1::bigint[], $2::bigint[]) AS w (id, epoch) WHERE NOT EXISTS (
            SELECT FROM tasks AS t WHERE t.id = w.id AND t.epoch = w.epoch AND t.state = 'in_progress')",
    )
    .bind(claims.iter().map(|(task, _)| *task).collect::<Vec<_>>())
    .bind(claims.iter().map(|(_, epoch)| *epoch).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(lost)
}
