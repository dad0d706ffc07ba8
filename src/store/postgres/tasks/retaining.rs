//! Old things go: days of ended tasks as whole partitions, and in batches what such a day still keeps of other queues; and what
//! nobody asks for any more.

use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::moving::purge;
use super::places;
use crate::store::batch::BATCH_BYTES;
use crate::store::postgres::PostgresStore;
use crate::store::stamp::Stamp;
use crate::store::{Fence, Retention, StoreError};
use crate::tasks::TaskId;

/// Tasks that one transaction deletes, and their bytes.
const BATCH: usize = 2_000;
const DELETED_BYTES: i64 = 8 * BATCH_BYTES;
/// Pages that one call looks through: the next call goes on.
const PAGES: usize = 50;
/// Lists of candidates are kept for so long at least after they were used last: microseconds.
const CANDIDATES_KEPT: i64 = 30 * 24 * 3_600 * 1_000_000;
/// A worker that has not reported for so many seconds is forgotten.
const WORKER_KEPT: i64 = 3_600;
/// All but the last run of a schedule are forgotten after so many seconds.
const RUN_KEPT: i64 = 90 * 24 * 3_600;
/// A hundred years in microseconds: what is kept longer is kept, and its beginning is a time that PostgreSQL knows.
const LONGEST: i64 = 100 * 365 * 24 * 3_600 * 1_000_000;
/// How long others may have to wait for a day to be made or dropped: else it is done another time.
const LOCK_PATIENCE: &str = "SET LOCAL lock_timeout = '500ms'";

/// A partition, apart by how long its tasks are kept.
struct Part {
    table: &'static str,
    kept: fn(&Retention) -> Duration,
}

const PARTS: [Part; 2] = [
    Part { table: "finished_completed", kept: |retention| retention.completed },
    Part { table: "finished_failed", kept: |retention| retention.failed },
];

