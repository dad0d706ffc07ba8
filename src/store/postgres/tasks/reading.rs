//! Tasks as people and programs see them. What may be live or ended is read by one statement: a task that moves is seen once.

use std::collections::BTreeMap;

use sqlx::types::Json;
use sqlx::{FromRow, Postgres, QueryBuilder};

use super::columns::task_columns;
use super::filter::push_filter;
use crate::store::batch::PAGE_BYTES;
use crate::store::postgres::PostgresStore;
use crate::store::stamp::Stamp;
use crate::store::task_rows::{TaskRecord, WaitingRecord};
use crate::store::{
    ExpertLoad, QueueCounts, SETTLED, StoreError, TaskCursor, TaskFilter, TaskPage, WaitingGroup, WorkerReport,
    WorkerRow,
};
use crate::tasks::{QueueKey, Task, TaskState};

/// How far back ended tasks are counted, in seconds.
const COUNTED: i64 = 24 * 3_600;
const LONGEST_PAGE: i64 = 1_000;

/// Live or ended: each has its table.
#[derive(Clone, Copy)]
enum Part {
    Live,
    Ended,
}

impl Part {
    const fn select(self, brief: bool) -> &'static str {
        match (self, brief) {
            (Self::Live, true) => {
                concat!(
                    "SELECT ",
                    task_columns!(),
                    ", NULL::json AS payload, NULL::json AS result FROM tasks WHERE true"
                )
            }
            (Self::Live, false) => {
                concat!("SELECT ", task_columns!(), ", payload, NULL::json AS result, bytes FROM tasks WHERE true")
            }
            (Self::Ended, true) => {
                concat!(
                    "SELECT ",
                    task_columns!(),
                    ", NULL::json AS payload, NULL::json AS result FROM finished_tasks WHERE true"
                )
            }
            (Self::Ended, false) => {
                concat!("SELECT ", task_columns!(), ", payload, result, bytes FROM finished_tasks WHERE true")
            }
        }
    }

    fn may_have(self, states: &[TaskState]) -> bool {
        states.is_empty() || states.iter().any(|state| state.is_terminal() == matches!(self, Self::Ended))
    }
}

/// A statement over both parts, as far as the filter's states are in them: each is ordered and limited, and then both together. Whole
/// tasks are no more than [`PAGE_BYTES`], but for the last one.
fn over_parts(
    filter: &TaskFilter,
    brief: bool,
    order: &str,
    limit: i64,
    more: impl Fn(&mut QueryBuilder<Postgres>),
) -> Option<QueryBuilder<Postgres>> {
    let parts: Vec<Part> = [Part::Live, Part::Ended].into_iter().filter(|part| part.may_have(&filter.states)).collect();
    let mut query = QueryBuilder::new("");
    if !brief {
        query
            .push("SELECT * FROM (SELECT page.*, sum(bytes) OVER (ORDER BY ")
            .push(order)
            .push(") - bytes AS before FROM (");
    }
    query.push("SELECT * FROM (");
    for (at, part) in parts.iter().enumerate() {
        query.push(if at > 0 { " UNION ALL (" } else { "(" }).push(part.select(brief));
        push_filter(&mut query, filter);
        more(&mut query);
        query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(limit).push(")");
    }
    query.push(") AS parts ORDER BY ").push(order).push(" LIMIT ").push_bind(limit);
    if !brief {
        query.push(") AS page) AS sized WHERE before < ").push_bind(PAGE_BYTES).push(" ORDER BY ").push(order);
    }
    (!parts.is_empty()).then_some(query)
}

async fn fetch(store: &PostgresStore, query: Option<QueryBuilder<Postgres>>) -> Result<Vec<Task>, StoreError> {
    let Some(mut query) = query else { return Ok(Vec::new()) };
    let records: Vec<TaskRecord> = store.fetch(query.build_query_as()).await?;
    records.into_iter().map(Task::try_from).collect()
}

