//! Records as the objects that an API server would give, and who watches which kind.

use futures::{Stream, StreamExt, stream};
use kube::{
    api::{DynamicObject, ObjectMeta},
    runtime::watcher::Event,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{kinds::Kinds, records::LocalRecord, snapshot::FolderState};

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
        tracing::error!(about = %record.key, %error, "cannot read a recorded manifest as an object");
        bare(record)
    })
}

/// The objects of a kind.
pub fn objects(kinds: &Kinds, state: &FolderState, kind: &str) -> Vec<DynamicObject> {
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

/// The open watches.
#[derive(Default)]
pub struct Subscribers {
    open: Vec<(String, mpsc::UnboundedSender<Event<DynamicObject>>)>,
}

impl Subscribers {
    /// A new watch that begins with all objects that there are.
    pub fn add(
        &mut self,
        kind: &str,
        present: Vec<DynamicObject>,
    ) -> impl Stream<Item = Event<DynamicObject>> + Send + 'static + use<> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.open.push((kind.to_owned(), sender));
        stream::iter(
            std::iter::once(Event::Init)
                .chain(present.into_iter().map(Event::InitApply))
                .chain(std::iter::once(Event::InitDone)),
        )
        .chain(UnboundedReceiverStream::new(receiver))
    }

    /// Tells everybody who watches the kind; forgets who went away.
    pub fn tell(&mut self, kind: &str, event: &Event<DynamicObject>) {
        self.open.retain(|(of, sender)| of != kind || sender.send(event.clone()).is_ok());
    }
}