pub(super) async fn retain(store: &PostgresStore, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError> {
    let mut dropped = 0;
    for part in &PARTS {
        let kept = Kept::of(part, retention);
        make_days(store, fence, part).await?;
        for day in days_past_all(store, part, &kept).await? {
            dropped += drop_day(store, fence, &day).await?;
        }
        for _ in 0..PAGES {
            let (of_page, more) = drop_page(store, fence, part, &kept).await?;
            dropped += of_page;
            if !more {
                break;
            }
        }
    }
    forget(store, fence, retention).await?;
    Ok(dropped)
}

/// How long tasks of one part are kept, in microseconds.
struct Kept {
    namespaces: Vec<String>,
    queues: Vec<String>,
    micros: Vec<i64>,
    /// Of all other queues; `None`: for ever.
    others: Option<i64>,
}

impl Kept {
    fn of(part: &Part, retention: &[Retention]) -> Self {
        let mut kept = Self { namespaces: Vec::new(), queues: Vec::new(), micros: Vec::new(), others: None };
        for one in retention {
            let micros = i64::try_from((part.kept)(one).as_micros()).unwrap_or(i64::MAX).min(LONGEST);
            match &one.queue {
                Some(queue) => {
                    kept.namespaces.push(queue.namespace.clone());
                    kept.queues.push(queue.name.clone());
                    kept.micros.push(micros);
                }
                None => kept.others = Some(micros),
            }
        }
        kept
    }

    fn shortest(&self) -> Option<i64> {
        self.micros.iter().copied().chain(self.others).min()
    }

    /// `None`: some are kept for ever.
    fn longest(&self) -> Option<i64> {
        let others = self.others?;
        Some(self.micros.iter().copied().max().unwrap_or(others).max(others))
    }
}

/// Today and the next days, one for each transaction: it locks the whole table for a moment.
async fn make_days(store: &PostgresStore, fence: &Fence, part: &Part) -> Result<(), StoreError> {
    let missing = sqlx::query_as(
        "SELECT to_char(day, 'YYYY-MM-DD') FROM generate_series(0, 3) AS ahead,
            LATERAL (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date + ahead AS day) AS d
         WHERE to_regclass($1 || '_' || to_char(day, 'YYYYMMDD')) IS NULL",
    );
    let missing: Vec<(String,)> = store.fetch(missing.bind(part.table)).await?;
    for (day,) in missing {
        let made = ddl(store, fence, async |connection| {
            sqlx::query("SELECT make_finished_day($1, $2::date)")
                .bind(part.table)
                .bind(&day)
                .execute(connection)
                .await?;
            Ok(())
        });
        made.await?;
    }
    Ok(())
}

/// Names of the partitions of days of which nothing is to be kept, oldest first: that is known by their names.
async fn days_past_all(store: &PostgresStore, part: &Part, kept: &Kept) -> Result<Vec<String>, StoreError> {
    let Some(longest) = kept.longest() else { return Ok(Vec::new()) };
    let days = sqlx::query_as(
        "SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
         WHERE i.inhparent = to_regclass($1) AND c.relname ~ '_[0-9]{8}$'
            AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC'
                <= clock_timestamp() - $2 * interval '1 microsecond'
            AND right(c.relname, 8) < to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')
         ORDER BY c.relname",
    );
    let days: Vec<(String,)> = store.fetch(days.bind(part.table).bind(longest)).await?;
    Ok(days.into_iter().map(|(name,)| name).collect())
}

/// Drops a whole day: first its keys, page by page, then the table.
async fn drop_day(store: &PostgresStore, fence: &Fence, day: &str) -> Result<u64, StoreError> {
    // Nothing comes in any more: whoever ends a task does it today. A retry may take one out.
    let keys = format!(
        "WITH page AS MATERIALIZED (SELECT id, namespace, queue, key FROM \"{day}\" WHERE id > $1 ORDER BY id LIMIT $2),
            gone AS (DELETE FROM task_keys AS k USING page AS t
                WHERE t.key IS NOT NULL AND k.namespace = t.namespace AND k.queue = t.queue AND k.key = t.key AND k.id = t.id)
         SELECT count(*), max(id) FROM page"
    );
    let (mut count, mut after) = (0, TaskId::MIN);
    loop {
        let page = store.work.retained.run(async |rows| {
            store
                .within(async {
                    let mut session = store.write_fenced(fence).await?;
                    let page = sqlx::query_as(AssertSqlSafe(keys.clone())).bind(after).bind(rows);
                    let page: (i64, Option<TaskId>) = page.fetch_one(session.connection()).await?;
                    session.commit().await?;
                    Ok(page)
                })
                .await
        });
        let (rows, last) = page.await?;
        count += rows;
        match last {
            Some(last) => after = last,
            None => break,
        }
    }
    let dropped = ddl(store, fence, async |connection| {
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE \"{day}\""))).execute(connection).await?;
        Ok(())
    });
    Ok(if dropped.await? { u64::try_from(count).unwrap_or(0) } else { 0 })
}

/// Looks through one page of what may be past its time, from where the last one ended, and deletes what is. Returns whether there is more.
async fn drop_page(store: &PostgresStore, fence: &Fence, part: &Part, kept: &Kept) -> Result<(u64, bool), StoreError> {
    let Some(shortest) = kept.shortest() else { return Ok((0, false)) };
    let known = || store.work.retained_until.lock().unwrap_or_else(PoisonError::into_inner);
    let (at, id) = known().get(part.table).copied().unwrap_or((Timestamp::UNIX_EPOCH, TaskId::MIN));
    let statement = page_of_past(part.table);
    let page = store.work.retained.run(async |rows| {
        let page = sqlx::query_as(AssertSqlSafe(statement.clone()))
            .bind(&kept.namespaces)
            .bind(&kept.queues)
            .bind(&kept.micros)
            .bind(kept.others)
            .bind(shortest)
            .bind(Stamp::from(at))
            .bind(id)
            .bind(rows);
        let page: Vec<(TaskId, Stamp, i32, Option<bool>)> = store.fetch(page).await?;
        Ok((i64::try_from(page.len()).is_ok_and(|len| len == rows), page))
    });
    let (more, page) = page.await?;
    let past =
        page.iter().filter(|(_, _, _, past)| *past == Some(true)).map(|(id, _, bytes, _)| (*id, i64::from(*bytes)));
    let mut dropped = 0;
    for batch in batches(past) {
        dropped += store
            .within(async {
                let mut session = store.write_fenced(fence).await?;
                let gone = purge(session.connection(), &batch).await?;
                session.commit().await?;
                Ok(gone)
            })
            .await?;
    }
    match page.last().filter(|_| more) {
        Some((id, at, ..)) => known().insert(part.table, (Timestamp::from(*at), *id)),
        None => known().remove(part.table),
    };
    Ok((dropped, more))
}

