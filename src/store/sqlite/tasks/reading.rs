//! Tasks as people and programs see and change them.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::retaining::WORKER_KEPT;
use super::{BATCH, SqliteStore, commanding, inserting};
use crate::store::batch::PAGE_BYTES;
use crate::store::changes::Topics;
use crate::store::counts::{COUNTED, by_queue};
use crate::store::filter::{CommandBatch, TaskPart, push_filter};
use crate::store::stamp::Stamp;
use crate::store::{
    Inserted, QueueCounts, SETTLED, StoreError, TaskCommand, TaskCount, TaskCursor, TaskFilter, TaskPage, Tasks,
    WorkerReport, WorkerRow,
};
use crate::tasks::{NewTask, QueueKey, Task, TaskId};

const LONGEST_PAGE: i64 = 1_000;

const fn columns(part: TaskPart, brief: bool) -> &'static str {
    match (part, brief) {
        (_, true) => columns!("NULL", "NULL"),
        (TaskPart::Live, false) => columns!("payload", "NULL"),
        (TaskPart::Ended, false) => columns!("payload", "result"),
    }
}

/// Read without what may be large.
const fn bytes(part: TaskPart) -> &'static str {
    match part {
        TaskPart::Live => "octet_length(payload)",
        TaskPart::Ended => "octet_length(payload) + coalesce(octet_length(result), 0)",
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
    /// In one transaction: a task that moves is seen once. Unordered.
    async fn read(&self, connection: &mut SqliteConnection) -> Result<Vec<Task>, StoreError> {
        let whole = if self.brief { None } else { Some(Json(self.ids(connection).await?)) };
        let mut tasks = Vec::new();
        for part in TaskPart::of(&self.filter.states) {
            let mut query = QueryBuilder::new("SELECT ");
            query.push(columns(part, self.brief)).push(" FROM ").push(part.table()).push(" WHERE true");
            match &whole {
                Some(ids) => {
                    query.push(" AND id IN (SELECT value FROM json_each(").push_bind(ids).push("))");
                }
                None => self.push_end(&mut query, part),
            }
            tasks.extend(query.build_query_as::<Task>().fetch_all(&mut *connection).await?);
        }
        Ok(tasks)
    }

    /// Of whole tasks no more than [`PAGE_BYTES`], but for the last one. What may be large is not read for that.
    async fn ids(&self, connection: &mut SqliteConnection) -> Result<Vec<i64>, StoreError> {
        let mut query = QueryBuilder::new("SELECT id FROM (SELECT id, sum(bytes) OVER (ORDER BY ");
        query
            .push(self.order)
            .push(") - bytes AS before FROM (SELECT * FROM (SELECT 0 AS id, 0 AS state_since, 0 AS bytes WHERE false)");
        for part in TaskPart::of(&self.filter.states) {
            query.push(" UNION ALL SELECT * FROM (SELECT id, state_since, ").push(bytes(part)).push(" AS bytes FROM ");
            query.push(part.table()).push(" WHERE true");
            self.push_end(&mut query, part);
            query.push(")");
        }
        query.push(" ORDER BY ").push(self.order).push(" LIMIT ").push_bind(self.limit);
        query.push(")) WHERE before < ").push_bind(PAGE_BYTES);
        Ok(query.build_query_scalar().fetch_all(connection).await?)
    }

    fn push_end(&self, query: &mut QueryBuilder<Sqlite>, part: TaskPart) {
        push_filter(query, self.filter, part);
        (self.conditions)(query);
        query.push(" ORDER BY ").push(self.order).push(" LIMIT ").push_bind(self.limit);
    }
}

pub(super) const COUNTS: &str =
    "SELECT namespace, queue, state, domain, role, expert, model, is_assigned, is_due, sum(count) AS count
    FROM task_counts WHERE ended_at = 0 OR ended_at >= ? GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9 HAVING sum(count) <> 0";

async fn counts(connection: &mut SqliteConnection, now: Stamp) -> Result<Vec<TaskCount>, StoreError> {
    let since = now.before(Duration::from_micros(COUNTED.unsigned_abs()));
    Ok(sqlx::query_as(COUNTS).bind(since).fetch_all(connection).await?)
}

pub(super) const OLDEST: &str = "SELECT namespace, queue,
        (SELECT state_since FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue AND t.state = 'pending'
            AND t.rank < 4611686018427387904 ORDER BY state_since LIMIT 1) AS pending,
        (SELECT state_since FROM tasks AS t WHERE t.namespace = q.namespace AND t.queue = q.queue
            AND t.state = 'deferred_to_human' ORDER BY state_since LIMIT 1) AS deferred
    FROM (SELECT DISTINCT namespace, queue FROM task_counts WHERE ended_at = 0) AS q";

