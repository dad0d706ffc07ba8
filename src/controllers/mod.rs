//! One folder per kind: observe, plan, apply, status; run starts them all.

mod backoff;
mod caller;
mod container_health_check;
mod declared;
mod dispatch;
mod driver;
mod error;
mod expert;
mod feed;
mod host_agent;
mod llm_backend;
mod run;
mod shared;
mod status;
mod supervise;
mod task_queue;
mod task_schedule;
#[cfg(test)]
mod testing;
mod work;
mod worker_pool;

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    net::HttpClient,
    platform::Platform,
    runtimes::{WorkerPods, Workloads},
    store::{Store, seal},
    telemetry::{Loops, Metrics},
};

pub use llm_backend::server_url;
pub use run::run;
pub use task_schedule::check_schedule;

/// What controllers are built from: made once per process, in `cli/`.
#[derive(Clone)]
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub platform: Arc<dyn Platform>,
    pub workloads: Arc<Workloads>,
    pub worker_pods: Arc<WorkerPods>,
    /// Seals the Secrets that workers need; `None`: none is handed over.
    pub sealing: Option<seal::Key>,
    /// The process's one HTTP client, without a total timeout.
    pub http: HttpClient,
    pub metrics: Metrics,
    pub loops: Loops,
    /// The installation of the database: agents tell callers apart by it.
    pub installation: Uuid,
    /// Unique for this process; also the holder of its lead.
    pub holder: String,
    /// Say what would be done, and do nothing (`up --observe`).
    pub observe: bool,
}
