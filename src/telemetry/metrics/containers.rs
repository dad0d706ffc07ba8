//! Containers of ContainerHealthChecks as the leader sees them. Followers say nothing of them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::registered;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Acted {
    namespace: String,
    name: String,
    action: String,
    outcome: String,
}

#[derive(Clone, Debug)]
pub struct ContainerMetrics {
    total: Family<Check, Gauge>,
    unhealthy: Family<Check, Gauge>,
    out_of_memory: Family<Check, Counter>,
    actions: Family<Acted, Counter>,
}

impl ContainerMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            total: registered(r, "containers", "Containers that a check selects"),
            unhealthy: registered(
                r,
                "containers_unhealthy",
                "Those that are not as declared, and not by a person's wish",
            ),
            out_of_memory: registered(
                r,
                "container_out_of_memory",
                "How often a container of the check ran out of memory",
            ),
            actions: registered(r, "container_actions", "What was done about containers"),
        }
    }

    /// How many a check selects, and how many of them are not as declared.
    pub fn seen(&self, namespace: &str, name: &str, total: usize, unhealthy: usize) {
        let check = check(namespace, name);
        self.total.get_or_create(&check).set(i64::try_from(total).unwrap_or(i64::MAX));
        self.unhealthy.get_or_create(&check).set(i64::try_from(unhealthy).unwrap_or(i64::MAX));
    }

    /// Nothing is known of them now.
    pub fn unknown(&self, namespace: &str, name: &str) {
        let check = check(namespace, name);
        self.total.remove(&check);
        self.unhealthy.remove(&check);
    }

    pub fn ran_out_of_memory(&self, namespace: &str, name: &str, times: u64) {
        self.out_of_memory.get_or_create(&check(namespace, name)).inc_by(times);
    }

    /// An action (`Up`, `Restart`, …) is over: `Done` or `Failed`.
    pub fn acted(&self, namespace: &str, name: &str, action: &str, outcome: &str) {
        let acted = Acted {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            action: action.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.actions.get_or_create(&acted).inc();
    }

    /// This process leads no longer. Counters stay.
    pub fn forget_all(&self) {
        self.total.clear();
        self.unhealthy.clear();
    }
}

fn check(namespace: &str, name: &str) -> Check {
    Check { namespace: namespace.to_owned(), name: name.to_owned() }
}
