//! Declarations that no healing can help, and services that are down because a person wants it.

use crate::{
    api::{BackendState, ConditionStatus},
    host::{HoldOwner, ServiceState},
    store::Admission,
};

use super::{super::facts::Misdeclared, Aspect, BackendAssessment, JudgeInput};

impl JudgeInput<'_> {
    pub(super) fn misdeclared(&self) -> Option<BackendAssessment> {
        let (state, reason, message) = match self.seen.misdeclared.as_ref()? {
            Misdeclared::LoopbackUrl => (
                BackendState::LoopbackURL,
                "LoopbackURL",
                format!(
                    "{} is the controller's own pod in a cluster: give the address of the server's host",
                    self.spec.url
                ),
            ),
            Misdeclared::InvalidUrl { why } => {
                (BackendState::InvalidSpec, "InvalidURL", format!("spec.url {} is no URL: {why}", self.spec.url))
            }
            Misdeclared::SharedServer { ready } => return Some(self.shared(*ready)),
            Misdeclared::DuplicateServer { older } => (
                BackendState::DuplicateServer,
                "DuplicateServer",
                format!("{} is already declared by {older}, which is older: delete one of the two", self.spec.url),
            ),
            Misdeclared::SecretMissing { what } => (BackendState::SecretMissing, "SecretMissing", what.clone()),
            Misdeclared::HostAgentMissing { name } => (
                BackendState::HostAgentMissing,
                "HostAgentMissing",
                format!(
                    "recovery.hostAgentRef names {name}, and there is no such HostAgent: create it, or correct the name"
                ),
            ),
            Misdeclared::WorkloadMissing { workload } => (
                BackendState::WorkloadMissing,
                "WorkloadMissing",
                format!(
                    "the server does not answer, and recovery.workloadRef names {workload}, which does not exist: create it, or \
                     correct the name"
                ),
            ),
            Misdeclared::ServiceUnknown { agent, service } => (
                BackendState::HostAgentMissing,
                "ServiceUnknown",
                format!(
                    "host agent {agent} lists no service {service}: add it to the agent's file, or correct recovery.service"
                ),
            ),
        };
        Some(self.judgement(state, reason, message).for_human())
    }

    /// One backend alone judges and heals a server, and sets its limit. Nothing is told of it but how the server is.
    fn shared(&self, ready: Option<bool>) -> BackendAssessment {
        let of = |state, message: &str| self.judgement(state, "SharedServer", message.to_owned());
        match ready {
            Some(true) => {
                let mut shared = of(
                    BackendState::Shared,
                    "serves; another namespace declared the server first, so its limit is in force and shared, and it is healed there",
                );
                shared.reachable = Aspect::new(ConditionStatus::True, "SharedServer");
                shared.serving = Aspect::new(ConditionStatus::True, "SharedServer");
                (shared.ready, shared.admission) = (true, Admission::Open);
                shared
            }
            Some(false) => of(
                BackendState::Down,
                "another namespace declared the server first, and does not find it ready: it is healed there",
            ),
            None => of(BackendState::Proving, "another namespace declared the server first, and has not judged it yet"),
        }
    }

    /// A service that a person stopped is as it should be: not failed, and not to be healed.
    pub(super) fn stopped_by_a_person(&self) -> Option<BackendAssessment> {
        let service = self.seen.agent.service()?;
        let hold = service.report.holds.iter().find(|h| h.owner == HoldOwner::Person)?;
        let runs = matches!(service.report.state, ServiceState::Running | ServiceState::Starting);
        let silent = self.seen.probes.last.as_ref().is_none_or(|probed| probed.verdict.is_failure());
        if runs || !silent && self.answers_without(service) {
            return None;
        }
        let name = &service.report.name;
        let why = if hold.reason.is_empty() { String::new() } else { format!(" ({})", hold.reason) };
        let message = format!("service {name} was stopped by a person{why}: `ostler start {name}` starts it");
        Some(self.judgement(BackendState::Suspended, "StoppedByPerson", message))
    }
}