#[async_trait]
impl Tasks for SqliteStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(SqliteStore::now(self).into())
    }

    async fn insert_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError> {
        let mut tx = self.write().await?;
        let inserted = inserting::insert(&mut tx, tasks, self.now()).await?;
        if inserted.iter().any(|one| !one.existed) {
            self.commit(tx, Topics::NEW).await?;
        }
        Ok(inserted)
    }

    async fn tasks(&self, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError> {
        let limit = page.limit.clamp(1, LONGEST_PAGE);
        let conditions = |query: &mut QueryBuilder<Sqlite>| {
            if let Some(before) = page.before {
                query.push(" AND id < ").push_bind(before);
            }
        };
        let query = Query { filter, brief: page.brief, order: "id DESC", limit, conditions };
        let mut tasks = query.read(&mut *self.reader.begin().await?).await?;
        tasks.sort_by_key(|task| std::cmp::Reverse(task.id));
        tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(tasks)
    }

    async fn task_changes(
        &self,
        filter: &TaskFilter,
        after: Option<TaskCursor>,
        limit: i64,
        brief: bool,
    ) -> Result<Vec<Task>, StoreError> {
        let until = self.now().before(SETTLED);
        let limit = limit.clamp(1, LONGEST_PAGE);
        let conditions = |query: &mut QueryBuilder<Sqlite>| {
            query.push(" AND state_since <= ").push_bind(until);
            if let Some(TaskCursor { at, id }) = after {
                query.push(" AND (state_since, id) > (").push_bind(Stamp::from(at)).push(", ").push_bind(id).push(")");
            }
        };
        let query = Query { filter, brief, order: "state_since, id", limit, conditions };
        let mut tasks = query.read(&mut *self.reader.begin().await?).await?;
        tasks.sort_by_key(|task| (task.state_since, task.id));
        tasks.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(tasks)
    }

    async fn count_tasks(&self, filter: &TaskFilter) -> Result<i64, StoreError> {
        let mut tx = self.reader.begin().await?;
        let mut count = 0;
        for part in TaskPart::of(&filter.states) {
            let mut query = QueryBuilder::new("SELECT count(*) FROM ");
            query.push(part.table()).push(" WHERE true");
            push_filter(&mut query, filter, part);
            count += query.build_query_scalar::<i64>().fetch_one(&mut *tx).await?;
        }
        Ok(count)
    }

    async fn command_tasks(
        &self,
        filter: &TaskFilter,
        command: &TaskCommand,
        reason: &str,
        most: i64,
    ) -> Result<Vec<TaskId>, StoreError> {
        // In batches: the database is locked while one is carried out.
        let mut done = Vec::new();
        let mut after = 0;
        loop {
            let left = most.saturating_sub(i64::try_from(done.len()).unwrap_or(i64::MAX)).min(BATCH);
            if left <= 0 {
                return Ok(done);
            }
            let mut tx = self.write().await?;
            let batch = commanding::command(&mut tx, filter, command, reason, (after, left), self.now()).await?;
            let CommandBatch { done: of_batch, last } = batch;
            let Some(last) = last else { return Ok(done) };
            after = last;
            if !of_batch.is_empty() {
                self.commit(tx, Topics::TASKS).await?;
            }
            done.extend(of_batch);
        }
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>, StoreError> {
        let mut tx = self.reader.begin().await?;
        let oldest = sqlx::query_as(OLDEST).fetch_all(&mut *tx).await?;
        Ok(by_queue(&counts(&mut tx, self.now()).await?, oldest))
    }

    async fn task_counts(&self) -> Result<Vec<TaskCount>, StoreError> {
        counts(&mut *self.reader.acquire().await?, self.now()).await
    }

    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError> {
        let mut connection = self.reader.acquire().await?;
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

    async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let now = self.now();
        let rows: Vec<(Json<WorkerReport>, Stamp)> =
            self.fetch(sqlx::query_as("SELECT report, reported_at FROM workers ORDER BY holder")).await?;
        let row = |(Json(report), at): (_, Stamp)| WorkerRow { report, age: at.until(now) };
        let mut workers: Vec<WorkerRow> = rows.into_iter().map(row).collect();
        workers.extend(self.memory.reports(now, WORKER_KEPT));
        workers.sort_by(|a, b| a.report.holder.cmp(&b.report.holder));
        Ok(workers)
    }
}
