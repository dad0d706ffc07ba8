//! Experts, queues, pools and schedules as they are declared, and what that does to tasks that have not started.

use serde_json::Value;
use sqlx::postgres::PgConnection;

use super::places;
use crate::store::changes::Topics;
use crate::store::postgres::PostgresStore;
use crate::store::task_rows::DeclaredRecord;
use crate::store::text::{json, text};
use crate::store::{DeclaredRow, Fence, GONE_KEPT, StoreError};
use crate::tasks::TaskId;

const EXPERT: &str = "Expert";
/// Tasks that one transaction moves along with their expert.
const BATCH: u64 = 5_000;

/// What tasks need to know of their expert.
#[derive(Clone, Copy)]
struct Expert<'a> {
    namespace: &'a str,
    name: &'a str,
    /// Neither suspended nor gone.
    open: bool,
    spec: &'a Value,
}

impl<'a> Expert<'a> {
    const fn of(row: &'a DeclaredRow, gone: bool) -> Self {
        Self {
            namespace: row.namespace.as_str(),
            name: row.name.as_str(),
            open: !row.suspended && !gone,
            spec: &row.spec,
        }
    }

    /// `maxConcurrentTasks`; none while it is not open.
    fn places(&self) -> i32 {
        let declared = self.spec.get("maxConcurrentTasks").and_then(Value::as_i64);
        let places = declared.map_or(i32::MAX, |most| i32::try_from(most.max(0)).unwrap_or(i32::MAX));
        if self.open { places } else { 0 }
    }

    fn calls_no_model(&self) -> bool {
        matches!(self.spec.get("handler").and_then(Value::as_str), Some("Webhook" | "External"))
    }

    fn model(&self) -> Option<&str> {
        self.spec.get("model").and_then(Value::as_str)
    }
}

pub(super) async fn project(store: &PostgresStore, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError> {
    let before = sqlx::query_as(
        "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
         WHERE uid = $1 AND gone_at IS NULL",
    )
    .bind(&row.uid);
    let before: Vec<DeclaredRecord> = store.fetch(before).await?;
    if before.into_iter().any(|before| DeclaredRow::from(before) == *row) {
        return Ok(());
    }
    let expert = (row.kind == EXPERT).then(|| Expert::of(row, false));
    if let Some(expert) = &expert {
        follow(store, fence, expert).await?;
    }
    store
        .within(async {
            let mut session = store.write_fenced(fence).await?;
            put(session.connection(), row).await?;
            if let Some(expert) = &expert {
                // The few that were assigned since.
                follow_batch(session.connection(), expert).await?;
                places::set(session.connection(), expert.namespace, expert.name, expert.places()).await?;
            }
            session.commit().await
        })
        .await?;
    store.work.changed(Topics::WORLD | Topics::NEW | Topics::READY);
    Ok(())
}

/// Moves an expert's unstarted tasks along, before anything says that it is done: a call that fails in between is made again.
async fn follow(store: &PostgresStore, fence: &Fence, expert: &Expert<'_>) -> Result<(), StoreError> {
    loop {
        let moved = store
            .within(async {
                let mut session = store.write_fenced(fence).await?;
                let moved = follow_batch(session.connection(), expert).await?;
                session.commit().await?;
                Ok(moved)
            })
            .await?;
        if moved < BATCH {
            return Ok(());
        }
    }
}

/// They go to its model; where it is not open any more, they lose their assignment.
async fn follow_batch(connection: &mut PgConnection, expert: &Expert<'_>) -> Result<u64, StoreError> {
    let done = sqlx::query(FOLLOW)
        .bind(expert.namespace)
        .bind(expert.name)
        .bind(expert.open)
        .bind(expert.calls_no_model())
        .bind(expert.model())
        .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

pub(super) const FOLLOW: &str = "WITH stale AS MATERIALIZED (
        SELECT id FROM tasks WHERE id = ANY (ARRAY(
            SELECT id FROM tasks WHERE namespace = $1 AND expert = $2
                AND assignment_reason IS NOT NULL AND rank < 9223372036854775807 AND state = 'pending'
                AND (NOT $3 OR assigned_model IS DISTINCT FROM CASE WHEN NOT $4 THEN coalesce(model, $5) END)
            LIMIT $6)) AND state = 'pending'
        ORDER BY id FOR UPDATE)
     UPDATE tasks SET expert = CASE WHEN $3 THEN expert END,
        assignment_reason = CASE WHEN $3 THEN assignment_reason END,
        candidates = CASE WHEN $3 THEN candidates END,
        assigned_model = CASE WHEN $3 AND NOT $4 THEN coalesce(model, $5) END
     WHERE id = ANY (ARRAY(SELECT id FROM stale))";

/// For tasks that just became pending: their expert may be another one than when they were assigned.
pub(super) async fn refresh_tasks(connection: &mut PgConnection, ids: &[TaskId]) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    for statement in [
        "UPDATE tasks AS t SET expert = NULL, assignment_reason = NULL, candidates = NULL, assigned_model = NULL
         WHERE t.id = ANY ($1) AND t.state = 'pending' AND t.assignment_reason IS NOT NULL AND NOT EXISTS (
            SELECT FROM declared AS d WHERE d.kind = 'Expert' AND d.namespace = t.namespace AND d.name = t.expert
                AND d.gone_at IS NULL AND NOT d.suspended)",
        "UPDATE tasks AS t SET assigned_model =
            CASE WHEN coalesce(d.spec ->> 'handler', '') NOT IN ('Webhook', 'External') THEN coalesce(t.model, d.spec ->> 'model') END
         FROM declared AS d WHERE d.kind = 'Expert' AND d.namespace = t.namespace AND d.name = t.expert AND d.gone_at IS NULL
            AND t.id = ANY ($1) AND t.state = 'pending' AND t.assignment_reason IS NOT NULL
            AND t.assigned_model IS DISTINCT FROM
                CASE WHEN coalesce(d.spec ->> 'handler', '') NOT IN ('Webhook', 'External') THEN coalesce(t.model, d.spec ->> 'model') END",
    ] {
        sqlx::query(statement).bind(ids).execute(&mut *connection).await?;
    }
    Ok(())
}

