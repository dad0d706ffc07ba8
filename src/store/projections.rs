//! What resources say, as tables that workers read, in both databases alike. What differs is how tasks follow their expert.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::types::Json;

use super::changes::Topics;
use super::counted::{Counted, store_traits};
use super::postgres::PostgresStore;
use super::rows::in_microseconds;
use super::sqlite::SqliteStore;
use super::stamp::Stamp;
use super::text::{json, text};
use super::{BackendRow, DeclaredRow, Fence, GONE_KEPT, StoreError, Tasks};
use crate::api::Kind;

store_traits! {
    /// What resources say, as tables that workers read.
    Projections {
        /// Inserts or updates a backend; writes nothing when nothing differs. A backend that was gone is back.
        fn project_backend(fence: &Fence, row: &BackendRow) -> ();
        /// Marks as gone every backend whose uid is not in `complete`, the uids of a complete listing. Returns those newly marked.
        fn sweep_backends(fence: &Fence, complete: &[String]) -> Vec<BackendRow>;
        /// All backends that are not gone.
        fn backends() -> Vec<BackendRow>;
        /// Inserts or updates what another kind than LLMBackend declares; writes nothing when nothing differs. For an expert it also moves
        /// its unstarted tasks to its new model, and takes them away from it when it is suspended.
        fn project_declared(fence: &Fence, row: &DeclaredRow) -> ();
        /// Marks as gone what a complete listing lacks. A gone expert's unstarted tasks lose their assignment. Returns those newly marked.
        fn sweep_declared(fence: &Fence, kind: &str, complete: &[String]) -> Vec<DeclaredRow>;
        /// Resources of a kind that are not gone.
        fn declared(kind: &str) -> Vec<DeclaredRow>;
    }
}

/// An expert, as unstarted tasks follow it.
pub(super) struct FollowedExpert<'a> {
    pub row: &'a DeclaredRow,
    /// Neither suspended nor gone.
    pub open: bool,
}

fn experts(rows: &[DeclaredRow], gone: bool) -> Vec<FollowedExpert<'_>> {
    let experts = rows.iter().filter(|row| row.kind == Kind::Expert.as_str());
    experts.map(|row| FollowedExpert { row, open: !row.suspended && !gone }).collect()
}

/// A gone backend gives no new slots, unless another one is declared for the same server.
const CLOSE_SERVER: &str = "UPDATE servers SET admission = 'Closed' WHERE url = $1
    AND NOT EXISTS (SELECT 1 FROM backends WHERE server_url = $1 AND gone_at IS NULL)";
/// Servers that nobody declares any more, and that no call can be running on.
const DROP_SERVERS: &str = "DELETE FROM servers WHERE url IN (SELECT server_url FROM backends WHERE gone_at < $1)
    AND NOT EXISTS (SELECT 1 FROM backends AS b WHERE b.server_url = servers.url AND (b.gone_at IS NULL OR b.gone_at >= $1))
    AND NOT EXISTS (SELECT 1 FROM slots AS s WHERE s.server_url = servers.url
        AND (coalesce(s.frees_at, s.lease_expires_at) > $2 OR s.call_ends_at > $2))";
/// What is known of backends that are gone for long.
const DROP_RECOVERIES: &str = "DELETE FROM recoveries WHERE uid IN (SELECT uid FROM backends WHERE gone_at < $1)";
const DROP_OBSERVATIONS: &str = "DELETE FROM observations WHERE uid IN (SELECT uid FROM backends WHERE gone_at < $1)";
const DROP_BACKENDS: &str = "DELETE FROM backends WHERE gone_at < $1";

const DROP_RUNS: &str =
    "DELETE FROM schedule_runs WHERE schedule IN (SELECT uid FROM declared WHERE kind = $1 AND gone_at < $2)";
