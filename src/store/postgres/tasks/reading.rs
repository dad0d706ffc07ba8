//! Tasks as people and programs see and change them. What may be live or ended is read by one statement: a task that moves is seen once.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{FromRow, Postgres, QueryBuilder};

use super::moving::task_columns;
use super::{commanding, inserting, over};
use crate::store::batch::PAGE_BYTES;
use crate::store::changes::Topics;
use crate::store::counts::{COUNTED, by_queue};
use crate::store::filter::{CommandBatch, TaskPart, push_filter};
use crate::store::postgres::PostgresStore;
use crate::store::stamp::Stamp;
use crate::store::{
    Inserted, QueueCounts, SETTLED, StoreError, TaskCommand, TaskCount, TaskCursor, TaskFilter, TaskPage, Tasks,
    WorkerReport, WorkerRow,
};
use crate::tasks::{NewTask, QueueKey, Task, TaskId};

const LONGEST_PAGE: i64 = 1_000;

/// Where tasks are read.
#[derive(Clone, Copy)]
enum Source {
    Part(TaskPart),
    /// Live ones in progress.
    Running,
    /// Live ones that are not, line by line: each is an index in the order of changes.
    Waiting,
}

impl Source {
    const fn part(self) -> TaskPart {
        match self {
            Self::Part(part) => part,
            Self::Running | Self::Waiting => TaskPart::Live,
        }
    }

    const fn columns(self, brief: bool) -> &'static str {
        match (self.part(), brief) {
            (TaskPart::Live, true) => {
                concat!("SELECT ", task_columns!(live), ", NULL::json AS payload, NULL::json AS result")
            }
            (TaskPart::Live, false) => {
                concat!("SELECT ", task_columns!(live), ", payload, NULL::json AS result, bytes")
            }
            (TaskPart::Ended, true) => {
                concat!("SELECT ", task_columns!(ended), ", NULL::json AS payload, NULL::json AS result")
            }
            (TaskPart::Ended, false) => concat!("SELECT ", task_columns!(ended), ", payload, result, bytes"),
        }
    }

    /// Up to the filter's conditions, and what follows on them.
    const fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Part(TaskPart::Live) => (" FROM tasks WHERE true", ""),
            Self::Part(TaskPart::Ended) => (" FROM finished_tasks WHERE true", ""),
            Self::Running => (" FROM all_running_tasks WHERE true", ""),
            Self::Waiting => (
                " FROM (SELECT found.* FROM (SELECT DISTINCT namespace, queue FROM task_counts) AS queues, generate_series(0, 2) AS line,
                    LATERAL (SELECT * FROM tasks WHERE namespace = queues.namespace AND queue = queues.queue AND task_line(rank) = line
                        AND claimed_at IS NULL",
                ") AS found) AS waiting",
            ),
        }
    }
}

/// A statement over several sources: each is ordered and limited, and then all together. Whole tasks are no more than [`PAGE_BYTES`],
/// but for the last one.
fn of_sources(
    sources: &[Source],
    filter: &TaskFilter,
    brief: bool,
    order: &str,
    limit: i64,
    more: impl Fn(&mut QueryBuilder<Postgres>, Source),
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new("");
    if !brief {
        query
            .push("SELECT * FROM (SELECT page.*, sum(bytes) OVER (ORDER BY ")
            .push(order)
            .push(") - bytes AS before FROM (");
    }
    query.push("SELECT * FROM (");
    for (at, source) in sources.iter().enumerate() {
        let (table, end) = source.table();
        query.push(if at > 0 { " UNION ALL (" } else { "(" }).push(source.columns(brief)).push(table);
        push_filter(&mut query, filter, source.part());
        more(&mut query, *source);
        if !end.is_empty() {
            query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(limit).push(end);
        }
        query.push(" ORDER BY ").push(order).push(" LIMIT ").push_bind(limit).push(")");
    }
    query.push(") AS parts ORDER BY ").push(order).push(" LIMIT ").push_bind(limit);
    if !brief {
        query.push(") AS page) AS sized WHERE before < ").push_bind(PAGE_BYTES).push(" ORDER BY ").push(order);
    }
    query
}

async fn fetch(store: &PostgresStore, mut query: QueryBuilder<Postgres>) -> Result<Vec<Task>, StoreError> {
    store.fetch(query.build_query_as()).await
}

