//! Tasks as people and programs see them.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::types::Json;
use sqlx::{FromRow, QueryBuilder, Sqlite, SqliteConnection};

use crate::store::batch::PAGE_BYTES;
use crate::store::stamp::Stamp;
use crate::store::task_rows::{TaskRecord, WaitingRecord};
use crate::store::text::{json_text, text};
use crate::store::{
    ExpertLoad, QueueCounts, StoreError, TaskCursor, TaskFilter, TaskPage, WaitingGroup, WorkerReport, WorkerRow,
};
use crate::tasks::{QueueKey, Task, TaskState};

/// How far back ended tasks are counted.
const COUNTED: Duration = Duration::from_secs(24 * 3_600);
const LONGEST_PAGE: i64 = 1_000;

/// Live or ended: each has its table.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Live,
    Ended,
}

impl Part {
    const fn columns(self, brief: bool) -> &'static str {
        match (self, brief) {
            (_, true) => columns!("NULL", "NULL"),
            (Self::Live, false) => columns!("payload", "NULL"),
            (Self::Ended, false) => columns!("payload", "result"),
        }
    }

    /// Read without what may be large.
    const fn bytes(self) -> &'static str {
        match self {
            Self::Live => "octet_length(payload)",
            Self::Ended => "octet_length(payload) + coalesce(octet_length(result), 0)",
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Self::Live => "tasks",
            Self::Ended => "finished_tasks",
        }
    }

    fn may_have(self, states: &[TaskState]) -> bool {
        states.is_empty() || states.iter().any(|state| state.is_terminal() == matches!(self, Self::Ended))
    }
}

/// Adds the conditions of a filter, after a `WHERE true`.
pub(super) fn push_filter(query: &mut QueryBuilder<Sqlite>, filter: &TaskFilter) {
    let TaskFilter {
        ids,
        namespace,
        queue,
        states,
        domain,
        role,
        expert,
        unassigned,
        key,
        labels,
        since,
        until,
        created_before,
    } = filter;
    for (column, wanted) in [
        (" AND namespace = ", namespace),
        (" AND queue = ", queue),
        (" AND domain = ", domain),
        (" AND role = ", role),
        (" AND expert = ", expert),
        (" AND key = ", key),
    ] {
        if let Some(wanted) = wanted {
            query.push(column).push_bind(text(wanted).into_owned());
        }
    }
    if !ids.is_empty() {
        query.push(" AND id IN (SELECT value FROM json_each(").push_bind(Json(ids.clone())).push("))");
    }
    if !states.is_empty() {
        query.push(" AND state IN (SELECT value FROM json_each(").push_bind(Json(states.clone())).push("))");
    }
    match unassigned {
        Some(true) => _ = query.push(" AND expert IS NULL"),
        Some(false) => _ = query.push(" AND expert IS NOT NULL"),
        None => {}
    }
    if !labels.is_empty() {
        query
            .push(" AND NOT EXISTS (SELECT 1 FROM json_each(")
            .push_bind(json_text(labels))
            .push(") AS want WHERE NOT EXISTS (SELECT 1 FROM json_each(labels) AS has WHERE has.key = want.key AND has.value = want.value))");
    }
    if let Some(since) = since {
        query.push(" AND state_since >= ").push_bind(Stamp::from(*since));
    }
    if let Some(until) = until {
        query.push(" AND state_since < ").push_bind(Stamp::from(*until));
    }
    if let Some(before) = created_before {
        query.push(" AND created_at < ").push_bind(Stamp::from(*before));
    }
}

/// Which tasks are read, in which order.
struct Query<'a, F: Fn(&mut QueryBuilder<Sqlite>)> {
    filter: &'a TaskFilter,
    brief: bool,
    order: &'static str,
    limit: i64,
    conditions: F,
}

impl<F: Fn(&mut QueryBuilder<Sqlite>)> Query<'_, F> {
    fn parts(&self) -> impl Iterator<Item = Part> {
        [Part::Live, Part::Ended].into_iter().filter(|part| part.may_have(&self.filter.states))
    }

    /// In one transaction: a task that moves is seen once. Unordered.
    async fn read(&self, connection: &mut SqliteConnection) -> Result<Vec<Task>, StoreError> {
        let whole = if self.brief { None } else { Some(Json(self.ids(connection).await?)) };
        let mut tasks = Vec::new();
        for part in self.parts() {
            let mut query = QueryBuilder::new("SELECT ");
            query.push(part.columns(self.brief)).push(" FROM ").push(part.table()).push(" WHERE true");
            match &whole {
                Some(ids) => {
                    query.push(" AND id IN (SELECT value FROM json_each(").push_bind(ids).push("))");
                }
                None => self.push_end(&mut query),
            }
            let records: Vec<TaskRecord> = query.build_query_as().fetch_all(&mut *connection).await?;
            for record in records {
                tasks.push(Task::try_from(record)?);
            }
        }
        Ok(tasks)
    }

    /// Of whole tasks no more than [`PAGE_BYTES`], but for the last one. What may be large is not read for that.
    async fn ids(&self, connection: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
        let mut query = QueryBuilder::new("SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY ");
        query
            .push(self.order)
            .push(") - bytes AS before FROM (SELECT * FROM (SELECT 0 AS id, 0 AS state_since, 0 AS bytes WHERE false)");
        for part in self.parts() {
            query.push(" UNION ALL SELECT * FROM (SELECT id, state_since, ").push(part.bytes()).push(" AS bytes FROM ");
            query.push(part.table()).push(" WHERE true");
            self.push_end(&mut query);
            query.push(")");
        }
        query.push(" ORDER BY ").push(self.order).push(" LIMIT ").push_bind(self.limit);
        query.push(")) WHERE before < ").push_bind(PAGE_BYTES);
        Ok(query.build_query_scalar().fetch_all(connection).await?)
    }

    fn push_end(&self, query: &mut QueryBuilder<Sqlite>) {
        push_filter(query, self.filter);
        (self.conditions)(query);
        query.push(" ORDER BY ").push(self.order).push(" LIMIT ").push_bind(self.limit);
    }
}

