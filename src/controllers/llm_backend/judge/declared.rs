//! Declarations that no healing can help, and services that are down because a person wants it.

use crate::{
    api::BackendState,
    host::{HoldOwner, ServiceState},
};

use super::{super::seen::Misdeclared, Facts, Judgement};

impl Facts<'_> {
    pub(super) fn misdeclared(&self) -> Option<Judgement> {
        let (state, reason, message) = match self.seen.misdeclared.as_ref()? {
            Misdeclared::LoopbackUrl => (
                BackendState::LoopbackURL,
                "LoopbackURL",
                format!(
                    "{} is the controller's own pod in a cluster: give the address of the server's host",
                    self.spec.url
                ),
            ),
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

    /// A service that a person stopped is as it should be: not failed, and not to be healed.
    pub(super) fn stopped_by_a_person(&self) -> Option<Judgement> {
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