/// Until when everything that changed is committed. A transaction that changes tasks has a lock on their table and began before the
/// time of its changes, however long its commit takes; one that had none yet when this was asked comes later than [`SETTLED`] ago. This
/// is asked before the changes are read: what ends in between is seen.
const SETTLED_UNTIL: &str = "SELECT least(clock_timestamp() - $1 * interval '1 microsecond', (
        SELECT min(coalesce(a.xact_start, clock_timestamp() - interval '1 minute')) - interval '1 microsecond'
        FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE l.locktype = 'relation' AND l.relation = 'tasks'::regclass AND l.mode = 'RowExclusiveLock' AND l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())))";

fn changes_statement(
    filter: &TaskFilter,
    after: Option<TaskCursor>,
    until: Stamp,
    limit: i64,
    brief: bool,
) -> QueryBuilder<Postgres> {
    let sources: Vec<Source> = TaskPart::of(&filter.states)
        .flat_map(|part| match part {
            TaskPart::Live => vec![Source::Running, Source::Waiting],
            TaskPart::Ended => vec![Source::Part(part)],
        })
        .collect();
    of_sources(&sources, filter, brief, "state_since, id", limit, |query, source| {
        let column = if matches!(source, Source::Running) { "claimed_at" } else { "state_since" };
        query.push(" AND ").push(column).push(" <= ").push_bind(until);
        if let Some(TaskCursor { at, id }) = after {
            // The first condition is for the index.
            query.push(" AND ").push(column).push(" >= ").push_bind(Stamp::from(at));
            query.push(" AND (").push(column).push(", id) > (");
            query.push_bind(Stamp::from(at)).push(", ").push_bind(id).push(")");
        }
    })
}

/// As it is for the first reader of all changes, and for who reads on.
pub(super) fn statements_of_changes() -> [String; 2] {
    let now = Stamp::now();
    [None, Some(TaskCursor { at: now.into(), id: 0 })].map(|after| {
        changes_statement(&TaskFilter::default(), after, now, LONGEST_PAGE, true).sql().as_str().to_owned()
    })
}

/// More rows than this are summed up in the table itself.
const MOST_ROWS: i64 = 2_000;

/// And how many rows there were.
pub(super) const COUNTS: &str = "SELECT namespace, queue, state, domain, role, expert, model, is_assigned, is_due,
        sum(count)::bigint AS count, count(*) AS rows
    FROM task_counts WHERE ended_at = 0 OR ended_at >= (extract(epoch FROM statement_timestamp()) * 1000000)::bigint - $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9";
/// What somebody else sums up now is left to him.
pub(super) const SUM_UP: &str = "WITH parts AS (
        DELETE FROM task_counts WHERE ctid = ANY (ARRAY(SELECT ctid FROM task_counts LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING *
    )
    INSERT INTO task_counts
    SELECT namespace, queue, state, domain, role, expert, model, is_assigned, is_due, ended_at, sum(count) FROM parts
    WHERE ended_at = 0 OR ended_at >= (extract(epoch FROM statement_timestamp()) * 1000000)::bigint - $1
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 HAVING sum(count) <> 0";

#[derive(FromRow)]
struct Summed {
    #[sqlx(flatten)]
    count: TaskCount,
    rows: i64,
}

pub(super) const OLDEST: &str = "SELECT namespace, queue,
        (SELECT state_since FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND task_line(t.rank) = 0
            AND t.state = 'pending' ORDER BY state_since LIMIT 1) AS pending,
        (SELECT state_since FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND task_line(t.rank) = 2
            ORDER BY state_since LIMIT 1) AS deferred
    FROM (SELECT DISTINCT namespace, queue FROM task_counts WHERE ended_at = 0) AS q";

pub(super) const SLOTS_WANTED: &str =
    "SELECT EXISTS (SELECT FROM unnest($1::text[], $2::text[]) AS q (namespace, queue) CROSS JOIN LATERAL (
        SELECT FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND coalesce(t.assigned_model, '') > ''
            AND t.assignment_reason IS NOT NULL AND t.rank < 4611686018427387904 AND t.state = 'pending'
            ORDER BY coalesce(t.assigned_model, ''), t.rank, t.id LIMIT 1) AS first)";

