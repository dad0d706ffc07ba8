//! What happens to tasks one by one, decided by the machine and written in batches. The two hot ways, claims and ends that are
//! final, are statements of their own.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::FromRow;
use sqlx::postgres::PgConnection;

use super::declaring;
use crate::store::StoreError;
use crate::store::stamp::Stamp;
use crate::store::text::json_text;
use crate::store::text::text;
use crate::store::words::{Words, tell_refused, with_attempt};
use crate::tasks::machine::{Life, TaskEvent, Transition, step};
use crate::tasks::{Task, TaskId, TaskState};

/// The columns that live and ended tasks have in common: all but the payload, which lists leave out, and the result, which live tasks don't have.
macro_rules! task_columns {
    (live) => {
        concat!(task_columns!(), ", coalesce(claimed_at, state_since) AS state_since")
    };
    (ended) => {
        concat!(task_columns!(), ", state_since")
    };
    () => {
        "id, namespace, queue, domain, role, model, priority, run_after, deadline, key, labels, state, created_at,
         expert, assignment_reason, assigned_model, attempts_used, free_requeues, leases_lost, cycle, epoch, reason, attempts,
         coalesce((SELECT l.names FROM candidate_lists AS l WHERE l.id = candidates), '[]')::json AS candidates"
    };
}

pub(super) use task_columns;

/// What goes along when a task ends or comes back: all but state, rank, lease and result. In the order of the tables, as rows are
/// read.
macro_rules! moved_columns {
    () => {
        "id, created_at, state_since, epoch, priority, attempts_used, free_requeues, leases_lost, cycle, bytes, namespace, queue,
         domain, role, labels, attempts, payload, run_after, deadline, expert, assignment_reason, candidates, assigned_model, model,
         key, reason"
    };
}

pub(super) use moved_columns;

/// An event of one task.
#[derive(Clone)]
pub(super) struct Happening {
    pub id: TaskId,
    pub event: TaskEvent,
    pub words: Words,
}

/// What the machine let happen.
struct Moved {
    task: Task,
    life: Life,
    words: Words,
    now: Stamp,
}

#[derive(FromRow)]
struct LockedTask {
    #[sqlx(flatten)]
    task: Task,
    now: Stamp,
}

const LIVE: &str = concat!(
    "WITH locked AS MATERIALIZED (SELECT ",
    task_columns!(live),
    ", NULL::json AS payload, NULL::json AS result FROM tasks
        WHERE id = ANY ($1) ORDER BY id FOR UPDATE)
     SELECT locked.*, clock_timestamp() AS now FROM locked"
);
const ENDED: &str = concat!(
    "WITH locked AS MATERIALIZED (SELECT ",
    task_columns!(ended),
    ", NULL::json AS payload, NULL::json AS result
        FROM finished_tasks WHERE id = ANY ($1) ORDER BY id FOR UPDATE)
     SELECT locked.*, clock_timestamp() AS now FROM locked"
);

/// What came of a batch.
#[derive(Default)]
pub(super) struct Happened {
    /// For each event what the task is then; `None`: the machine refused.
    pub next: Vec<Option<Transition>>,
    /// Namespace and expert of each execution that is over: they get their places back by `places::leave`, after all else.
    pub over: Vec<(String, String)>,
    /// Tasks that the database would not let go, where each is written apart.
    pub refused: Vec<TaskId>,
}

/// Lets events happen, at most one to each task.
pub(super) async fn happen(connection: &mut PgConnection, happenings: Vec<Happening>) -> Result<Happened, StoreError> {
    let of_ended = |one: &Happening| matches!(one.event, TaskEvent::Retry | TaskEvent::Purge);
    let mut live = lock(connection, LIVE, happenings.iter().filter(|one| !of_ended(one))).await?;
    let mut ended = lock(connection, ENDED, happenings.iter().filter(|one| of_ended(one))).await?;
    let mut happened = Happened::default();
    let (mut moved, mut gone) = (Vec::new(), Vec::new());
    for happening in happenings {
        let tasks = if of_ended(&happening) { &mut ended } else { &mut live };
        let Happening { id, event, words } = happening;
        let next = tasks.get(&id).and_then(|(task, now)| step(&Life::of(task), event, *now).ok());
        happened.next.push(next);
        let (Some(next), Some((task, now))) = (next, next.and_then(|_| tasks.remove(&id))) else { continue };
        if let (TaskState::InProgress, Some(expert)) = (task.state, &task.expert) {
            happened.over.push((task.namespace.clone(), expert.clone()));
        }
        match next {
            Transition::Gone => gone.push(id),
            Transition::Is(life) => moved.push(Moved { task, life, words, now: now.into() }),
        }
    }
    moved.sort_by_key(|moved| moved.task.id);
    purge(connection, &gone).await?;
    write(connection, &moved).await?;
    Ok(happened)
}

