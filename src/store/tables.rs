//! Small tables that are the same in both databases: what people asked for outside of manifests, what happened, what a folder of manifests
//! can't keep itself, and recovery documents.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{Postgres, QueryBuilder, Sqlite};

use super::changes::Topics;
use super::postgres::PostgresStore;
use super::rows::journal_limit;
use super::sqlite::SqliteStore;
use super::stamp::Stamp;
use super::text::{json, text};
use super::{
    ControlSet, Controls, Fence, Journal, JournalEntry, JournalFilter, LocalObject, LocalState, Pause, Recoveries,
    ResourceKey, StoreError, Suspension,
};

/// A statement whose first parameters name a resource.
macro_rules! of_resource {
    ($statement:expr, $key:expr) => {
        sqlx::query($statement).bind(&$key.kind).bind(&$key.namespace).bind(&$key.name)
    };
}

/// `$now` is the database's time, as its tables keep it.
macro_rules! small_tables {
    ($store:ty, $database:ty, $now:literal) => {
        #[async_trait]
        impl Controls for $store {
            async fn controls(&self) -> Result<ControlSet, StoreError> {
                let pause = "SELECT since, until, set_by FROM pause WHERE until IS NULL OR until > ";
                let pauses: Vec<(Stamp, Option<Stamp>, String)> =
                    self.fetch(QueryBuilder::new(pause).push($now).build_query_as()).await?;
                let suspended: Vec<(String, String, String, bool, String, Stamp)> = self
                    .fetch(sqlx::query_as(
                        "SELECT kind, namespace, name, suspended, set_by, at FROM suspensions ORDER BY kind, namespace, name",
                    ))
                    .await?;
                let requested: Vec<(String, String, String, String)> = self
                    .fetch(sqlx::query_as(
                        "SELECT kind, namespace, name, token FROM reconcile_requests ORDER BY kind, namespace, name",
                    ))
                    .await?;
                let pause = |(since, until, by): (Stamp, Option<Stamp>, _)| {
                    Pause { since: since.into(), until: until.map(Into::into), by }
                };
                let suspension = |(kind, namespace, name, suspended, by, at): (_, _, _, _, _, Stamp)| {
                    (ResourceKey { kind, namespace, name }, Suspension { suspended, by, at: at.into() })
                };
                let request = |(kind, namespace, name, token)| (ResourceKey { kind, namespace, name }, token);
                Ok(ControlSet {
                    pause: pauses.into_iter().next().map(pause),
                    suspended: suspended.into_iter().map(suspension).collect(),
                    reconcile_requested: requested.into_iter().map(request).collect(),
                })
            }

            async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), StoreError> {
                let statement = match pause {
                    None => sqlx::query("DELETE FROM pause"),
                    Some(Pause { since, until, by }) => sqlx::query(
                        "INSERT INTO pause (one, since, until, set_by) VALUES (true, $1, $2, $3)
                         ON CONFLICT (one) DO UPDATE SET since = $1, until = $2, set_by = $3",
                    )
                    .bind(Stamp::from(*since))
                    .bind(until.map(Stamp::from))
                    .bind(by),
                };
                self.execute(statement).await?;
                self.changed(Topics::WISHES);
                Ok(())
            }

            async fn set_suspended(&self, key: &ResourceKey, suspended: Option<&Suspension>) -> Result<(), StoreError> {
                let statement = match suspended {
                    None => of_resource!("DELETE FROM suspensions WHERE kind = $1 AND namespace = $2 AND name = $3", key),
                    Some(Suspension { suspended, by, at }) => of_resource!(
                        "INSERT INTO suspensions (kind, namespace, name, suspended, set_by, at) VALUES ($1, $2, $3, $4, $5, $6)
                         ON CONFLICT (kind, namespace, name) DO UPDATE SET suspended = $4, set_by = $5, at = $6",
                        key
                    )
                    .bind(suspended)
                    .bind(by)
                    .bind(Stamp::from(*at)),
                };
                self.execute(statement).await?;
                self.changed(Topics::WISHES);
                Ok(())
            }

            async fn request_reconcile(&self, key: &ResourceKey, token: &str) -> Result<(), StoreError> {
                let request = of_resource!(
                    "INSERT INTO reconcile_requests (kind, namespace, name, token) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (kind, namespace, name) DO UPDATE SET token = $4",
                    key
                );
                self.execute(request.bind(token)).await?;
                self.changed(Topics::WISHES);
                Ok(())
            }
        }

        #[async_trait]
        impl Journal for $store {
            async fn append(&self, entry: &JournalEntry) -> Result<(), StoreError> {
                let JournalEntry { at, about, warning, reason, message } = entry;
                let append = of_resource!(
                    "INSERT INTO journal (kind, namespace, name, at, warning, reason, message) VALUES ($1, $2, $3, $4, $5, $6, $7)",
                    about
                );
                let append = append.bind(Stamp::from(*at)).bind(warning).bind(text(reason)).bind(text(message));
                self.execute(append).await?;
                Ok(())
            }

            async fn journal(&self, filter: &JournalFilter) -> Result<Vec<JournalEntry>, StoreError> {
                // Only what is asked for is in the statement, so that the planner sees which index fits.
                let mut query = QueryBuilder::<$database>::new(
                    "SELECT at, kind, namespace, name, warning, reason, message FROM journal WHERE true",
                );
                let JournalFilter { kind, namespace, name, since, limit } = filter;
                for (column, wanted) in [("kind", kind), ("namespace", namespace), ("name", name)] {
                    if let Some(wanted) = wanted {
                        query.push(" AND ").push(column).push(" = ").push_bind(wanted.clone());
                    }
                }
                if let Some(since) = since {
                    query.push(" AND at >= ").push_bind(Stamp::from(*since));
                }
                query.push(" ORDER BY at DESC, id DESC LIMIT ").push_bind(journal_limit(*limit));
                self.fetch(query.build_query_as()).await
            }

            async fn prune_journal(&self, before: Timestamp) -> Result<u64, StoreError> {
                self.execute(sqlx::query("DELETE FROM journal WHERE at < $1").bind(Stamp::from(before))).await
            }
        }

        #[async_trait]
        impl LocalState for $store {
            async fn local_objects(&self) -> Result<Vec<LocalObject>, StoreError> {
                self.fetch(sqlx::query_as(
                    "SELECT kind, namespace, name, uid, generation, resource_version, created_at, manifest, status
                     FROM local_objects ORDER BY kind, namespace, name",
                ))
                .await
            }

            async fn put_local_object(&self, object: &LocalObject) -> Result<(), StoreError> {
                let LocalObject { key, uid, generation, resource_version, created_at, manifest, status } = object;
                let record = of_resource!(
                    "INSERT INTO local_objects
                        (kind, namespace, name, uid, generation, resource_version, created_at, manifest, status)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                     ON CONFLICT (kind, namespace, name) DO UPDATE SET uid = $4, generation = $5, resource_version = $6,
                        created_at = $7, manifest = $8, status = $9",
                    key
                );
                let record = record
                    .bind(uid)
                    .bind(generation)
                    .bind(resource_version)
                    .bind(Stamp::from(*created_at))
                    .bind(Json(json(manifest)))
                    .bind(status.as_ref().map(|status| Json(json(status))));
                self.execute(record).await?;
                Ok(())
            }

            /// What people set for the resource goes with it.
            async fn delete_local_object(&self, key: &ResourceKey) -> Result<(), StoreError> {
                self.execute_all(vec![
                    of_resource!("DELETE FROM local_objects WHERE kind = $1 AND namespace = $2 AND name = $3", key),
                    of_resource!("DELETE FROM suspensions WHERE kind = $1 AND namespace = $2 AND name = $3", key),
                    of_resource!("DELETE FROM reconcile_requests WHERE kind = $1 AND namespace = $2 AND name = $3", key),
                ])
                .await
            }
        }

        #[async_trait]
        impl Recoveries for $store {
            async fn recovery(&self, uid: &str) -> Result<Option<serde_json::Value>, StoreError> {
                let state = sqlx::query_as("SELECT state FROM recoveries WHERE uid = $1").bind(uid);
                let states: Vec<(serde_json::Value,)> = self.fetch(state).await?;
                Ok(states.into_iter().next().map(|(state,)| state))
            }

            async fn save_recovery(&self, fence: &Fence, uid: &str, state: &serde_json::Value) -> Result<(), StoreError> {
                let save = sqlx::query(concat!(
                    "INSERT INTO recoveries (uid, state, epoch, saved_at) VALUES ($1, $2, $3, ",
                    $now,
                    ") ON CONFLICT (uid) DO UPDATE SET state = $2, epoch = $3, saved_at = excluded.saved_at"
                ));
                self.execute_fenced(fence, save.bind(uid).bind(Json(json(state))).bind(fence.epoch)).await
            }
        }
    };
}

small_tables!(PostgresStore, Postgres, "clock_timestamp()");
small_tables!(SqliteStore, Sqlite, "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)");