pub(super) async fn page(
    connection: &mut SqliteConnection,
    filter: &TaskFilter,
    page: &TaskPage,
) -> Result<Vec<Task>, StoreError> {
    let limit = page.limit.clamp(1, LONGEST_PAGE);
    let conditions = |query: &mut QueryBuilder<Sqlite>| {
        if let Some(before) = page.before {
            query.push(" AND id < ").push_bind(before);
        }
    };
    let query = Query { filter, brief: page.brief, order: "id DESC", limit, conditions };
    let mut tasks = query.read(connection).await?;
    tasks.sort_by_key(|task| std::cmp::Reverse(task.id));
    tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(tasks)
}

/// Tasks by when they came into their state, of what had settled by `until`.
pub(super) async fn changes(
    connection: &mut SqliteConnection,
    filter: &TaskFilter,
    after: Option<TaskCursor>,
    until: Stamp,
    limit: i64,
    brief: bool,
) -> Result<Vec<Task>, StoreError> {
    let limit = limit.clamp(1, LONGEST_PAGE);
    let conditions = |query: &mut QueryBuilder<Sqlite>| {
        query.push(" AND state_since <= ").push_bind(until);
        if let Some(TaskCursor { at, id }) = after {
            query.push(" AND (state_since, id) > (").push_bind(Stamp::from(at)).push(", ").push_bind(id).push(")");
        }
    };
    let query = Query { filter, brief, order: "state_since, id", limit, conditions };
    let mut tasks = query.read(connection).await?;
    tasks.sort_by_key(|task| (task.state_since, task.id));
    tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(tasks)
}

pub(super) async fn count(connection: &mut SqliteConnection, filter: &TaskFilter) -> Result<i64, StoreError> {
    let mut count = 0;
    for part in [Part::Live, Part::Ended] {
        if part.may_have(&filter.states) {
            let mut query = QueryBuilder::new("SELECT count(*) FROM ");
            query.push(part.table()).push(" WHERE true");
            push_filter(&mut query, filter);
            count += query.build_query_scalar::<i64>().fetch_one(&mut *connection).await?;
        }
    }
    Ok(count)
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
        "SELECT namespace, queue, state, count(*) AS count, sum(assignment_reason IS NULL) AS unassigned,
            min(state_since) FILTER (WHERE state <> 'pending' OR coalesce(run_after, ?1) <= ?1) AS oldest
         FROM tasks GROUP BY namespace, queue, state"
    };
}

pub(super) async fn queue_counts(
    connection: &mut SqliteConnection,
    now: Stamp,
) -> Result<Vec<QueueCounts>, StoreError> {
    let counts = sqlx::query_as(concat!(
        live_counts!(),
        " UNION ALL SELECT namespace, queue, state, count(*), 0, NULL FROM finished_tasks WHERE state_since >= ?2
          GROUP BY namespace, queue, state"
    ));
    Ok(by_queue(counts.bind(now).bind(now.before(COUNTED)).fetch_all(connection).await?))
}

pub(super) async fn live_counts(connection: &mut SqliteConnection, now: Stamp) -> Result<Vec<QueueCounts>, StoreError> {
    Ok(by_queue(sqlx::query_as(live_counts!()).bind(now).fetch_all(connection).await?))
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

pub(super) async fn waiting(connection: &mut SqliteConnection, now: Stamp) -> Result<Vec<WaitingGroup>, StoreError> {
    let groups: Vec<WaitingRecord> = sqlx::query_as(
        "SELECT namespace, queue, domain, role, expert, assigned_model, coalesce(run_after, ?1) <= ?1 AS due,
            count(*) AS count, min(state_since) AS oldest
         FROM tasks WHERE state = 'pending'
         GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7",
    )
    .bind(now)
    .fetch_all(connection)
    .await?;
    Ok(groups.into_iter().map(Into::into).collect())
}

/// Stops at the first one: cheap however many wait.
pub(super) async fn slots_wanted(connection: &mut SqliteConnection, queues: &[QueueKey]) -> Result<bool, StoreError> {
    for queue in queues {
        let wanted: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM tasks WHERE namespace = ?1 AND queue = ?2 AND state = 'pending'
                AND assignment_reason IS NOT NULL AND assigned_model IS NOT NULL AND rank < 4611686018427387904)",
        )
        .bind(&queue.namespace)
        .bind(&queue.name)
        .fetch_one(&mut *connection)
        .await?;
        if wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) async fn expert_loads(connection: &mut SqliteConnection) -> Result<Vec<ExpertLoad>, StoreError> {
    let loads: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "SELECT namespace, expert, sum(state = 'pending'), sum(state = 'in_progress') FROM tasks
         WHERE expert IS NOT NULL AND state IN ('pending', 'in_progress') GROUP BY namespace, expert ORDER BY 1, 2",
    )
    .fetch_all(connection)
    .await?;
    let load = |(namespace, expert, pending, in_progress)| ExpertLoad { namespace, expert, pending, in_progress };
    Ok(loads.into_iter().map(load).collect())
}

pub(super) async fn workers(connection: &mut SqliteConnection, now: Stamp) -> Result<Vec<WorkerRow>, StoreError> {
    let rows: Vec<(Json<WorkerReport>, Stamp)> =
        sqlx::query_as("SELECT report, reported_at FROM workers ORDER BY holder").fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(Json(report), at)| WorkerRow { report, age: at.until(now) }).collect())
}
