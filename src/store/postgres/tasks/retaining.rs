//! Old things go: days of ended tasks as whole partitions, and in batches what such a day still keeps of other queues; and what
//! nobody asks for any more.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::moving::purge;
use super::places;
use crate::store::postgres::PostgresStore;
use crate::store::{Fence, Retention, StoreError};
use crate::tasks::TaskId;

/// Tasks that one transaction deletes.
const BATCH: i64 = 2_000;
/// Batches that one call deletes.
const BATCHES: usize = 50;
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
        make_days(store, fence, part).await?;
        for day in past_days(store, part).await? {
            dropped += drop_day(store, fence, part, &day, retention).await?;
        }
        for _ in 0..BATCHES {
            let batch = drop_batch(store, fence, part, retention).await?;
            dropped += batch;
            if i64::try_from(batch).is_ok_and(|batch| batch < BATCH) {
                break;
            }
        }
    }
    forget(store, fence).await?;
    if dropped > 0 {
        store.work.ended();
    }
    Ok(dropped)
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

/// Names of the partitions of days that are over, oldest first.
async fn past_days(store: &PostgresStore, part: &Part) -> Result<Vec<String>, StoreError> {
    let days = sqlx::query_as(
        "SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
         WHERE i.inhparent = to_regclass($1) AND c.relname ~ '_[0-9]{8}$'
            AND right(c.relname, 8) < to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD')
         ORDER BY c.relname",
    );
    let days: Vec<(String,)> = store.fetch(days.bind(part.table)).await?;
    Ok(days.into_iter().map(|(name,)| name).collect())
}

/// Drops a day of which nothing is to be kept.
async fn drop_day(
    store: &PostgresStore,
    fence: &Fence,
    part: &Part,
    day: &str,
    retention: &[Retention],
) -> Result<u64, StoreError> {
    let (namespaces, queues, kept) = kept(part, retention);
    let needed = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT EXISTS (SELECT FROM \"{day}\" AS t LEFT JOIN unnest($1::text[], $2::text[], $3::bigint[])
            AS r (namespace, queue, kept) ON r.namespace = t.namespace AND r.queue = t.queue
         WHERE r.kept IS NULL OR t.state_since >= clock_timestamp() - r.kept * interval '1 microsecond')"
    )));
    let needed: Vec<(bool,)> = store.fetch(needed.bind(namespaces).bind(queues).bind(kept)).await?;
    if needed.iter().any(|(needed,)| *needed) {
        return Ok(0);
    }
    let mut count = 0;
    ddl(store, fence, async |connection| {
        // Nothing comes in any more: whoever ends a task does it today. A retry may take one out.
        let keys = format!(
            "DELETE FROM task_keys AS k USING \"{day}\" AS t
             WHERE k.namespace = t.namespace AND k.queue = t.queue AND k.key = t.key AND k.id = t.id"
        );
        sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLE \"{day}\" IN ACCESS EXCLUSIVE MODE")))
            .execute(&mut *connection)
            .await?;
        count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(format!("SELECT count(*) FROM \"{day}\"")))
            .fetch_one(&mut *connection)
            .await?;
        sqlx::raw_sql(AssertSqlSafe(keys)).execute(&mut *connection).await?;
        sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE \"{day}\""))).execute(connection).await?;
        Ok(())
    })
    .await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn drop_batch(
    store: &PostgresStore,
    fence: &Fence,
    part: &Part,
    retention: &[Retention],
) -> Result<u64, StoreError> {
    let (namespaces, queues, kept) = kept(part, retention);
    let old = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT t.id FROM unnest($1::text[], $2::text[], $3::bigint[]) AS r (namespace, queue, kept)
         JOIN {} AS t ON t.namespace = r.namespace AND t.queue = r.queue
            AND t.state_since < clock_timestamp() - r.kept * interval '1 microsecond'
         WHERE t.state_since < clock_timestamp() - $4 * interval '1 microsecond' ORDER BY t.state_since, t.id LIMIT $5",
        part.table
    )));
    let Some(shortest) = kept.iter().copied().min() else { return Ok(0) };
    let old = old.bind(namespaces).bind(queues).bind(kept).bind(shortest).bind(BATCH);
    let old: Vec<(TaskId,)> = store.fetch(old).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let ids: Vec<TaskId> = old.into_iter().map(|(id,)| id).collect();
    store
        .within(async {
            let mut session = store.write_fenced(fence).await?;
            let gone = purge(session.connection(), &ids).await?;
            session.commit().await?;
            Ok(gone)
        })
        .await
}

/// As arrays: namespaces, queues, microseconds.
fn kept(part: &Part, retention: &[Retention]) -> (Vec<String>, Vec<String>, Vec<i64>) {
    let micros = |one: &Retention| i64::try_from((part.kept)(one).as_micros()).unwrap_or(i64::MAX).min(LONGEST);
    let namespaces = retention.iter().map(|one| one.queue.namespace.clone()).collect();
    let queues = retention.iter().map(|one| one.queue.name.clone()).collect();
    (namespaces, queues, retention.iter().map(micros).collect())
}

/// Changes tables, unless somebody is using them for longer: then another time.
async fn ddl(
    store: &PostgresStore,
    fence: &Fence,
    change: impl AsyncFnOnce(&mut PgConnection) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
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
            Ok(())
        }
        other => other,
    }
}

/// And puts right what is off.
async fn forget(store: &PostgresStore, fence: &Fence) -> Result<(), StoreError> {
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
            places::recount(session.connection()).await?;
            session.commit().await
        })
        .await
}
