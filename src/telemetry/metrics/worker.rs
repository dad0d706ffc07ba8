//! What workers of this process do.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{NewHistogram, durations, registered, registered_as};
use crate::telemetry::Troubles;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pool {
    namespace: String,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    namespace: String,
    backend: String,
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    namespace: String,
    backend: String,
    model: String,
    class: String,
}

#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    in_flight: Family<Pool, Gauge>,
    allowed: Family<Pool, Gauge>,
    claims: Family<Pool, Counter>,
    calls: Family<Ended, Counter>,
    tokens: Family<Model, Counter>,
    seconds: Family<Model, Histogram, NewHistogram>,
    late: Counter,
    spooled: Gauge,
    /// Of the process.
    pub troubles: Troubles,
}

impl WorkerMetrics {
    pub(super) fn register(r: &mut Registry, troubles: Troubles) -> Self {
        Self {
            in_flight: registered(r, "worker_tasks_in_flight", "Tasks that are being done"),
            allowed: registered(r, "worker_effective_concurrency", "Tasks that may be done at once"),
            claims: registered(r, "worker_claims", "Tasks claimed"),
            calls: registered(r, "worker_calls", "Calls to backends, by how they ended"),
            tokens: registered(r, "worker_tokens", "Tokens of answers"),
            seconds: registered_as(
                r,
                "worker_call_duration_seconds",
                "Duration of a call, failed ones too",
                Family::new_with_constructor(durations as NewHistogram),
            ),
            late: registered(
                r,
                "worker_late_results",
                "Results that changed nothing: the task was somebody else's already",
            ),
            spooled: registered(r, "worker_spooled_results", "Results that wait for the database, on disk or for it"),
            troubles,
        }
    }

    pub fn in_flight(&self, namespace: &str, pool: &str, tasks: i32) {
        self.in_flight.get_or_create(&of_pool(namespace, pool)).set(i64::from(tasks));
    }

    /// What the load of the machine allows.
    pub fn allowed(&self, namespace: &str, pool: &str, tasks: i32) {
        self.allowed.get_or_create(&of_pool(namespace, pool)).set(i64::from(tasks));
    }

    pub fn claimed(&self, namespace: &str, pool: &str) {
        self.claims.get_or_create(&of_pool(namespace, pool)).inc();
    }

    /// `class` is an attempt's: `Ok`, `Retryable`, `Unavailable`, `ServerFailed`, `Permanent`, `LeaseLost`, `Cancelled`.
    pub fn ended(&self, namespace: &str, backend: &str, model: &str, class: &str, tokens: u64, took: Duration) {
        let [namespace, backend, model] = [namespace, backend, model].map(str::to_owned);
        let of = Model { namespace: namespace.clone(), backend: backend.clone(), model: model.clone() };
        self.tokens.get_or_create(&of).inc_by(tokens);
        self.seconds.get_or_create(&of).observe(took.as_secs_f64());
        self.calls.get_or_create(&Ended { namespace, backend, model, class: class.to_owned() }).inc();
    }

    pub fn late_result(&self) {
        self.late.inc();
    }

    /// So many more results wait than one worker said before, or fewer.
    pub fn spooled(&self, more: i64) {
        self.spooled.inc_by(more);
    }
}

fn of_pool(namespace: &str, pool: &str) -> Pool {
    Pool { namespace: namespace.to_owned(), pool: pool.to_owned() }
}
