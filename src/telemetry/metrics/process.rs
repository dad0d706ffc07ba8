//! Leadership, database and writes to the platform.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::registered;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: String,
    what: String,
}

#[derive(Clone, Debug)]
pub struct ProcessMetrics {
    leader: Gauge,
    leader_epoch: Gauge,
    store_errors: Family<Operation, Counter>,
    platform_writes: Family<Write, Counter>,
}

impl ProcessMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            leader: registered(r, "leader", "Whether this process leads"),
            leader_epoch: registered(r, "leader_epoch", "The epoch that this process last led in"),
            store_errors: registered(r, "store_errors", "What the database did not carry out, by operation"),
            platform_writes: registered(
                r,
                "platform_writes",
                "Writes to the API server, or to the state of the folder, by kind and by what was written",
            ),
        }
    }

    /// This process leads in this epoch; `None`: it does not.
    pub fn leading(&self, epoch: Option<i64>) {
        self.leader.set(i64::from(epoch.is_some()));
        if let Some(epoch) = epoch {
            self.leader_epoch.set(epoch);
        }
    }

    /// The database did not carry out an operation (`save_recovery`, …).
    pub fn store_error(&self, operation: &str) {
        let label = Operation { operation: operation.to_owned() };
        self.store_errors.get_or_create(&label).inc();
    }

    /// Something (`status`, `event`) was written about an object of a kind. A steady system makes none.
    pub fn platform_write(&self, kind: &str, what: &str) {
        let label = Write { kind: kind.to_owned(), what: what.to_owned() };
        self.platform_writes.get_or_create(&label).inc();
    }
}
