//! Workloads and containers as seen and changed.

mod containers;
mod kubernetes;
mod pod_trouble;
mod worker_pods;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::{PodTarget, WorkloadRef};

pub use containers::{ContainersSeen, MEMORY_MANAGER, PodContainer, PodLife};
pub use kubernetes::ClusterWorkloads;
pub use pod_trouble::PodTrouble;
pub use worker_pods::{ClusterWorkerPods, WorkerPodSettings, WorkerPods, WorkersSeen, WorkersWanted};

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

/// Workloads of a cluster.
#[async_trait]
pub trait Workloads: Send + Sync {
    /// The pods that a workload owns, and how many there should be.
    async fn pods(&self, namespace: &str, workload: &WorkloadRef) -> Result<WorkloadSeen, WorkloadError>;
    /// Deletes this pod and no other of its name: the uid is a precondition.
    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WorkloadError>;
    /// The containers of these pods.
    async fn containers(&self, namespace: &str, target: &PodTarget) -> Result<ContainersSeen, WorkloadError>;
    /// The beginning and the end of a container's log, of its run before this one if it had one, at most `bytes` each.
    async fn log(
        &self,
        namespace: &str,
        container: &PodContainer,
        bytes: i64,
    ) -> Result<(String, String), WorkloadError>;
    /// Changes the limit of memory of a running pod's container, in place.
    async fn resize(&self, namespace: &str, container: &PodContainer, bytes: i64) -> Result<(), WorkloadError>;
    /// Changes the limit of memory in a workload's template: its pods are replaced as it does that.
    async fn patch_limit(
        &self,
        namespace: &str,
        workload: &WorkloadRef,
        container: &str,
        bytes: i64,
    ) -> Result<(), WorkloadError>;
}

/// A machine without a cluster.
pub struct NoCluster;

#[async_trait]
impl Workloads for NoCluster {
    async fn pods(&self, _: &str, _: &WorkloadRef) -> Result<WorkloadSeen, WorkloadError> {
        Err(WorkloadError::NoCluster)
    }

    async fn delete_pod(&self, _: &str, _: &str, _: &str) -> Result<(), WorkloadError> {
        Err(WorkloadError::NoCluster)
    }

    async fn containers(&self, _: &str, _: &PodTarget) -> Result<ContainersSeen, WorkloadError> {
        Err(WorkloadError::NoCluster)
    }

    async fn log(&self, _: &str, _: &PodContainer, _: i64) -> Result<(String, String), WorkloadError> {
        Err(WorkloadError::NoCluster)
    }

    async fn resize(&self, _: &str, _: &PodContainer, _: i64) -> Result<(), WorkloadError> {
        Err(WorkloadError::NoCluster)
    }

    async fn patch_limit(&self, _: &str, _: &WorkloadRef, _: &str, _: i64) -> Result<(), WorkloadError> {
        Err(WorkloadError::NoCluster)
    }
}