const DROP_PLACES: &str = "DELETE FROM expert_places AS p USING declared AS d WHERE d.kind = $1 AND d.kind = 'Expert'
    AND d.gone_at < $2 AND p.namespace = d.namespace AND p.expert = d.name AND p.running = 0 AND p.places = 0
    AND coalesce((SELECT sum(c.count) FROM task_counts AS c WHERE c.namespace = p.namespace AND c.expert = p.expert), 0) = 0";
const DROP_STATES: &str =
    "DELETE FROM recoveries WHERE uid IN (SELECT uid FROM declared WHERE kind = $1 AND gone_at < $2)";
const DROP_DECLARED: &str = "DELETE FROM declared WHERE kind = $1 AND gone_at < $2";

/// `$backends` and `$declared` are the statements that drop rows once nothing refers to them.
macro_rules! projections {
    ($store:ty, $backends:expr, $declared:expr) => {
        #[async_trait]
        impl Projections for $store {
            async fn project_backend(&self, fence: &Fence, row: &BackendRow) -> Result<(), StoreError> {
                let before = sqlx::query_as(
                    "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                        ready_since FROM backends WHERE uid = $1 AND gone_at IS NULL",
                );
                if self.fetch(before.bind(&row.uid)).await?.contains(&in_microseconds(row)) {
                    return Ok(());
                }
                let upsert = sqlx::query(
                    "INSERT INTO backends (uid, namespace, name, generation, engine, url, server_url, priority, spec, state,
                        reason, ready, ready_since, gone_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, NULL)
                     ON CONFLICT (uid) DO UPDATE SET namespace = $2, name = $3, generation = $4, engine = $5, url = $6,
                        server_url = $7, priority = $8, spec = $9, state = $10, reason = $11, ready = $12,
                        ready_since = $13, gone_at = NULL",
                );
                let upsert = upsert
                    .bind(&row.uid)
                    .bind(&row.namespace)
                    .bind(&row.name)
                    .bind(row.generation)
                    .bind(&row.engine)
                    .bind(&row.url)
                    .bind(&row.server_url)
                    .bind(row.priority)
                    .bind(Json(json(&row.spec)))
                    .bind(&row.state)
                    .bind(text(&row.reason))
                    .bind(row.ready)
                    .bind(row.ready_since.map(Stamp::from));
                self.execute_fenced(fence, upsert).await?;
                self.changed(Topics::WORLD);
                Ok(())
            }

            async fn sweep_backends(&self, fence: &Fence, complete: &[String]) -> Result<Vec<BackendRow>, StoreError> {
                let complete: HashSet<&str> = complete.iter().map(String::as_str).collect();
                let mut missing = self.backends().await?;
                missing.retain(|row| !complete.contains(row.uid.as_str()));
                let now = Stamp::from(Tasks::now(self).await?);
                let purged = now.before(GONE_KEPT);
                let stale = sqlx::query_as("SELECT EXISTS (SELECT 1 FROM backends WHERE gone_at < $1)").bind(purged);
                let stale: Vec<(bool,)> = self.fetch(stale).await?;
                if missing.is_empty() && !stale.contains(&(true,)) {
                    return Ok(missing);
                }
                let mut statements = Vec::new();
                for row in &missing {
                    let gone = sqlx::query("UPDATE backends SET gone_at = $2 WHERE uid = $1 AND gone_at IS NULL");
                    statements.push(gone.bind(&row.uid).bind(now));
                    statements.push(sqlx::query(CLOSE_SERVER).bind(&row.server_url));
                }
                statements.push(sqlx::query(DROP_SERVERS).bind(purged).bind(now));
                statements.extend($backends.into_iter().map(|statement| sqlx::query(statement).bind(purged)));
                self.execute_all_fenced(fence, statements).await?;
                self.swept(&missing);
                Ok(missing)
            }

            async fn backends(&self) -> Result<Vec<BackendRow>, StoreError> {
                let living = sqlx::query_as(
                    "SELECT uid, namespace, name, generation, engine, url, server_url, priority, spec, state, reason, ready,
                        ready_since FROM backends WHERE gone_at IS NULL ORDER BY namespace, name, uid",
                );
                self.fetch(living).await
            }

            async fn project_declared(&self, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError> {
                let before = sqlx::query_as(
                    "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
                     WHERE uid = $1 AND gone_at IS NULL",
                );
                if self.fetch(before.bind(&row.uid)).await?.contains(row) {
                    return Ok(());
                }
                // Whoever has its name under another uid was deleted, whether or not the sweep has seen that.
                let displaced = sqlx::query(
                    "UPDATE declared SET gone_at = $5
                     WHERE kind = $1 AND namespace = $2 AND name = $3 AND uid <> $4 AND gone_at IS NULL",
                );
                let displaced = displaced
                    .bind(&row.kind)
                    .bind(&row.namespace)
                    .bind(&row.name)
                    .bind(&row.uid)
                    .bind(Stamp::from(Tasks::now(self).await?));
                let upsert = sqlx::query(
                    "INSERT INTO declared (uid, kind, namespace, name, generation, labels, spec, suspended, held, gone_at)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULL)
                     ON CONFLICT (uid) DO UPDATE SET kind = $2, namespace = $3, name = $4, generation = $5, labels = $6,
                        spec = $7, suspended = $8, held = $9, gone_at = NULL",
                );
                let upsert = upsert
                    .bind(&row.uid)
                    .bind(&row.kind)
                    .bind(&row.namespace)
                    .bind(&row.name)
                    .bind(row.generation)
                    .bind(Json(&row.labels))
                    .bind(Json(json(&row.spec)))
                    .bind(row.suspended)
                    .bind(row.held.as_deref().map(text));
                self.declare(fence, vec![displaced, upsert], &experts(std::slice::from_ref(row), false)).await
            }

            async fn sweep_declared(
                &self,
                fence: &Fence,
                kind: &str,
                complete: &[String],
            ) -> Result<Vec<DeclaredRow>, StoreError> {
                let complete: HashSet<&str> = complete.iter().map(String::as_str).collect();
                let mut missing = self.declared(kind).await?;
                missing.retain(|row| !complete.contains(row.uid.as_str()));
                let now = Stamp::from(Tasks::now(self).await?);
                let purged = now.before(GONE_KEPT);
                let stale = sqlx::query_as("SELECT EXISTS (SELECT 1 FROM declared WHERE kind = $1 AND gone_at < $2)");
                let stale: Vec<(bool,)> = self.fetch(stale.bind(kind).bind(purged)).await?;
                if missing.is_empty() && !stale.contains(&(true,)) {
                    return Ok(missing);
                }
                let mut statements = Vec::new();
                for row in &missing {
                    let gone = sqlx::query("UPDATE declared SET gone_at = $2 WHERE uid = $1 AND gone_at IS NULL");
                    statements.push(gone.bind(&row.uid).bind(now));
                }
                let purge = $declared.into_iter().map(|statement| sqlx::query(statement).bind(kind).bind(purged));
                statements.extend(purge);
                self.declare(fence, statements, &experts(&missing, true)).await?;
                Ok(missing)
            }

            async fn declared(&self, kind: &str) -> Result<Vec<DeclaredRow>, StoreError> {
                let living = sqlx::query_as(
                    "SELECT uid, kind, namespace, name, generation, labels, spec, suspended, held FROM declared
                     WHERE kind = $1 AND gone_at IS NULL ORDER BY namespace, name",
                );
                self.fetch(living.bind(kind)).await
            }
        }
    };
}

projections!(
    PostgresStore,
    [DROP_RECOVERIES, DROP_OBSERVATIONS, DROP_BACKENDS],
    [DROP_RUNS, DROP_PLACES, DROP_STATES, DROP_DECLARED]
);
projections!(SqliteStore, [DROP_RECOVERIES, DROP_BACKENDS], [DROP_RUNS, DROP_STATES, DROP_DECLARED]);