#[async_trait]
impl Tasks for PostgresStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        let now: Vec<(Stamp,)> = self.fetch(sqlx::query_as("SELECT clock_timestamp()")).await?;
        let (now,) = now.into_iter().next().ok_or_else(|| StoreError::Broken("no time".to_owned()))?;
        Ok(now.into())
    }

    async fn insert_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError> {
        let inserted = transaction!(self, inserting::insert(tasks))?;
        if inserted.iter().any(|one| !one.existed) {
            self.work.changed(Topics::NEW);
        }
        Ok(inserted)
    }

    async fn tasks(&self, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError> {
        let sources: Vec<Source> = TaskPart::of(&filter.states).map(Source::Part).collect();
        let query =
            of_sources(&sources, filter, page.brief, "id DESC", page.limit.clamp(1, LONGEST_PAGE), |query, _| {
                if let Some(before) = page.before {
                    query.push(" AND id < ").push_bind(before);
                }
            });
        fetch(self, query).await
    }

    /// Oldest change first, of what nobody can overtake any more.
    async fn task_changes(
        &self,
        filter: &TaskFilter,
        after: Option<TaskCursor>,
        limit: i64,
        brief: bool,
    ) -> Result<Vec<Task>, StoreError> {
        let settled = sqlx::query_as(SETTLED_UNTIL).bind(i64::try_from(SETTLED.as_micros()).unwrap_or(i64::MAX));
        let settled: Vec<(Stamp,)> = self.fetch(settled).await?;
        let Some((until,)) = settled.into_iter().next() else { return Ok(Vec::new()) };
        fetch(self, changes_statement(filter, after, until, limit.clamp(1, LONGEST_PAGE), brief)).await
    }

    async fn count_tasks(&self, filter: &TaskFilter) -> Result<i64, StoreError> {
        let mut query = QueryBuilder::new("SELECT 0");
        for part in TaskPart::of(&filter.states) {
            query.push(" + (SELECT count(*) FROM ").push(part.table()).push(" WHERE true");
            push_filter(&mut query, filter, part);
            query.push(")");
        }
        let counts: Vec<(i64,)> = self.fetch(query.build_query_as()).await?;
        Ok(counts.into_iter().map(|(count,)| count).sum())
    }

    async fn command_tasks(
        &self,
        filter: &TaskFilter,
        command: &TaskCommand,
        reason: &str,
        most: i64,
    ) -> Result<Vec<TaskId>, StoreError> {
        let (mut done, mut after) = (Vec::new(), 0);
        loop {
            let left = most.saturating_sub(i64::try_from(done.len()).unwrap_or(i64::MAX));
            if left <= 0 {
                return Ok(done);
            }
            let batch = self.work.commanded.run(async |rows| {
                transaction!(self, commanding::command(filter, command, reason, (after, rows.min(left))))
            });
            let CommandBatch { done: of_batch, last } = batch.await?;
            let Some(last) = last else { return Ok(done) };
            self.work.changed(Topics::TASKS.when(!of_batch.is_empty()));
            done.extend(of_batch);
            after = last;
        }
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>, StoreError> {
        let oldest = self.fetch(sqlx::query_as(OLDEST)).await?;
        Ok(by_queue(&self.task_counts().await?, oldest))
    }

    async fn task_counts(&self) -> Result<Vec<TaskCount>, StoreError> {
        let counts: Vec<Summed> = self.fetch(sqlx::query_as(COUNTS).bind(COUNTED)).await?;
        if counts.iter().map(|one| one.rows).sum::<i64>() > MOST_ROWS.max(2 * i64::try_from(counts.len()).unwrap_or(0))
        {
            self.execute(sqlx::query(SUM_UP).bind(COUNTED).bind(50 * MOST_ROWS)).await?;
        }
        Ok(counts.into_iter().map(|one| one.count).filter(|one| one.count != 0).collect())
    }

    /// Stops at the first one: cheap however many wait.
    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError> {
        let wanted = sqlx::query_as(SLOTS_WANTED)
            .bind(queues.iter().map(|queue| queue.namespace.as_str()).collect::<Vec<_>>())
            .bind(queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>());
        let wanted: Vec<(bool,)> = self.fetch(wanted).await?;
        Ok(wanted.iter().any(|(wanted,)| *wanted))
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let reports = sqlx::query_as("SELECT report, reported_at, clock_timestamp() FROM workers ORDER BY holder");
        let rows: Vec<(Json<WorkerReport>, Stamp, Stamp)> = self.fetch(reports).await?;
        let row =
            |(Json(report), at, now): (Json<WorkerReport>, Stamp, Stamp)| WorkerRow { report, age: at.until(now) };
        Ok(rows.into_iter().map(row).collect())
    }
}
