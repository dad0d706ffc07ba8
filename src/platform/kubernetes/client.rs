//! The client of the API server, and where that serves our kinds.

use std::{collections::BTreeMap, time::Duration};

use kube::{Client, Config, core::ApiResource};

use crate::{api, platform::PlatformError};

/// Longer than any healthy handshake, shorter than a person's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// No API server is known here.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no cluster is configured here: set KUBECONFIG, or run in a pod whose service account token is mounted: {0}"
    )]
    Config(#[from] kube::config::InferConfigError),
    #[error("the cluster's configuration can't be used: {0}")]
    Client(#[from] kube::Error),
}

/// A client by the kubeconfig of the environment, else as the pod's service account; and the namespace that it names.
/// Watches end by themselves when nothing comes (kube's watcher sees to that); other calls are timed where they are made.
pub async fn connect() -> Result<(Client, String), ConnectError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(CONNECT_TIMEOUT);
    let namespace = config.default_namespace.clone();
    Ok((Client::try_from(config)?, namespace))
}

/// The served resources by kind.
pub struct Resources(BTreeMap<String, ApiResource>);

impl Resources {
    pub fn new() -> Self {
        let of = |crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition| {
            let names = crd.spec.names;
            let gvk = kube::core::GroupVersionKind::gvk(&crd.spec.group, api::VERSION, &names.kind);
            (names.kind, ApiResource::from_gvk_with_plural(&gvk, &names.plural))
        };
        Self(api::crds().into_iter().map(of).collect())
    }

    pub fn get(&self, kind: &str) -> Result<&ApiResource, PlatformError> {
        self.0.get(kind).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            PlatformError::Invalid(format!("there is no kind {kind}; known ones are {}", known.join(", ")))
        })
    }
}
