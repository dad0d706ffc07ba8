//! What a folder can't keep itself, and who keeps it: `cli/` fills both traits from the store.

use std::{collections::BTreeMap, fmt};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::ObjectKey;

/// What is kept about a resource of the folder.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalRecord {
    pub key: ObjectKey,
    /// Stays until the resource is deleted.
    pub uid: String,
    /// Rises when the defaulted spec changes.
    pub generation: i64,
    /// Rises with every change.
    pub resource_version: i64,
    pub created_at: Timestamp,
    /// The defaulted manifest, without status.
    pub manifest: Value,
    pub status: Option<Value>,
}

/// The keeper could not do it; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordsError(pub String);

/// Keeps uid, generation and status of resources.
#[async_trait]
pub trait LocalRecords: Send + Sync {
    /// Everything that is kept.
    async fn load(&self) -> Result<Vec<LocalRecord>, RecordsError>;
    /// Inserts or replaces.
    async fn put(&self, record: &LocalRecord) -> Result<(), RecordsError>;
    /// Forgets.
    async fn delete(&self, key: &ObjectKey) -> Result<(), RecordsError>;
}

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEvent {
    pub at: Timestamp,
    pub about: ObjectKey,
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// Where events go.
#[async_trait]
pub trait LocalJournal: Send + Sync {
    async fn append(&self, event: &LocalEvent) -> Result<(), RecordsError>;
}

/// The data of a Secret or ConfigMap: never printed, never written to the store.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretData {
    pub data: BTreeMap<String, Vec<u8>>,
    pub labels: BTreeMap<String, String>,
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.data.keys()).finish()
    }
}
