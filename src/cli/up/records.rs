//! What a folder of manifests can't keep itself goes into the store.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    api::ObjectKey,
    platform::local::{LocalEvent, LocalJournal, LocalRecord, LocalRecords, RecordsError},
    store::{JournalEntry, LocalObject, Store, StoreError},
};

/// Uid, generation, status and events of a folder's resources, kept in the store.
pub struct Records(pub Arc<dyn Store>);

#[async_trait]
impl LocalRecords for Records {
    async fn load(&self) -> Result<Vec<LocalRecord>, RecordsError> {
        let objects = self.0.local_objects().await.map_err(refused)?;
        Ok(objects.into_iter().map(record).collect())
    }

    async fn put(&self, record: &LocalRecord) -> Result<(), RecordsError> {
        self.0.put_local_object(&object(record)).await.map_err(refused)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), RecordsError> {
        self.0.delete_local_object(key).await.map_err(refused)
    }
}

#[async_trait]
impl LocalJournal for Records {
    async fn append(&self, event: &LocalEvent) -> Result<(), RecordsError> {
        let LocalEvent { at, about, warning, reason, message } = event.clone();
        let entry = JournalEntry { at, about, warning, reason, message };
        self.0.append(&entry).await.map_err(refused)
    }
}

fn refused(error: StoreError) -> RecordsError {
    RecordsError(error.to_string())
}

fn object(record: &LocalRecord) -> LocalObject {
    let LocalRecord { key, uid, generation, resource_version, created_at, manifest, status } = record.clone();
    LocalObject { key, uid, generation, resource_version, created_at, manifest, status }
}

fn record(object: LocalObject) -> LocalRecord {
    let LocalObject { key, uid, generation, resource_version, created_at, manifest, status } = object;
    LocalRecord { key, uid, generation, resource_version, created_at, manifest, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_kept() {
        let kept = LocalRecord {
            key: ObjectKey::new("LLMBackend", "team", "mlx"),
            uid: "u".into(),
            generation: 3,
            resource_version: 9,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            manifest: serde_json::json!({"spec": {}}),
            status: Some(serde_json::json!({"state": "Idle"})),
        };
        assert_eq!(record(object(&kept)), kept);
    }
}
