//! Backends as the leader sees them. Followers say nothing of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{NewHistogram, durations, registered, registered_as};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Backend {
    namespace: String,
    name: String,
}

impl Backend {
    fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn in_state(&self, state: &str) -> InState {
        InState { namespace: self.namespace.clone(), name: self.name.clone(), state: state.to_owned() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    namespace: String,
    name: String,
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    namespace: String,
    name: String,
    cause: String,
    step: String,
    outcome: String,
}

#[derive(Clone, Debug)]
pub struct BackendMetrics {
    state: Family<InState, Gauge>,
    ready: Family<Backend, Gauge>,
    effective_limit: Family<Backend, Gauge>,
    slots_in_use: Family<Backend, Gauge>,
    probes: Family<Backend, Histogram, NewHistogram>,
    canaries: Family<Backend, Histogram, NewHistogram>,
    recoveries: Family<Attempt, Counter>,
    deferred: Gauge,
    deferred_age: Family<Backend, Gauge<f64, AtomicU64>>,
    known: Arc<Mutex<Known>>,
}

/// What can't be read back from the families.
#[derive(Debug, Default)]
struct Known {
    states: HashMap<Backend, BTreeSet<String>>,
    deferred_since: HashMap<Backend, Timestamp>,
}

impl BackendMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        let histogram = || Family::new_with_constructor(durations as NewHistogram);
        Self {
            state: registered(r, "backend_state", "1 for the state that the backend is in, 0 for those that it was in"),
            ready: registered(r, "backend_ready", "Whether the backend is Ready"),
            effective_limit: registered(
                r,
                "backend_effective_limit",
                "Calls at once that the backend's server is given",
            ),
            slots_in_use: registered(r, "backend_slots_in_use", "Occupied slots of the backend's server"),
            probes: registered_as(r, "probe_duration_seconds", "Duration of a probe, failed ones too", histogram()),
            canaries: registered_as(r, "canary_duration_seconds", "Duration of a canary, failed ones too", histogram()),
            recoveries: registered(r, "recoveries", "Recovery steps, by cause, step and outcome"),
            deferred: registered(r, "deferred_to_human", "Backends that wait for a human"),
            deferred_age: registered(r, "deferred_age_seconds", "For how long the backend has waited for a human"),
            known: Arc::default(),
        }
    }

    /// The backend's `status.state`, and whether it is Ready.
    pub fn state(&self, namespace: &str, name: &str, state: &str, ready: bool) {
        let backend = Backend::new(namespace, name);
        let mut known = self.known.lock();
        let states = known.states.entry(backend.clone()).or_default();
        states.insert(state.to_owned());
        for each in states.iter() {
            self.state.get_or_create(&backend.in_state(each)).set(i64::from(each == state));
        }
        self.ready.get_or_create(&backend).set(i64::from(ready));
    }

    /// The limit in force.
    pub fn limit(&self, namespace: &str, name: &str, limit: i32) {
        self.effective_limit.get_or_create(&Backend::new(namespace, name)).set(i64::from(limit));
    }

    pub fn slots_in_use(&self, namespace: &str, name: &str, occupied: i64) {
        self.slots_in_use.get_or_create(&Backend::new(namespace, name)).set(occupied);
    }

    pub fn probe(&self, namespace: &str, name: &str, took: Duration) {
        self.probes.get_or_create(&Backend::new(namespace, name)).observe(took.as_secs_f64());
    }

    pub fn canary(&self, namespace: &str, name: &str, took: Duration) {
        self.canaries.get_or_create(&Backend::new(namespace, name)).observe(took.as_secs_f64());
    }

    /// A step of recovery was over. All five are CamelCase words, as in `status.recovery`.
    pub fn recovery(&self, namespace: &str, name: &str, cause: &str, step: &str, outcome: &str) {
        let attempt = Attempt {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cause: cause.to_owned(),
            step: step.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.recoveries.get_or_create(&attempt).inc();
    }

    /// Since when the backend waits for a human; `None`: it does not.
    pub fn deferred(&self, namespace: &str, name: &str, since: Option<Timestamp>) {
        let backend = Backend::new(namespace, name);
        let mut known = self.known.lock();
        if let Some(since) = since {
            known.deferred_since.insert(backend, since);
        } else {
            known.deferred_since.remove(&backend);
            self.deferred_age.remove(&backend);
        }
        self.deferred.set(count(known.deferred_since.len()));
    }

    /// Drops what is shown of a backend that is gone. Its counters stay.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.forget_one(&mut self.known.lock(), &Backend::new(namespace, name));
    }

    /// Drops what is shown of all backends: this process leads no longer.
    pub fn forget_all(&self) {
        let mut known = self.known.lock();
        let all: Vec<Backend> = known.states.keys().chain(known.deferred_since.keys()).cloned().collect();
        for backend in &all {
            self.forget_one(&mut known, backend);
        }
        self.effective_limit.clear();
        self.slots_in_use.clear();
    }

    fn forget_one(&self, known: &mut Known, backend: &Backend) {
        for state in known.states.remove(backend).unwrap_or_default() {
            self.state.remove(&backend.in_state(&state));
        }
        known.deferred_since.remove(backend);
        self.deferred.set(count(known.deferred_since.len()));
        self.deferred_age.remove(backend);
        self.ready.remove(backend);
        self.effective_limit.remove(backend);
        self.slots_in_use.remove(backend);
        self.probes.remove(backend);
        self.canaries.remove(backend);
    }

    pub(super) fn age_deferrals(&self, now: Timestamp) {
        for (backend, since) in &self.known.lock().deferred_since {
            let age = now.duration_since(*since).as_secs_f64().max(0.0);
            self.deferred_age.get_or_create(backend).set(age);
        }
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
