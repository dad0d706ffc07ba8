//! What people asked for outside of manifests.

use async_trait::async_trait;

use super::PostgresStore;
use crate::store::changes::Topics;
use crate::store::rows::{PauseRecord, ReconcileRecord, SuspensionRecord};
use crate::store::stamp::Stamp;
use crate::store::{ControlSet, Controls, Pause, ResourceKey, StoreError, Suspension};

#[async_trait]
impl Controls for PostgresStore {
    async fn controls(&self) -> Result<ControlSet, StoreError> {
        let pause =
            sqlx::query_as("SELECT since, until, set_by FROM pause WHERE until IS NULL OR until > clock_timestamp()");
        let suspended = sqlx::query_as(
            "SELECT kind, namespace, name, suspended, set_by, at FROM suspensions ORDER BY kind, namespace, name",
        );
        let requested = sqlx::query_as(
            "SELECT kind, namespace, name, token FROM reconcile_requests ORDER BY kind, namespace, name",
        );
        let pause: Vec<PauseRecord> = self.fetch(pause).await?;
        let suspended: Vec<SuspensionRecord> = self.fetch(suspended).await?;
        let requested: Vec<ReconcileRecord> = self.fetch(requested).await?;
        Ok(ControlSet {
            pause: pause.into_iter().next().map(Into::into),
            suspended: suspended.into_iter().map(Into::into).collect(),
            reconcile_requested: requested.into_iter().map(Into::into).collect(),
        })
    }

    async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), StoreError> {
        let Some(pause) = pause else {
            self.execute(sqlx::query("DELETE FROM pause")).await?;
            self.work.changed(Topics::WISHES);
            return Ok(());
        };
        let statement = sqlx::query(
            "INSERT INTO pause (one, since, until, set_by) VALUES (true, $1, $2, $3)
             ON CONFLICT (one) DO UPDATE SET since = $1, until = $2, set_by = $3",
        )
        .bind(Stamp::from(pause.since))
        .bind(pause.until.map(Stamp::from))
        .bind(&pause.by);
        self.execute(statement).await?;
        self.work.changed(Topics::WISHES);
        Ok(())
    }

    async fn set_suspended(&self, key: &ResourceKey, suspended: Option<&Suspension>) -> Result<(), StoreError> {
        let statement = match suspended {
            None => sqlx::query("DELETE FROM suspensions WHERE kind = $1 AND namespace = $2 AND name = $3"),
            Some(_) => sqlx::query(
                "INSERT INTO suspensions (kind, namespace, name, suspended, set_by, at) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (kind, namespace, name) DO UPDATE SET suspended = $4, set_by = $5, at = $6",
            ),
        };
        let mut statement = statement.bind(&key.kind).bind(&key.namespace).bind(&key.name);
        if let Some(Suspension { suspended, by, at }) = suspended {
            statement = statement.bind(suspended).bind(by).bind(Stamp::from(*at));
        }
        self.execute(statement).await?;
        self.work.changed(Topics::WISHES);
        Ok(())
    }

    async fn request_reconcile(&self, key: &ResourceKey, token: &str) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO reconcile_requests (kind, namespace, name, token) VALUES ($1, $2, $3, $4)
             ON CONFLICT (kind, namespace, name) DO UPDATE SET token = $4",
        )
        .bind(&key.kind)
        .bind(&key.namespace)
        .bind(&key.name)
        .bind(token);
        self.execute(statement).await?;
        self.work.changed(Topics::WISHES);
        Ok(())
    }
}