pub(super) async fn page(store: &PostgresStore, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError> {
    let limit = page.limit.clamp(1, LONGEST_PAGE);
    let query = over_parts(filter, page.brief, "id DESC", limit, |query| {
        if let Some(before) = page.before {
            query.push(" AND id < ").push_bind(before);
        }
    });
    fetch(store, query).await
}

/// Until when everything that changed is committed. A transaction that changes tasks has a lock on their table and began before the
/// time of its changes, however long its commit takes; one that had none yet when this was asked comes later than [`SETTLED`] ago. This
/// is asked before the changes are read: what ends in between is seen.
const SETTLED_UNTIL: &str = "SELECT least(clock_timestamp() - $1 * interval '1 microsecond', (
        SELECT min(coalesce(a.xact_start, clock_timestamp() - interval '1 minute')) - interval '1 microsecond'
        FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE l.locktype = 'relation' AND l.relation = 'tasks'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())))";

/// Oldest change first, of what nobody can overtake any more.
pub(super) async fn changes(
    store: &PostgresStore,
    filter: &TaskFilter,
    after: Option<TaskCursor>,
    limit: i64,
    brief: bool,
) -> Result<Vec<Task>, StoreError> {
    let settled = sqlx::query_as(SETTLED_UNTIL).bind(i64::try_from(SETTLED.as_micros()).unwrap_or(i64::MAX));
    let settled: Vec<(Stamp,)> = store.fetch(settled).await?;
    let Some((until,)) = settled.into_iter().next() else { return Ok(Vec::new()) };
    let query = over_parts(filter, brief, "state_since, id", limit.clamp(1, LONGEST_PAGE), |query| {
        query.push(" AND state_since <= ").push_bind(until);
        if let Some(TaskCursor { at, id }) = after {
            // The first condition is for the index.
            query.push(" AND state_since >= ").push_bind(Stamp::from(at));
            query.push(" AND (state_since, id) > (").push_bind(Stamp::from(at)).push(", ").push_bind(id).push(")");
        }
    });
    fetch(store, query).await
}

pub(super) async fn count(store: &PostgresStore, filter: &TaskFilter) -> Result<i64, StoreError> {
    let mut query = QueryBuilder::new("SELECT (SELECT count(*) FROM tasks WHERE true");
    push_filter(&mut query, filter);
    query.push(") + (SELECT count(*) FROM finished_tasks WHERE true");
    push_filter(&mut query, filter);
    query.push(")");
    let counts: Vec<(i64,)> = store.fetch(query.build_query_as()).await?;
    Ok(counts.into_iter().map(|(count,)| count).sum())
}

#[derive(FromRow)]
struct Count {
    namespace: String,
    queue: String,
    state: String,
    count: i64,
    unassigned: i64,
    oldest: Option<Stamp>,
}

macro_rules! live_counts {
    () => {
        "SELECT namespace, queue, state, count(*) AS count, count(*) FILTER (WHERE assignment_reason IS NULL) AS unassigned,
            min(state_since) FILTER (WHERE state <> 'pending' OR run_after IS NULL OR run_after <= statement_timestamp()) AS oldest
         FROM tasks GROUP BY namespace, queue, state"
    };
}

pub(super) async fn queue_counts(store: &PostgresStore) -> Result<Vec<QueueCounts>, StoreError> {
    let counts = sqlx::query_as(concat!(
        live_counts!(),
        " UNION ALL SELECT namespace, queue, state, count(*), 0, NULL FROM finished_tasks
          WHERE state_since >= statement_timestamp() - $1 * interval '1 second' GROUP BY namespace, queue, state"
    ));
    Ok(by_queue(store.fetch(counts.bind(COUNTED)).await?))
}

pub(super) async fn live_counts(store: &PostgresStore) -> Result<Vec<QueueCounts>, StoreError> {
    Ok(by_queue(store.fetch(sqlx::query_as(live_counts!())).await?))
}