/// As [`happen`], by halves where the database refuses it for one task: what happens to the others is written all the same.
pub(super) async fn happen_apart(connection: &mut PgConnection, all: Vec<Happening>) -> Result<Happened, StoreError> {
    let (mut parts, mut happened) = (vec![all], Happened::default());
    while let Some(mut part) = parts.pop() {
        sqlx::raw_sql("SAVEPOINT part").execute(&mut *connection).await?;
        match happen(connection, part.clone()).await {
            Ok(Happened { next, over, refused: _ }) => {
                sqlx::raw_sql("RELEASE part").execute(&mut *connection).await?;
                happened.next.extend(next);
                happened.over.extend(over);
            }
            Err(StoreError::Refused(why)) => {
                sqlx::raw_sql("ROLLBACK TO part").execute(&mut *connection).await?;
                match &part[..] {
                    [one] => {
                        tell_refused(one.id, &why);
                        happened.refused.push(one.id);
                    }
                    _ => parts.extend([part.split_off(part.len() / 2), part]),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(happened)
}

async fn lock(
    connection: &mut PgConnection,
    statement: &'static str,
    happenings: impl Iterator<Item = &Happening>,
) -> Result<HashMap<TaskId, (Task, Timestamp)>, StoreError> {
    let ids: Vec<TaskId> = happenings.map(|one| one.id).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let records: Vec<LockedTask> = sqlx::query_as(statement).bind(ids).fetch_all(connection).await?;
    Ok(records.into_iter().map(|LockedTask { task, now }| (task.id, (task, now.into()))).collect())
}

/// Deletes ended tasks, keys and all; returns how many there were.
pub(super) async fn purge(connection: &mut PgConnection, ids: &[TaskId]) -> Result<u64, StoreError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let gone: i64 = sqlx::query_scalar(
        "WITH gone AS (DELETE FROM finished_tasks WHERE id = ANY ($1) RETURNING namespace, queue, key),
            keys AS (DELETE FROM task_keys AS k USING gone AS g
                WHERE k.namespace = g.namespace AND k.queue = g.queue AND k.key = g.key)
         SELECT count(*) FROM gone",
    )
    .bind(ids)
    .fetch_one(connection)
    .await?;
    Ok(u64::try_from(gone).unwrap_or(0))
}

async fn write(connection: &mut PgConnection, moved: &[Moved]) -> Result<(), StoreError> {
    if moved.is_empty() {
        return Ok(());
    }
    let ids =
        |which: fn(&Moved) -> bool| moved.iter().filter(|one| which(one)).map(|one| one.task.id).collect::<Vec<_>>();
    bring_back(connection, &ids(|one| one.task.state.is_terminal())).await?;
    update(connection, moved).await?;
    let ended: Vec<&Moved> = moved.iter().filter(|one| one.life.state.is_terminal()).collect();
    archive(connection, &ended).await?;
    let waiting = ids(|one| one.life.state == TaskState::Pending && one.life.assigned);
    declaring::refresh_tasks(connection, &waiting).await?;
    drop_own_leases(connection, &ids(|one| one.task.state == TaskState::InProgress)).await
}

/// A terminal state is written by [`archive`]: the table of live tasks has none. What waits for a human stands behind all others,
/// where no claim has to go over it.
async fn update(connection: &mut PgConnection, moved: &[Moved]) -> Result<(), StoreError> {
    let lives = || moved.iter().map(|moved| &moved.life);
    let state = |life: &Life| if life.state.is_terminal() { TaskState::DeferredToHuman } else { life.state };
    let since = |one: &Moved| if one.life.state == one.task.state { one.task.state_since.into() } else { one.now };
    let attempts = |one: &Moved| match &one.words.attempt {
        Some(attempt) => json_text(&with_attempt(one.task.attempts.clone(), attempt.clone()).0),
        None => json_text(&one.task.attempts),
    };
    sqlx::query(
        "UPDATE tasks AS t SET state = w.state, state_since = w.since, run_after = w.run_after, deadline = w.deadline,
            rank = CASE w.state WHEN 'pending' THEN task_rank(w.since, w.run_after, t.priority, clock_timestamp())
                ELSE 9223372036854775807 END, attempts_used = w.used,
            free_requeues = w.requeued, leases_lost = w.lost, cycle = w.cycle, epoch = w.epoch, reason = w.reason,
            attempts = w.attempts::json, lease = NULL, claimed_at = NULL
         FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::integer[],
            $7::integer[], $8::integer[], $9::integer[], $10::bigint[], $11::text[], $12::text[])
            AS w (id, state, since, run_after, deadline, used, requeued, lost, cycle, epoch, reason, attempts)
         WHERE t.id = w.id",
    )
    .bind(moved.iter().map(|one| one.task.id).collect::<Vec<_>>())
    .bind(lives().map(|life| state(life).as_str()).collect::<Vec<_>>())
    .bind(moved.iter().map(since).collect::<Vec<Stamp>>())
    .bind(lives().map(|life| life.run_after.map(Stamp::from)).collect::<Vec<_>>())
    .bind(lives().map(|life| life.deadline.map(Stamp::from)).collect::<Vec<_>>())
    .bind(lives().map(|life| life.attempts_used).collect::<Vec<_>>())
    .bind(lives().map(|life| life.free_requeues).collect::<Vec<_>>())
    .bind(lives().map(|life| life.leases_lost).collect::<Vec<_>>())
    .bind(lives().map(|life| life.cycle).collect::<Vec<_>>())
    .bind(lives().map(|life| life.epoch).collect::<Vec<_>>())
    .bind(moved.iter().map(|one| one.words.reason.as_deref().map(text)).collect::<Vec<_>>())
    .bind(moved.iter().map(attempts).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn archive(connection: &mut PgConnection, ended: &[&Moved]) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        "WITH gone AS (
            DELETE FROM tasks AS t USING unnest($1::bigint[], $2::text[], $3::text[]) AS w (id, ended, result)
            WHERE t.id = w.id RETURNING t.*, w.ended, w.result)
         INSERT INTO finished_tasks (state, result, ",
        moved_columns!(),
        ")
         SELECT ended, result::json, ",
        moved_columns!(),
        " FROM gone"
    ))
    .bind(ended.iter().map(|moved| moved.task.id).collect::<Vec<_>>())
    .bind(ended.iter().map(|moved| moved.life.state.as_str()).collect::<Vec<_>>())
    .bind(ended.iter().map(|moved| moved.words.result.as_ref().map(json_text)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// As deferred, until [`update`] says better.
async fn bring_back(connection: &mut PgConnection, ids: &[TaskId]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    // The result stays behind.
    sqlx::query(
        "UPDATE finished_tasks SET bytes = bytes - octet_length(result::text) WHERE id = ANY ($1) AND result IS NOT NULL",
    )
    .bind(ids)
    .execute(&mut *connection)
    .await?;
    sqlx::query(concat!(
        "WITH back AS (DELETE FROM finished_tasks WHERE id = ANY ($1) RETURNING *)
         INSERT INTO tasks (state, rank, ",
        moved_columns!(),
        ") SELECT 'deferred_to_human', 0, ",
        moved_columns!(),
        " FROM back"
    ))
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// The leases that were made for these tasks alone, when they were handed over.
async fn drop_own_leases(connection: &mut PgConnection, ran: &[TaskId]) -> Result<(), StoreError> {
    if ran.is_empty() {
        return Ok(());
    }
    // One that is locked is being reaped: whoever does that waits for these tasks.
    sqlx::query(
        "DELETE FROM leases WHERE id = ANY (ARRAY(
            SELECT id FROM leases WHERE holder = ANY ($1) ORDER BY id FOR UPDATE SKIP LOCKED))",
    )
    .bind(ran.iter().map(|id| format!("task/{id}")).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
