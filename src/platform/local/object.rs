//! Records as the objects that an API server would give.

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::{kinds::Kinds, records::LocalRecord, snapshot::State};

/// The object of a record.
pub fn object(kinds: &Kinds, record: &LocalRecord) -> DynamicObject {
    let mut object = record.manifest.clone();
    if let Some(status) = &record.status {
        object["status"] = status.clone();
    }
    if let Some(schema) = kinds.schema(&record.key.kind) {
        schema.fill_defaults(&mut object);
    }
    let created = record.created_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(record.uid);
    metadata["generation"] = json!(record.generation);
    metadata["resourceVersion"] = json!(record.resource_version.to_string());
    metadata["creationTimestamp"] = json!(created);
    serde_json::from_value(object).unwrap_or_else(|error| {
        tracing::error!(about = %record.key, %error, "a recorded manifest is no object");
        bare(record)
    })
}

/// The objects of a kind.
pub fn objects(kinds: &Kinds, state: &State, kind: &str) -> Vec<DynamicObject> {
    state.records.values().filter(|record| record.key.kind == kind).map(|record| object(kinds, record)).collect()
}

/// A status must fit the schema, as the API server would have it. The faults, if any.
pub fn faults_of_status(kinds: &Kinds, record: &LocalRecord, status: &Value) -> Vec<String> {
    let Some(schema) = kinds.schema(&record.key.kind) else {
        return Vec::new();
    };
    let mut object = record.manifest.clone();
    object["status"] = status.clone();
    schema
        .admit(&mut object)
        .into_iter()
        .map(|fault| format!("{}: {}", fault.field, fault.message))
        .filter(|fault| fault.starts_with("status"))
        .collect()
}

/// What is left when a manifest can't be read as an object: its identity.
fn bare(record: &LocalRecord) -> DynamicObject {
    DynamicObject {
        types: None,
        metadata: ObjectMeta {
            name: Some(record.key.name.clone()),
            namespace: Some(record.key.namespace.clone()),
            uid: Some(record.uid.clone()),
            ..ObjectMeta::default()
        },
        data: Value::Null,
    }
}
