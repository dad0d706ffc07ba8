//! Experts, queues, pools and schedules as they are declared, and what that does to tasks that have not started.

use std::collections::HashSet;

use sqlx::SqliteConnection;
use sqlx::types::Json;

use super::SqliteStore;
use crate::store::changes::Topics;
use crate::store::task_rows::DeclaredRecord;
use crate::store::text::json_text;
use crate::store::{DeclaredRow, Fence, GONE_KEPT, StoreError};
use crate::tasks::TaskId;

/// Pending tasks whose expert is suspended or gone lose their assignment; others follow their expert's model.
macro_rules! refresh {
    ($which:literal) => {
        [
            concat!(
                "UPDATE tasks SET expert = NULL, assignment_reason = NULL, candidates = '[]', assigned_model = NULL
                 WHERE ", $which, " AND state = 'pending' AND assignment_reason IS NOT NULL
                 AND NOT EXISTS (SELECT 1 FROM declared d WHERE d.kind = 'Expert' AND d.namespace = tasks.namespace
                    AND d.name = tasks.expert AND d.gone_at IS NULL AND NOT d.suspended)"
            ),
            concat!(
                "UPDATE tasks SET assigned_model = wanted.model
                 FROM (SELECT t.id, CASE WHEN d.spec ->> '$.handler' IN ('Webhook', 'External') THEN NULL
                        ELSE coalesce(t.model, d.spec ->> '$.model') END AS model
                    FROM tasks t JOIN declared d ON d.kind = 'Expert' AND d.namespace = t.namespace AND d.name = t.expert
                        AND d.gone_at IS NULL
                    WHERE t.", $which, " AND t.state = 'pending' AND t.assignment_reason IS NOT NULL) AS wanted
                 WHERE tasks.id = wanted.id AND tasks.assigned_model IS NOT wanted.model"
            ),
        ]
    };
}

/// For a task that just became pending: its expert may be another one than when it was assigned.
pub(super) async fn refresh_task(tx: &mut SqliteConnection, id: TaskId) -> Result<(), StoreError> {
    for statement in refresh!("id = ?1") {
        sqlx::query(statement).bind(id).execute(&mut *tx).await?;
    }
    Ok(())
}

/// For an expert that is another one than before.
async fn refresh_expert(tx: &mut SqliteConnection, namespace: &str, name: &str) -> Result<(), StoreError> {
    for statement in refresh!("namespace = ?1 AND expert = ?2") {
        sqlx::query(statement).bind(namespace).bind(name).execute(&mut *tx).await?;
    }
    Ok(())
}

const LIVING: &str = "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
    WHERE kind = ? AND gone_at IS NULL ORDER BY namespace, name";

pub(super) async fn living(connection: &mut SqliteConnection, kind: &str) -> Result<Vec<DeclaredRow>, StoreError> {
    let records: Vec<DeclaredRecord> = sqlx::query_as(LIVING).bind(kind).fetch_all(connection).await?;
    Ok(records.into_iter().map(Into::into).collect())
}

impl SqliteStore {
    pub(super) async fn project(&self, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError> {
        let before: Option<DeclaredRecord> = sqlx::query_as(
            "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
             WHERE uid = ? AND gone_at IS NULL",
        )
        .bind(&row.uid)
        .fetch_optional(&self.reader)
        .await?;
        if before.map(DeclaredRow::from).as_ref() == Some(row) {
            return Ok(());
        }
        let mut tx = self.write_fenced(fence).await?;
        // Whoever has its name under another uid was deleted, whether or not the sweep has seen that.
        sqlx::query(
            "UPDATE declared SET gone_at = ?5 WHERE kind = ?1 AND namespace = ?2 AND name = ?3 AND uid <> ?4 AND gone_at IS NULL",
        )
        .bind(&row.kind)
        .bind(&row.namespace)
        .bind(&row.name)
        .bind(&row.uid)
        .bind(self.now())
        .execute(&mut *tx)
        .await?;
        put(&mut tx, row).await?;
        if row.kind == "Expert" {
            refresh_expert(&mut tx, &row.namespace, &row.name).await?;
        }
        self.commit(tx, Topics::WORLD | Topics::NEW | Topics::READY).await
    }

    pub(super) async fn sweep(
        &self,
        fence: &Fence,
        kind: &str,
        complete: &[String],
    ) -> Result<Vec<DeclaredRow>, StoreError> {
        let complete: HashSet<&str> = complete.iter().map(String::as_str).collect();
        let purge_before = self.now().before(GONE_KEPT);
        let mut missing = living(&mut *self.reader.acquire().await?, kind).await?;
        missing.retain(|row| !complete.contains(row.uid.as_str()));
        let stale: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM declared WHERE kind = ? AND gone_at < ?)")
            .bind(kind)
            .bind(purge_before)
            .fetch_one(&self.reader)
            .await?;
        if missing.is_empty() && !stale {
            return Ok(missing);
        }
        let mut tx = self.write_fenced(fence).await?;
        for row in &missing {
            sqlx::query("UPDATE declared SET gone_at = ? WHERE uid = ? AND gone_at IS NULL")
                .bind(self.now())
                .bind(&row.uid)
                .execute(&mut *tx)
                .await?;
            if kind == "Expert" {
                refresh_expert(&mut tx, &row.namespace, &row.name).await?;
            }
        }
        for statement in [
            "DELETE FROM schedule_runs WHERE schedule IN (SELECT uid FROM declared WHERE kind = ?1 AND gone_at < ?2)",
            "DELETE FROM recoveries WHERE uid IN (SELECT uid FROM declared WHERE kind = ?1 AND gone_at < ?2)",
            "DELETE FROM declared WHERE kind = ?1 AND gone_at < ?2",
        ] {
            sqlx::query(statement).bind(kind).bind(purge_before).execute(&mut *tx).await?;
        }
        self.commit(tx, Topics::WORLD | Topics::NEW | Topics::READY).await?;
        Ok(missing)
    }
}

async fn put(tx: &mut SqliteConnection, row: &DeclaredRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO declared (uid, kind, namespace, name, generation, labels, spec, suspended, held, gone_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, NULL)
         ON CONFLICT (uid) DO UPDATE SET kind = ?2, namespace = ?3, name = ?4, generation = ?5, labels = ?6, spec = ?7,
            suspended = ?8, held = ?9, gone_at = NULL",
    )
    .bind(&row.uid)
    .bind(&row.kind)
    .bind(&row.namespace)
    .bind(&row.name)
    .bind(row.generation)
    .bind(Json(&row.labels))
    .bind(json_text(&row.spec))
    .bind(row.suspended)
    .bind(&row.held)
    .execute(tx)
    .await?;
    Ok(())
}
