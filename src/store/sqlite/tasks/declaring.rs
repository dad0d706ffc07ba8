//! What becomes of tasks that have not started when what is declared changes.

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection};

use super::SqliteStore;
use crate::store::changes::Topics;
use crate::store::projections::FollowedExpert;
use crate::store::{Fence, StoreError};
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

impl SqliteStore {
    /// Runs statements in a transaction of the leader, in which the unstarted tasks of these experts follow.
    pub(in crate::store) async fn declare(
        &self,
        fence: &Fence,
        statements: Vec<Query<'_, Sqlite, SqliteArguments>>,
        experts: &[FollowedExpert<'_>],
    ) -> Result<(), StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        for statement in statements {
            statement.execute(&mut *tx).await?;
        }
        for expert in experts {
            refresh_expert(&mut tx, &expert.row.namespace, &expert.row.name).await?;
        }
        self.commit(tx, Topics::WORLD | Topics::NEW | Topics::READY).await
    }
}
