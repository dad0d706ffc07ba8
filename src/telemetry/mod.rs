//! Metrics, tracing, and which loops are alive. Nothing here is global: what counts is passed to whoever counts.

mod crash;
pub mod escape;
mod lines;
mod logging;
mod loops;
mod metrics;
mod troubles;

pub use crash::crash_point;
pub use logging::{LogFormat, Logging, LoggingError};
pub use loops::{Beat, Loops, StuckLoop};
pub use metrics::{
    AgentMetrics, BackendMetrics, ContainerMetrics, Metrics, ProcessMetrics, ReconcileMetrics, ReconcileResult,
    WorkerMetrics,
};
pub use troubles::{Trouble, Troubles};

/// Makes rustls use ring in this process. The one TLS stack is chosen here because reqwest and kube are built without a
/// default provider. Calling it twice does no harm.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