/// Ended tasks in the order in which they did, with whether each is past its time. Partitions that are younger are not touched.
pub(super) fn page_of_past(table: &str) -> String {
    format!(
        "SELECT t.id, t.state_since, t.bytes, t.state_since < clock_timestamp() - coalesce(r.kept, $4) * interval '1 microsecond'
         FROM (SELECT id, namespace, queue, state_since, bytes FROM {table}
            WHERE state_since < statement_timestamp() - $5 * interval '1 microsecond' AND state_since >= $6
                AND (state_since, id) > ($6, $7)
            ORDER BY state_since, id LIMIT $8) AS t
         LEFT JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS r (namespace, queue, kept)
            ON r.namespace = t.namespace AND r.queue = t.queue ORDER BY t.state_since, t.id"
    )
}

/// Parts of what one transaction deletes in its time.
fn batches(past: impl Iterator<Item = (TaskId, i64)>) -> Vec<Vec<TaskId>> {
    let mut batches: Vec<Vec<TaskId>> = Vec::new();
    let mut left = 0;
    for (id, bytes) in past {
        match batches.last_mut() {
            Some(batch) if left > 0 && batch.len() < BATCH => batch.push(id),
            _ => {
                batches.push(vec![id]);
                left = DELETED_BYTES;
            }
        }
        left -= bytes;
    }
    batches
}

/// Changes tables, unless somebody is using them for longer: then another time. Returns whether it was done.
async fn ddl(
    store: &PostgresStore,
    fence: &Fence,
    change: impl AsyncFnOnce(&mut PgConnection) -> Result<(), StoreError>,
) -> Result<bool, StoreError> {
    let done = store
        .within(async {
            let mut session = store.write_fenced(fence).await?;
            sqlx::raw_sql(LOCK_PATIENCE).execute(session.connection()).await?;
            change(session.connection()).await?;
            session.commit().await
        })
        .await;
    match done {
        Err(StoreError::Unavailable(why)) => {
            tracing::debug!(why, "a day of ended tasks is made or dropped another time");
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

/// And puts right what is off.
async fn forget(store: &PostgresStore, fence: &Fence, retention: &[Retention]) -> Result<(), StoreError> {
    let longest = PARTS.iter().map(|part| Kept::of(part, retention).longest()).collect::<Option<Vec<_>>>();
    let candidates = longest.map(|longest| longest.into_iter().fold(CANDIDATES_KEPT, i64::max));
    store
        .within(async {
            let mut session = store.write_fenced(fence).await?;
            sqlx::query("DELETE FROM workers WHERE reported_at < clock_timestamp() - $1 * interval '1 second'")
                .bind(WORKER_KEPT)
                .execute(session.connection())
                .await?;
            sqlx::query(
                "DELETE FROM schedule_runs AS r WHERE run_at < clock_timestamp() - $1 * interval '1 second'
                 AND EXISTS (SELECT FROM schedule_runs AS l WHERE l.schedule = r.schedule AND l.run_at > r.run_at)",
            )
            .bind(RUN_KEPT)
            .execute(session.connection())
            .await?;
            if let Some(kept) = candidates {
                // A day more: when a list was used last is known to the day.
                sqlx::query(
                    "DELETE FROM candidate_lists AS l
                     WHERE used_at < clock_timestamp() - $1 * interval '1 microsecond' - interval '1 day'
                        AND NOT EXISTS (SELECT FROM tasks AS t WHERE t.candidates = l.id)",
                )
                .bind(kept)
                .execute(session.connection())
                .await?;
            }
            places::recount(session.connection()).await?;
            session.commit().await
        })
        .await
}
