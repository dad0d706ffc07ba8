//! Services of host agents in this process.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::registered;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    agent: String,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    agent: String,
    service: String,
    action: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    agent: String,
    service: String,
}

impl Service {
    fn new(agent: &str, service: &str) -> Self {
        Self { agent: agent.to_owned(), service: service.to_owned() }
    }
}

#[derive(Clone, Debug)]
pub struct AgentMetrics {
    refusals: Family<Refused, Counter>,
    operations: Family<Finished, Counter>,
    self_starts: Family<Service, Counter>,
    up: Family<Service, Gauge>,
    held: Family<Service, Gauge>,
    gave_up: Family<Service, Gauge>,
}

impl AgentMetrics {
    pub(super) fn register(r: &mut Registry) -> Self {
        Self {
            refusals: registered(r, "agent_refusals", "Requests that the host agent refused, by reason"),
            operations: registered(r, "agent_operations", "Finished operations of the host agent"),
            self_starts: registered(r, "agent_self_starts", "Starts by the host agent's own loop"),
            up: registered(r, "agent_service_up", "Whether the service runs and its last check passed"),
            held: registered(r, "agent_service_held", "Whether somebody holds the service"),
            gave_up: registered(
                r,
                "agent_service_gave_up",
                "Whether the agent's own loop gave up after five failed starts in a row",
            ),
        }
    }

    /// A request was refused; `reason` is the word of the refusal (`BadSignature`, …).
    pub fn refused(&self, agent: &str, reason: &str) {
        let label = Refused { agent: agent.to_owned(), reason: reason.to_owned() };
        self.refusals.get_or_create(&label).inc();
    }

    /// An operation (`Restart`, …) is over (`Succeeded` or `Failed`).
    pub fn operation(&self, agent: &str, service: &str, action: &str, outcome: &str) {
        let label = Finished {
            agent: agent.to_owned(),
            service: service.to_owned(),
            action: action.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.operations.get_or_create(&label).inc();
    }

    /// The agent's own loop started a service.
    pub fn self_started(&self, agent: &str, service: &str) {
        self.self_starts.get_or_create(&Service::new(agent, service)).inc();
    }

    /// Whether somebody holds a service, and whether the agent's own loop has given it up.
    pub fn service_left(&self, agent: &str, service: &str, held: bool, gave_up: bool) {
        let label = Service::new(agent, service);
        self.held.get_or_create(&label).set(i64::from(held));
        self.gave_up.get_or_create(&label).set(i64::from(gave_up));
    }

    /// Whether a service runs and its last check passed.
    pub fn service_up(&self, agent: &str, service: &str, up: bool) {
        self.up.get_or_create(&Service::new(agent, service)).set(i64::from(up));
    }
}
