//! A cluster as a [`Platform`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, TypeMeta},
    runtime::watcher::Event,
};
use serde_json::{Value, json};

use super::{client, error::answer, events::Events, failing::Failing, watch};
use crate::{
    api::{API_VERSION, FIELD_MANAGER, Kind},
    platform::{Namespaces, Note, ObjectId, Platform, PlatformError, PlatformProblem, Unreadable, WatchError},
};

/// Types of Secrets that no resource may name: whoever may declare one could send them anywhere.
const CREDENTIALS: [&str; 2] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];

/// Resources in a cluster.
pub struct KubernetesPlatform {
    client: Client,
    /// Empty: all.
    namespaces: Vec<String>,
    events: Events,
    failing: Failing,
}

impl KubernetesPlatform {
    /// `namespaces`: those that are watched; none means all. `instance` names this process in Events: the pod's name.
    pub fn new(client: Client, namespaces: Vec<String>, instance: &str) -> Self {
        Self { events: Events::new(client.clone(), instance), client, namespaces, failing: Failing::default() }
    }

    fn api(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }
}

#[async_trait]
impl Platform for KubernetesPlatform {
    fn watch(&self, kind: Kind) -> BoxStream<'static, Result<Event<DynamicObject>, WatchError>> {
        watch::watch(&self.client, &kind.api_resource(), &self.namespaces, &self.failing)
    }

    async fn apply_status(&self, id: &ObjectId, status: &Value) -> Result<(), PlatformError> {
        let api = self.api(&id.namespace, &client::resource(&id.kind)?);
        // Kubernetes 1.35 does not look at the uid in a status of a custom resource. The resourceVersion does its work: it is
        // unique over all objects, so a replaced one has another.
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": id.kind,
            "metadata": {
                "name": id.name,
                "namespace": id.namespace,
                "uid": id.uid,
                "resourceVersion": id.resource_version,
            },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let written = answer(id.key(), api.patch_status(&id.name, &params, &patch)).await.map(drop);
        self.failing.status_written(&id.kind, &written);
        written
    }

    async fn publish(&self, about: &ObjectId, note: &Note) -> Result<(), PlatformError> {
        self.events.publish(about, note).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = answer(format!("Secret {namespace}/{name}"), api.get(name)).await?;
        if let Some(of) = secret.type_.as_deref().filter(|of| CREDENTIALS.contains(of)) {
            return Err(PlatformError::Forbidden(format!(
                "Secret {namespace}/{name} is of type {of}, a credential of the cluster itself, and is sent to nobody: put what is needed into a Secret of type Opaque"
            )));
        }
        Ok(secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect())
    }

    async fn secret_labels(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, PlatformError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = answer(format!("Secret {namespace}/{name}"), api.get_metadata(name)).await?;
        Ok(found.metadata.labels.unwrap_or_default())
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, PlatformError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = answer(format!("ConfigMap {namespace}/{name}"), api.get(name)).await?;
        let texts = found.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
        Ok(texts.chain(found.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0))).collect())
    }

    async fn list(&self, kind: &str) -> Result<Vec<DynamicObject>, PlatformError> {
        let resource = &client::resource(kind)?;
        let apis: Vec<Api<DynamicObject>> = match self.namespaces.as_slice() {
            [] => vec![Api::all_with(self.client.clone(), resource)],
            several => several.iter().map(|namespace| self.api(namespace, resource)).collect(),
        };
        let (mut all, mut refused, several) = (Vec::new(), 0, apis.len());
        for api in apis {
            let listed = match answer(format!("list {kind}"), api.list(&ListParams::default())).await {
                Ok(listed) => listed,
                // One namespace that may not be read, among others: `problems` names it.
                Err(PlatformError::Forbidden(_)) if refused + 1 < several => {
                    refused += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Items of a list leave out what the list says.
            all.extend(listed.items.into_iter().map(|mut object| {
                object.types.get_or_insert_with(|| types(resource));
                object
            }));
        }
        Ok(all)
    }

    fn loopback_is_self(&self) -> bool {
        false
    }

    fn workers_are_pods(&self) -> bool {
        true
    }

    fn problems(&self) -> Vec<PlatformProblem> {
        self.failing.problems()
    }

    async fn namespaces(&self) -> Result<Namespaces, PlatformError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut known = Namespaces::default();
        if self.namespaces.is_empty() {
            // From the API server's memory: it is asked every few seconds.
            let all = answer("list namespaces", api.list_metadata(&ListParams::default().match_any())).await?;
            known.there = all.items.iter().map(|one| (one.name_any(), made_at(&one.metadata))).collect();
            known.complete = true;
            return Ok(known);
        }
        for name in &self.namespaces {
            match answer(format!("namespace {name}"), api.get_metadata(name)).await {
                Ok(found) => drop(known.there.insert(name.clone(), made_at(&found.metadata))),
                Err(PlatformError::NotFound(_)) => drop(known.gone.insert(name.clone())),
                Err(PlatformError::Forbidden(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(known)
    }

    fn unreadable(&self, kind: Kind) -> BTreeMap<String, Unreadable> {
        self.failing.unreadable(kind)
    }

    fn report_undecodable(&self, kind: Kind, problems: Vec<PlatformProblem>) {
        self.failing.undecodable(kind, problems);
    }
}

fn made_at(metadata: &ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map(|at| at.0).unwrap_or(Timestamp::MIN)
}

fn types(resource: &ApiResource) -> TypeMeta {
    TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() }
}