async fn put(connection: &mut PgConnection, row: &DeclaredRow) -> Result<(), StoreError> {
    // Whoever has its name under another uid was deleted, whether or not the sweep has seen that.
    sqlx::query(
        "UPDATE declared SET gone_at = clock_timestamp()
         WHERE kind = $1 AND namespace = $2 AND name = $3 AND uid <> $4 AND gone_at IS NULL",
    )
    .bind(&row.kind)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(&row.uid)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO declared (uid, kind, namespace, name, generation, labels, spec, suspended, held, gone_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL)
         ON CONFLICT (uid) DO UPDATE SET kind = $2, namespace = $3, name = $4, generation = $5, labels = $6, spec = $7,
            suspended = $8, held = $9, gone_at = NULL",
    )
    .bind(&row.uid)
    .bind(&row.kind)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(row.generation)
    .bind(sqlx::types::Json(&row.labels))
    .bind(json(&row.spec))
    .bind(row.suspended)
    .bind(row.held.as_deref().map(text))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn living(store: &PostgresStore, kind: &str) -> Result<Vec<DeclaredRow>, StoreError> {
    let living = sqlx::query_as(
        "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
         WHERE kind = $1 AND gone_at IS NULL ORDER BY namespace, name",
    );
    let records: Vec<DeclaredRecord> = store.fetch(living.bind(kind)).await?;
    Ok(records.into_iter().map(Into::into).collect())
}

pub(super) async fn sweep(
    store: &PostgresStore,
    fence: &Fence,
    kind: &str,
    complete: &[String],
) -> Result<Vec<DeclaredRow>, StoreError> {
    let mut missing = living(store, kind).await?;
    missing.retain(|row| !complete.contains(&row.uid));
    let kept = i64::try_from(GONE_KEPT.as_secs()).unwrap_or(i64::MAX);
    let stale = sqlx::query_as(
        "SELECT EXISTS (SELECT FROM declared WHERE kind = $1 AND gone_at < clock_timestamp() - $2 * interval '1 second')",
    );
    let stale: Vec<(bool,)> = store.fetch(stale.bind(kind).bind(kept)).await?;
    if missing.is_empty() && !stale.iter().any(|(stale,)| *stale) {
        return Ok(missing);
    }
    let experts: Vec<Expert<'_>> =
        missing.iter().filter(|row| row.kind == EXPERT).map(|row| Expert::of(row, true)).collect();
    for expert in &experts {
        follow(store, fence, expert).await?;
    }
    store
        .within(async {
            let mut session = store.write_fenced(fence).await?;
            let connection = session.connection();
            sqlx::query("UPDATE declared SET gone_at = clock_timestamp() WHERE uid = ANY ($1) AND gone_at IS NULL")
                .bind(missing.iter().map(|row| row.uid.as_str()).collect::<Vec<_>>())
                .execute(&mut *connection)
                .await?;
            for expert in &experts {
                follow_batch(connection, expert).await?;
                places::set(connection, expert.namespace, expert.name, 0).await?;
            }
            purge(connection, kind, kept).await?;
            session.commit().await
        })
        .await?;
    store.work.changed(Topics::WORLD | Topics::NEW | Topics::READY);
    Ok(missing)
}

/// Rows go when nothing refers to them.
async fn purge(connection: &mut PgConnection, kind: &str, kept_seconds: i64) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM schedule_runs WHERE schedule IN (SELECT uid FROM declared
            WHERE kind = $1 AND gone_at < clock_timestamp() - $2 * interval '1 second')",
        "DELETE FROM expert_places AS p USING declared AS d WHERE d.kind = $1 AND d.kind = 'Expert'
            AND d.gone_at < clock_timestamp() - $2 * interval '1 second'
            AND p.namespace = d.namespace AND p.expert = d.name AND p.running = 0 AND p.places = 0
            AND coalesce((SELECT sum(c.count) FROM task_counts AS c WHERE c.namespace = p.namespace AND c.expert = p.expert), 0) = 0",
        "DELETE FROM recoveries WHERE uid IN (SELECT uid FROM declared
            WHERE kind = $1 AND gone_at < clock_timestamp() - $2 * interval '1 second')",
        "DELETE FROM declared WHERE kind = $1 AND gone_at < clock_timestamp() - $2 * interval '1 second'",
    ] {
        sqlx::query(statement).bind(kind).bind(kept_seconds).execute(&mut *connection).await?;
    }
    Ok(())
}
