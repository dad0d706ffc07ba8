//! Causes as the leader sees them, and messages about them. Followers say nothing of causes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::registered;
use crate::causes::{Cause, CauseClass, CauseSeverity};

/// Causes that have a series of their own.
const MOST_INFO: usize = 200;
const SEVERITIES: [CauseSeverity; 3] = [CauseSeverity::Info, CauseSeverity::Warning, CauseSeverity::Critical];
const CLASSES: [CauseClass; 4] = [CauseClass::Down, CauseClass::Config, CauseClass::Memory, CauseClass::Work];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sort {
    severity: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Info {
    key: String,
    severity: &'static str,
    class: &'static str,
    namespace: String,
    title: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Message {
    r#type: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug)]
pub struct CauseMetrics {
    causes: Family<Sort, Gauge>,
    info: Family<Info, Gauge>,
    notifications: Family<Message, Counter>,
}

impl CauseMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            causes: registered(r, "causes", "Causes that are open"),
            info: registered(r, "cause_info", "1 for each cause that is open, the worst 200"),
            notifications: registered(r, "notifications", "Messages to Notifiers, by type and outcome"),
        }
    }

    /// The causes that are open.
    pub fn show<'a>(&self, causes: impl Iterator<Item = &'a Cause>) {
        let mut causes: Vec<&Cause> = causes.collect();
        causes.sort_by(|a, b| (b.severity, &a.key).cmp(&(a.severity, &b.key)));
        for (severity, class) in SEVERITIES.into_iter().flat_map(|s| CLASSES.into_iter().map(move |c| (s, c))) {
            let count = causes.iter().filter(|cause| (cause.severity, cause.class) == (severity, class)).count();
            let sort = Sort { severity: severity.into(), class: class.into() };
            self.causes.get_or_create(&sort).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.info.clear();
        for cause in causes.into_iter().take(MOST_INFO) {
            let info = Info {
                key: cause.key.clone(),
                severity: cause.severity.into(),
                class: cause.class.into(),
                namespace: cause.root.namespace.clone(),
                title: cause.title.clone(),
            };
            self.info.get_or_create(&info).set(1);
        }
    }

    /// A message to a Notifier of this type arrived, or did not.
    pub fn sent(&self, r#type: &'static str, arrived: bool) {
        let outcome = if arrived { "sent" } else { "failed" };
        self.notifications.get_or_create(&Message { r#type, outcome }).inc();
    }

    /// This process leads no longer.
    pub fn forget_all(&self) {
        self.causes.clear();
        self.info.clear();
    }

    #[cfg(test)]
    pub(super) fn show_one(&self, severity: &'static str, class: &'static str, key: &str) {
        self.causes.get_or_create(&Sort { severity, class }).set(1);
        let (key, namespace, title) = (key.to_owned(), String::new(), String::new());
        self.info.get_or_create(&Info { key, severity, class, namespace, title }).set(1);
    }
}
