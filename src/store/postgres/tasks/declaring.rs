//! What becomes of tasks that have not started when what is declared changes.

use serde_json::Value;
use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;

use super::places;
use crate::store::changes::Topics;
use crate::store::postgres::PostgresStore;
use crate::store::projections::FollowedExpert;
use crate::store::{DeclaredRow, Fence, StoreError};
use crate::tasks::TaskId;

/// Tasks that one transaction moves along with their expert.
const BATCH: u64 = 5_000;

/// `maxConcurrentTasks`; none while it is not open.
fn places_of(expert: &FollowedExpert<'_>) -> i32 {
    let declared = expert.row.spec.get("maxConcurrentTasks").and_then(Value::as_i64);
    let places = declared.map_or(i32::MAX, |most| i32::try_from(most.max(0)).unwrap_or(i32::MAX));
    if expert.open { places } else { 0 }
}

impl PostgresStore {
    /// Runs statements in a transaction of the leader, in which the unstarted tasks of these experts follow.
    pub(in crate::store) async fn declare(
        &self,
        fence: &Fence,
        statements: Vec<Query<'_, Postgres, PgArguments>>,
        experts: &[FollowedExpert<'_>],
    ) -> Result<(), StoreError> {
        for expert in experts {
            follow(self, fence, expert).await?;
        }
        self.within(async {
            let mut session = self.write_fenced(fence).await?;
            for statement in statements {
                statement.execute(session.connection()).await?;
            }
            for expert in experts {
                // The few that were assigned since.
                follow_batch(session.connection(), expert).await?;
                let DeclaredRow { namespace, name, .. } = expert.row;
                places::set(session.connection(), namespace, name, places_of(expert)).await?;
            }
            session.commit().await
        })
        .await?;
        self.work.changed(Topics::WORLD | Topics::NEW | Topics::READY);
        Ok(())
    }
}

/// Moves an expert's unstarted tasks along, before anything says that it is done: a call that fails in between is made again.
async fn follow(store: &PostgresStore, fence: &Fence, expert: &FollowedExpert<'_>) -> Result<(), StoreError> {
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
async fn follow_batch(connection: &mut PgConnection, expert: &FollowedExpert<'_>) -> Result<u64, StoreError> {
    let DeclaredRow { namespace, name, spec, .. } = expert.row;
    let word = |field: &str| spec.get(field).and_then(Value::as_str);
    let done = sqlx::query(FOLLOW)
        .bind(namespace)
        .bind(name)
        .bind(expert.open)
        .bind(matches!(word("handler"), Some("Webhook" | "External")))
        .bind(word("model"))
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
