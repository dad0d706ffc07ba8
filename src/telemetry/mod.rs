//! Metrics, tracing, and which loops are alive. Nothing here is global: what counts is passed to whoever counts.

mod lines;
mod logging;
mod loops;
mod metrics;
mod troubles;

pub use logging::{LogFormat, Logging, LoggingError};
pub use loops::{Beat, Loops, StuckLoop};
pub use metrics::{
    AgentMetrics, BackendMetrics, ContainerMetrics, GatewayCallEnd, GatewayMetrics, Metrics, ProcessMetrics,
    ReconcileMetrics, WorkerMetrics,
};
pub use troubles::{RepeatedFailure, Troubles};

/// Aborts the process at once, as `kill -9` would, when the environment variable `OSTLER_CRASH_POINT` names this point. Tests start
/// again what died there, to show that nothing is done twice and nothing is forgotten. Names are `room.before-or-after-what`, and stay
/// as they are once tests rely on them.
pub fn crash_point(name: &str) {
    if std::env::var_os("OSTLER_CRASH_POINT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}
