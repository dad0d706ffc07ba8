//! Tasks as the leader sees them. Followers say nothing of them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::registered;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    namespace: String,
    queue: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    namespace: String,
    queue: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug)]
pub struct TaskMetrics {
    tasks: Family<InState, Gauge>,
    oldest_age: Family<Queue, Gauge<f64, AtomicU64>>,
    deferred_age: Family<Queue, Gauge<f64, AtomicU64>>,
    assigned: Counter,
    nobody: Gauge,
    leases_lost: Counter,
    reaped: Family<Outcome, Counter>,
    known: Arc<Mutex<Known>>,
}

/// By namespace and queue.
type Known = HashMap<(String, String), Since>;

/// What can't be read back from the families.
#[derive(Debug, Default)]
struct Since {
    states: Vec<&'static str>,
    pending: Option<Timestamp>,
    deferred: Option<Timestamp>,
}

impl TaskMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            tasks: registered(r, "tasks", "Live tasks of a queue by state; unassigned ones are pending too"),
            oldest_age: registered(
                r,
                "task_oldest_pending_seconds",
                "For how long the oldest task of a queue has waited that is pending and due",
            ),
            deferred_age: registered(
                r,
                "task_deferred_age_seconds",
                "For how long the oldest task of a queue has waited for a human",
            ),
            assigned: registered(r, "tasks_assigned", "Tasks that were given to an expert"),
            nobody: registered(r, "tasks_nobody", "Pending tasks that no expert can take"),
            leases_lost: registered(r, "leases_lost", "Leases that lapsed with tasks under them"),
            reaped: registered(
                r,
                "tasks_reaped",
                "Tasks that were taken away: requeued or deferred after a lost lease, expired past their deadline",
            ),
            known: Arc::default(),
        }
    }

    /// How many tasks of a queue are in which state.
    pub fn queue(&self, namespace: &str, queue: &str, states: &[(&'static str, i64)]) {
        for (state, count) in states {
            self.tasks.get_or_create(&in_state(namespace, queue, state)).set(*count);
        }
        let mut known = self.known.lock();
        let entry = known.entry((namespace.to_owned(), queue.to_owned())).or_default();
        entry.states = states.iter().map(|(state, _)| *state).collect();
    }

    /// Since when the oldest pending and the oldest deferred task of a queue wait; none: there is none.
    pub fn oldest(&self, namespace: &str, queue: &str, pending: Option<Timestamp>, deferred: Option<Timestamp>) {
        let mut known = self.known.lock();
        let entry = known.entry((namespace.to_owned(), queue.to_owned())).or_default();
        (entry.pending, entry.deferred) = (pending, deferred);
    }

    pub fn assigned(&self, count: i64) {
        self.assigned.inc_by(count.unsigned_abs());
    }

    /// Of all pending tasks.
    pub fn nobody(&self, count: i64) {
        self.nobody.set(count);
    }

    /// What one pass of the reaper did.
    pub fn reaped(&self, leases: u64, requeued: u64, deferred: u64, expired: u64) {
        self.leases_lost.inc_by(leases);
        for (outcome, count) in [("requeued", requeued), ("deferred", deferred), ("expired", expired)] {
            self.reaped.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    /// Drops what is shown of queues that have no tasks any more.
    pub fn forget_others<'a>(&self, kept: impl Iterator<Item = (&'a str, &'a str)>) {
        let kept: Vec<_> = kept.collect();
        let mut known = self.known.lock();
        let gone: Vec<_> =
            known.keys().filter(|(ns, queue)| !kept.contains(&(ns.as_str(), queue.as_str()))).cloned().collect();
        for key in gone {
            let Some(since) = known.remove(&key) else { continue };
            let (namespace, queue) = key;
            for state in since.states {
                self.tasks.remove(&in_state(&namespace, &queue, state));
            }
            let label = Queue { namespace, queue };
            self.oldest_age.remove(&label);
            self.deferred_age.remove(&label);
        }
    }

    /// Drops what is shown of all queues: this process leads no longer. Counters stay.
    pub fn forget_all(&self) {
        self.forget_others(std::iter::empty());
        self.nobody.set(0);
    }

    pub(super) fn age(&self, now: Timestamp) {
        for ((namespace, queue), since) in self.known.lock().iter() {
            let label = Queue { namespace: namespace.clone(), queue: queue.clone() };
            let age = |at: Option<Timestamp>| at.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
            self.oldest_age.get_or_create(&label).set(age(since.pending));
            self.deferred_age.get_or_create(&label).set(age(since.deferred));
        }
    }
}

fn in_state(namespace: &str, queue: &str, state: &'static str) -> InState {
    InState { namespace: namespace.to_owned(), queue: queue.to_owned(), state }
}
