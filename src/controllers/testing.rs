//! A home of resources for tests of the loops: it gives what it is told, and keeps what is written.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    api::DynamicObject,
    runtime::watcher::Event::{self, Init, InitApply, InitDone},
};
use serde_json::{Value, json};

use crate::{
    api::Kind,
    platform::{Note, ObjectId, Platform, PlatformError, PlatformProblem, Unreadable, WatchError},
};

#[derive(Default)]
pub struct TestHome {
    pub objects: Vec<DynamicObject>,
    pub problems: Mutex<BTreeMap<Kind, Vec<PlatformProblem>>>,
    pub notes: Mutex<Vec<(String, Note)>>,
    /// Why statuses are refused, if they are.
    pub refuses: Option<PlatformError>,
    pub unreadable: Mutex<BTreeMap<String, Unreadable>>,
    /// How many statuses were to be written.
    pub statuses: Mutex<usize>,
}

/// An Expert of some version; `rest` replaces fields of it.
pub fn expert(name: &str, version: u32, rest: Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": "ostler.dev/v1alpha1", "kind": "Expert",
        "metadata": {
            "name": name, "namespace": "team", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "generation": version,
        },
        "spec": {"handler": "Chat", "model": "m", "domains": ["d"]},
    });
    object.as_object_mut().unwrap().extend(rest.as_object().cloned().unwrap_or_default());
    serde_json::from_value(object).unwrap()
}

#[async_trait]
impl Platform for TestHome {
    fn watch(&self, _: Kind) -> BoxStream<'static, Result<Event<DynamicObject>, WatchError>> {
        let listed: Vec<_> = self.objects.iter().cloned().map(InitApply).collect();
        let events = std::iter::once(Init).chain(listed).chain([InitDone]).map(Ok).collect::<Vec<_>>();
        stream::iter(events).chain(stream::pending()).boxed()
    }
    async fn apply_status(&self, _: &ObjectId, _: &Value) -> Result<(), PlatformError> {
        *self.statuses.lock().unwrap() += 1;
        self.refuses.clone().map_or(Ok(()), Err)
    }
    async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError> {
        self.notes.lock().unwrap().push((about.name.clone(), note.clone()));
        Ok(())
    }
    async fn secret(&self, _: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        Err(PlatformError::NotFound(name.to_owned()))
    }
    async fn secret_labels(&self, _: &str, name: &str) -> Result<BTreeMap<String, String>, PlatformError> {
        Err(PlatformError::NotFound(name.to_owned()))
    }
    async fn config_map(&self, _: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        Err(PlatformError::NotFound(name.to_owned()))
    }
    async fn list(&self, _: &str) -> Result<Vec<DynamicObject>, PlatformError> {
        Ok(self.objects.clone())
    }
    fn loopback_is_self(&self) -> bool {
        true
    }
    fn workers_are_pods(&self) -> bool {
        false
    }
    fn unreadable(&self, _: Kind) -> BTreeMap<String, Unreadable> {
        self.unreadable.lock().unwrap().clone()
    }
    fn report_undecodable(&self, kind: Kind, problems: Vec<PlatformProblem>) {
        self.problems.lock().unwrap().insert(kind, problems);
    }
}

impl TestHome {
    pub fn with(objects: Vec<DynamicObject>) -> Arc<Self> {
        Arc::new(Self { objects, ..Self::default() })
    }
}
