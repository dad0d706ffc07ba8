//! What happened, as events: each once, when it happens.

use crate::{
    api::{BackendState, LLMBackendStatus, condition, number_of},
    platform::Note,
};

use super::{memory::bounded, plan::PlanNote};

/// What the plan did.
pub fn of_plan(planned: &[PlanNote]) -> Vec<Note> {
    planned.iter().map(from_plan).collect()
}

fn from_plan(note: &PlanNote) -> Note {
    let (warning, reason, action, message) = match note {
        PlanNote::Attempt { step, attempt, most, cause, silent } => {
            let count = match (step, silent) {
                (super::memory::RecoveryStep::Restart, false) => format!(", attempt {attempt} of {most}"),
                (_, true) => ", a silent attempt".into(),
                _ => String::new(),
            };
            (false, "RecoveryStarted", step.as_str(), format!("{} because of {}{count}", step.as_str(), cause.as_str()))
        }
        PlanNote::Helped { step, cause, evidence } => (
            false,
            "RecoveryHelped",
            step.as_str(),
            format!("{} helped against {}: {evidence}", step.as_str(), cause.as_str()),
        ),
        PlanNote::Inconclusive { step, cause, evidence } => (
            true,
            "RecoveryInconclusive",
            step.as_str(),
            format!("not known whether {} helped against {}: {evidence}", step.as_str(), cause.as_str()),
        ),
        PlanNote::Blocked { evidence } => (true, "RecoveryBlocked", "Wait", evidence.clone()),
        PlanNote::DidNotHelp { step, cause, evidence } => (
            true,
            "RecoveryDidNotHelp",
            step.as_str(),
            format!("{} did not help against {}: {evidence}", step.as_str(), cause.as_str()),
        ),
        PlanNote::Deferred { evidence } => (true, "DeferredToHuman", "Defer", evidence.clone()),
        PlanNote::Recovered { was_deferred: true } => {
            (false, "Recovered", "Observe", "serves again; a human need not look any more".into())
        }
        PlanNote::Recovered { was_deferred: false } => (false, "Recovered", "Observe", "serves again".into()),
        PlanNote::WouldDo { step, cause } => (
            false,
            "WouldRecover",
            step.as_str(),
            format!("mode: Observe: would {} because of {}", step.as_str().to_lowercase(), cause.as_str()),
        ),
        PlanNote::LimitLowered { to } => {
            (true, "OutOfMemory", "LowerLimit", format!("out of memory: at most {to} calls at once for the next hour"))
        }
        PlanNote::AgentStarted { times } => (
            false,
            "AgentStarted",
            "Start",
            format!("the host agent's own loop started the service ({})", number_of(times, "time")),
        ),
    };
    Note { warning, reason: reason.into(), action: action.into(), message: bounded(&message) }
}

/// What changed in the status.
pub fn of_change(old: Option<&LLMBackendStatus>, new: &LLMBackendStatus) -> Option<Note> {
    let (before, after) = (old.and_then(|s| s.base.state), new.base.state?);
    if before == Some(after) {
        return None;
    }
    let ready = condition(&new.base.conditions, "Ready")?;
    let was_ready = old.and_then(|s| condition(&s.base.conditions, "Ready")).map(|c| c.status);
    let warning = match after {
        // Said by the plan's own notes.
        BackendState::Recovering | BackendState::Deferred => return None,
        BackendState::Serving | BackendState::Idle | BackendState::Busy | BackendState::Shared => {
            if was_ready == Some(ready.status) {
                return None;
            }
            false
        }
        BackendState::Proving | BackendState::Suspended => false,
        BackendState::RateLimited
        | BackendState::Unauthorized
        | BackendState::ModelsMissing
        | BackendState::WrongUser
        | BackendState::LoopbackURL
        | BackendState::DuplicateServer
        | BackendState::HostAgentMissing
        | BackendState::SecretMissing
        | BackendState::WorkloadMissing
        | BackendState::InvalidSpec
        | BackendState::Down
        | BackendState::Unreachable
        | BackendState::Misconfigured
        | BackendState::Hung
        | BackendState::Unknown => true,
    };
    Some(Note { warning, reason: ready.reason.clone(), action: "Judge".into(), message: bounded(&ready.message) })
}
