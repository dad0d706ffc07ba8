//! Workloads and containers as seen and changed.

mod containers;
mod kubernetes;
mod pod_trouble;
mod worker_pods;
mod worker_scale;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};

pub use containers::{ContainersSeen, MEMORY_MANAGER, PodContainer, PodLife};
pub use kubernetes::Workloads;
pub use pod_trouble::PodTrouble;
pub use worker_pods::{WorkerPodSettings, WorkerPods, WorkersSeen, WorkersWanted};

/// A workload as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadSeen {
    /// Pods that there should be.
    pub desired: i32,
    /// Those that it owns, among them those that are being deleted.
    pub pods: Vec<PodSeen>,
}

/// A pod of a workload, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub uid: String,
    pub ready: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
    pub node: Option<String>,
    /// Restarts of its containers, summed.
    pub restarts: i32,
    /// How one of its containers last ended.
    pub last_terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// `OOMKilled`, `Error`, ...
    pub reason: String,
    pub exit_code: i32,
    pub at: Option<Timestamp>,
}

/// What can go wrong with a workload.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorkloadError {
    #[error("the API server can't be reached: {0}")]
    Unavailable(String),
    #[error("{0} is not there")]
    NotFound(String),
    #[error("{0} is another pod by now")]
    Replaced(String),
    #[error("not allowed: {0}")]
    Forbidden(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("no cluster here: pods and workloads are a cluster's; use a host agent instead")]
    NoCluster,
}

impl WorkloadError {
    /// Whether what was to be deleted is gone already.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::Replaced(_))
    }
}

/// The cluster that a client speaks to; without one every call is [`WorkloadError::NoCluster`].
#[derive(Clone)]
struct Cluster(Option<Client>);

impl Cluster {
    fn api<K>(&self, namespace: &str) -> Result<Api<K>, WorkloadError>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let client = self.0.clone().ok_or(WorkloadError::NoCluster)?;
        Ok(Api::namespaced(client, namespace))
    }
}