fn by_queue(counts: Vec<Count>) -> Vec<QueueCounts> {
    let mut queues: BTreeMap<(String, String), QueueCounts> = BTreeMap::new();
    for Count { namespace, queue, state, count, unassigned, oldest } in counts {
        let row = queues.entry((namespace.clone(), queue.clone())).or_insert(QueueCounts {
            namespace,
            queue,
            pending: 0,
            unassigned: 0,
            in_progress: 0,
            deferred_to_human: 0,
            completed: 0,
            failed: 0,
            oldest_pending: None,
            oldest_deferred: None,
        });
        match TaskState::parse(&state) {
            Some(TaskState::Pending) => {
                row.pending = count;
                row.unassigned = unassigned;
                row.oldest_pending = oldest.map(Into::into);
            }
            Some(TaskState::InProgress) => row.in_progress = count,
            Some(TaskState::DeferredToHuman) => {
                row.deferred_to_human = count;
                row.oldest_deferred = oldest.map(Into::into);
            }
            Some(TaskState::Completed) => row.completed = count,
            Some(TaskState::Failed) => row.failed = count,
            Some(TaskState::Cancelled) | None => {}
        }
    }
    queues.into_values().collect()
}

pub(super) async fn waiting(store: &PostgresStore) -> Result<Vec<WaitingGroup>, StoreError> {
    let groups = sqlx::query_as(
        "SELECT namespace, queue, domain, role, expert, assigned_model,
            run_after IS NULL OR run_after <= statement_timestamp() AS due, count(*) AS count, min(state_since) AS oldest
         FROM tasks WHERE state = 'pending'
         GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5 NULLS FIRST, 6 NULLS FIRST, 7",
    );
    let groups: Vec<WaitingRecord> = store.fetch(groups).await?;
    Ok(groups.into_iter().map(Into::into).collect())
}

/// Stops at the first one: cheap however many wait.
pub(super) async fn slots_wanted(store: &PostgresStore, queues: &[QueueKey]) -> Result<bool, StoreError> {
    let wanted = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS q (namespace, queue) CROSS JOIN LATERAL (
            SELECT FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND t.state = 'pending'
                AND t.assignment_reason IS NOT NULL AND t.assigned_model IS NOT NULL
                AND t.rank < 4611686018427387904 LIMIT 1) AS first)",
    )
    .bind(queues.iter().map(|queue| queue.namespace.as_str()).collect::<Vec<_>>())
    .bind(queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>());
    let wanted: Vec<(bool,)> = store.fetch(wanted).await?;
    Ok(wanted.iter().any(|(wanted,)| *wanted))
}

pub(super) async fn expert_loads(store: &PostgresStore) -> Result<Vec<ExpertLoad>, StoreError> {
    let loads = sqlx::query_as(
        "SELECT namespace, expert, count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'in_progress')
         FROM tasks WHERE expert IS NOT NULL AND state IN ('pending', 'in_progress')
         GROUP BY namespace, expert ORDER BY 1, 2",
    );
    let loads: Vec<(String, String, i64, i64)> = store.fetch(loads).await?;
    let load = |(namespace, expert, pending, in_progress)| ExpertLoad { namespace, expert, pending, in_progress };
    Ok(loads.into_iter().map(load).collect())
}

pub(super) async fn workers(store: &PostgresStore) -> Result<Vec<WorkerRow>, StoreError> {
    let reports = sqlx::query_as("SELECT report, reported_at, clock_timestamp() FROM workers ORDER BY holder");
    let rows: Vec<(Json<WorkerReport>, Stamp, Stamp)> = store.fetch(reports).await?;
    let row = |(Json(report), at, now): (Json<WorkerReport>, Stamp, Stamp)| WorkerRow { report, age: at.until(now) };
    Ok(rows.into_iter().map(row).collect())
}
