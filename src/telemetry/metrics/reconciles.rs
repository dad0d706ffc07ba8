//! Passes of the controllers.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{NewHistogram, durations, registered, registered_as};

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum ResultLabel {
    success,
    error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Controller {
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    controller: String,
    result: ResultLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failed {
    controller: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    controller: String,
    namespace: String,
}

#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    passes: Family<Ended, Counter>,
    errors: Family<Failed, Counter>,
    durations: Family<Controller, Histogram, NewHistogram>,
    queue_depth: Family<Controller, Gauge>,
    undecodable: Family<Controller, Gauge>,
    watch_failing: Family<Watched, Gauge>,
}

impl ReconcileMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            passes: registered(r, "reconcile", "Passes over one resource, by result"),
            errors: registered(r, "reconcile_errors", "Passes that failed, by reason"),
            durations: registered_as(
                r,
                "reconcile_duration_seconds",
                "Duration of a pass over one resource",
                Family::new_with_constructor(durations as NewHistogram),
            ),
            queue_depth: registered(r, "reconcile_queue_depth", "Resources that wait for a pass"),
            undecodable: registered(
                r,
                "undecodable_objects",
                "Resources that this release can't decode and leaves alone",
            ),
            watch_failing: registered(
                r,
                "watch_failing",
                "1 while the resources of a namespace can't be watched; no namespace means all",
            ),
        }
    }

    /// A pass of `controller` ended well.
    pub fn finished(&self, controller: &str, took: Duration) {
        self.ended(controller, ResultLabel::success, took);
    }

    /// A pass of `controller` failed; `reason` is the CamelCase word of its error.
    pub fn failed(&self, controller: &str, reason: &str, took: Duration) {
        self.ended(controller, ResultLabel::error, took);
        self.errors.get_or_create(&Failed { controller: controller.to_owned(), reason: reason.to_owned() }).inc();
    }

    /// How many resources wait for a pass of `controller`.
    pub fn queue_depth(&self, controller: &str, waiting: usize) {
        self.queue_depth
            .get_or_create(&Controller { controller: controller.to_owned() })
            .set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// How many resources of `controller`'s kind can't be decoded.
    pub fn undecodable(&self, controller: &str, objects: usize) {
        self.undecodable
            .get_or_create(&Controller { controller: controller.to_owned() })
            .set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Whether the resources of `controller`'s kind in a namespace can't be watched now.
    pub fn watch_failing(&self, controller: &str, namespace: &str, fails: bool) {
        let watched = Watched { controller: controller.to_owned(), namespace: namespace.to_owned() };
        if fails {
            self.watch_failing.get_or_create(&watched).set(1);
        } else {
            self.watch_failing.remove(&watched);
        }
    }

    fn ended(&self, controller: &str, result: ResultLabel, took: Duration) {
        let controller = controller.to_owned();
        self.passes.get_or_create(&Ended { controller: controller.clone(), result }).inc();
        self.durations.get_or_create(&Controller { controller }).observe(took.as_secs_f64());
    }
}
