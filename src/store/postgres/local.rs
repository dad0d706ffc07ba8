//! Uid, generation and status of a folder's resources.

use async_trait::async_trait;

use super::PostgresStore;
use crate::store::rows::LocalObjectRecord;
use crate::store::stamp::Stamp;
use crate::store::text::json;
use crate::store::{LocalObject, LocalState, ResourceKey, StoreError};

#[async_trait]
impl LocalState for PostgresStore {
    async fn local_objects(&self) -> Result<Vec<LocalObject>, StoreError> {
        let objects = sqlx::query_as(
            "SELECT kind, namespace, name, uid, generation, resource_version, created_at, manifest, status
             FROM local_objects ORDER BY kind, namespace, name",
        );
        let records: Vec<LocalObjectRecord> = self.fetch(objects).await?;
        Ok(records.into_iter().map(Into::into).collect())
    }

    async fn put_local_object(&self, object: &LocalObject) -> Result<(), StoreError> {
        let LocalObject { key, uid, generation, resource_version, created_at, manifest, status } = object;
        let record = sqlx::query(
            "INSERT INTO local_objects
                (kind, namespace, name, uid, generation, resource_version, created_at, manifest, status)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (kind, namespace, name) DO UPDATE SET uid = $4, generation = $5, resource_version = $6,
                created_at = $7, manifest = $8, status = $9",
        )
        .bind(&key.kind)
        .bind(&key.namespace)
        .bind(&key.name)
        .bind(uid)
        .bind(generation)
        .bind(resource_version)
        .bind(Stamp::from(*created_at))
        .bind(json(manifest))
        .bind(status.as_ref().map(json));
        self.execute(record).await?;
        Ok(())
    }

    /// What people set for the resource goes with it.
    async fn delete_local_object(&self, key: &ResourceKey) -> Result<(), StoreError> {
        self.within(async {
            let mut session = self.write().await?;
            for statement in [
                "DELETE FROM local_objects WHERE kind = $1 AND namespace = $2 AND name = $3",
                "DELETE FROM suspensions WHERE kind = $1 AND namespace = $2 AND name = $3",
                "DELETE FROM reconcile_requests WHERE kind = $1 AND namespace = $2 AND name = $3",
            ] {
                sqlx::query(statement)
                    .bind(&key.kind)
                    .bind(&key.namespace)
                    .bind(&key.name)
                    .execute(session.connection())
                    .await?;
            }
            session.commit().await
        })
        .await
    }
}
