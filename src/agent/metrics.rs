//! What the agent counts, for its own `/metrics`.

use std::sync::Mutex;

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::host::{Action, Refusal, ServiceReport, ServiceState};

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    refused: Family<Labels, Counter>,
    operations: Family<Labels, Counter>,
    self_starts: Family<Labels, Counter>,
    up: Family<Labels, Gauge>,
    held: Family<Labels, Gauge>,
    gave_up: Family<Labels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            refused: Family::default(),
            operations: Family::default(),
            self_starts: Family::default(),
            up: Family::default(),
            held: Family::default(),
            gave_up: Family::default(),
        };
        {
            let mut registry = metrics.registry();
            let r = &mut *registry;
            r.register("ostler_agent_refused_requests", "Requests refused, by reason", metrics.refused.clone());
            r.register(
                "ostler_agent_operations",
                "Operations ended, by action and outcome",
                metrics.operations.clone(),
            );
            r.register(
                "ostler_agent_self_starts",
                "Starts by the agent's own loop, by service and outcome",
                metrics.self_starts.clone(),
            );
            r.register("ostler_agent_service_up", "1 while the service runs", metrics.up.clone());
            r.register("ostler_agent_service_held", "1 while somebody holds the service", metrics.held.clone());
            r.register("ostler_agent_service_gave_up", "1 after five failed starts in a row", metrics.gave_up.clone());
        }
        // A counter that is not there can't be told from one that counts nothing.
        for reason in Refusal::ALL {
            metrics.refused.get_or_create(&vec![("reason", reason.as_str().to_owned())]);
        }
        metrics
    }
}

impl Metrics {
    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&vec![("reason", reason.as_str().to_owned())]).inc();
    }

    pub fn operation_ended(&self, action: Action, succeeded: bool) {
        self.operations.get_or_create(&vec![("action", action.as_str().to_owned()), outcome(succeeded)]).inc();
    }

    pub fn self_started(&self, service: &str, succeeded: bool) {
        self.self_starts.get_or_create(&vec![("service", service.to_owned()), outcome(succeeded)]).inc();
    }

    /// The page, with the services as they are now.
    pub fn page(&self, services: &[ServiceReport]) -> Result<String, std::fmt::Error> {
        for service in services {
            let label = vec![("service", service.name.clone())];
            let set = |family: &Family<Labels, Gauge>, yes: bool| {
                family.get_or_create(&label).set(i64::from(yes));
            };
            set(&self.up, service.state == ServiceState::Running);
            set(&self.held, !service.holds.is_empty());
            set(&self.gave_up, service.gave_up);
        }
        let mut page = String::new();
        encode(&mut page, &self.registry())?;
        Ok(page)
    }
}

fn outcome(succeeded: bool) -> (&'static str, String) {
    ("outcome", if succeeded { "succeeded" } else { "failed" }.to_owned())
}
