//! The client of the API server, and where that serves our kinds.

use std::time::Duration;

use kube::{Client, Config, core::ApiResource};

use crate::{api::Kind, platform::PlatformError};

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

/// Where the API server serves a kind.
pub fn resource(kind: &str) -> Result<ApiResource, PlatformError> {
    let known = kind.parse::<Kind>().map_err(|_| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        PlatformError::Invalid(format!("there is no kind {kind}; known ones are {}", known.join(", ")))
    })?;
    Ok(known.api_resource())
}
