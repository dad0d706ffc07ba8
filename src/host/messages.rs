//! What travels between an agent and those who ask it: JSON in camelCase, enums in CamelCase.
//!
//! Requests refuse unknown fields, replies accept them: an older reader understands a newer agent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{MAX_MESSAGE_CHARS, MAX_REASON_CHARS, mask::one_line};

/// What an operation does to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum Action {
    /// Clears the owner's hold and starts what is not running. A running service is left alone.
    Start,
    /// Stops and starts. Refused (`Held`) while any hold but a deferral stands. What does not run is started.
    Restart,
    /// Holds for the owner, then stops.
    Stop,
    /// Holds for the owner and leaves the service as it is: nothing starts or restarts it.
    Hold,
    /// Clears the owner's hold and leaves the service as it is: the agent's loop cares for it again.
    Release,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it does, in a sentence.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Hold => "hold",
            Self::Release => "release",
        }
    }
}

/// Who wants a service left alone. A service is held while any owner holds it; each clears its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum HoldOwner {
    /// `ostler stop SERVICE`.
    Person,
    /// `spec.suspend` of the backend that the service serves.
    Suspend,
    /// `ostler pause`.
    Pause,
    /// The controller gave up and told a human. Binds the agent's own loop only.
    Deferral,
}

impl HoldOwner {
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether the hold also refuses a controller's Restart. A deferral doesn't: one silent attempt an hour goes on.
    pub fn binds_controllers(self) -> bool {
        self != Self::Deferral
    }
}

/// Body of `POST /v1/operations`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRequest {
    /// A service that the agent's file lists.
    pub service: String,
    pub action: Action,
    /// Whose hold Stop and Hold set, Start and Release clear. Absent: a person's. Restart needs none.
    pub owner: Option<HoldOwner>,
    /// Why, for people: shown with the hold and in the agent's log.
    #[serde(default)]
    pub reason: String,
    /// When the hold of Stop or Hold ends by itself (`ostler pause --for`). Absent: never.
    pub until: Option<Timestamp>,
}

impl OperationRequest {
    /// A request without an end and of a person, until said otherwise. A reason that is too long is cut.
    pub fn new(service: impl Into<String>, action: Action, reason: impl AsRef<str>) -> Self {
        let reason = reason.as_ref().chars().take(MAX_REASON_CHARS).collect();
        Self { service: service.into(), action, owner: None, reason, until: None }
    }

    pub fn owned_by(mut self, owner: HoldOwner) -> Self {
        self.owner = Some(owner);
        self
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Written down, not begun: another operation of the service may still run.
    Accepted,
    Running,
    /// The action is done: for Start and Restart, a process runs and its check passed, or there is no check. Whether it
    /// serves is for an inference to prove.
    Succeeded,
    Failed,
}

impl Phase {
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Reply of `POST /v1/operations` (202) and `GET /v1/operations/{id}`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationStatus {
    pub id: String,
    pub service: String,
    pub action: Action,
    pub phase: Phase,
    /// What was done, or why it failed and what to do; empty until then.
    #[serde(default)]
    pub message: String,
    pub accepted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub idempotency_key: Option<String>,
    /// The process that was started has exited again before it answered: no use in waiting for it.
    #[serde(default)]
    pub exited_early: bool,
}

impl OperationStatus {
    /// Whatever answers, its words fit into a status.
    pub(super) fn bounded(mut self) -> Self {
        self.message = one_line(&self.message, MAX_MESSAGE_CHARS);
        self
    }
}

/// Body of `POST /v1/care`: the controller looks after these services until the care runs out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CareRequest {
    pub services: Vec<String>,
    /// How long the care lasts unless it is renewed; three times the period of renewal is good.
    #[serde(default = "default_care_seconds")]
    pub seconds: u32,
}

fn default_care_seconds() -> u32 {
    60
}

impl CareRequest {
    pub fn new(services: Vec<String>) -> Self {
        Self { services, seconds: default_care_seconds() }
    }
}

/// The largest part of a log that an agent hands out.
pub const MOST_LOG_BYTES: u32 = 256 * 1024;

/// Asks for a part of a service's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRequest {
    pub service: String,
    /// Only what was written after this offset, which an earlier answer gave; without it, the end of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so much, up to [`MOST_LOG_BYTES`].
    pub bytes: u32,
}

/// A part of a log: whole lines, without what looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogPart {
    /// Where it is on its host.
    pub file: String,
    pub text: String,
    /// For `after`.
    pub next: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_reads_as_the_documented_json() {
        let read: OperationRequest =
            serde_json::from_str(r#"{"service":"ollama","action":"Stop","owner":"Suspend","reason":"upgrade"}"#)
                .unwrap();
        assert_eq!(read, OperationRequest::new("ollama", Action::Stop, "upgrade").owned_by(HoldOwner::Suspend));
        let short: OperationRequest = serde_json::from_str(r#"{"service":"ollama","action":"Start"}"#).unwrap();
        assert_eq!(short.owner, None);
    }

    #[test]
    fn an_unknown_field_of_a_request_is_refused_and_of_a_reply_accepted() {
        assert!(serde_json::from_str::<OperationRequest>(r#"{"service":"a","action":"Stop","force":true}"#).is_err());
        let reply: OperationStatus = serde_json::from_value(serde_json::json!({
            "id": "1", "service": "a", "action": "Stop", "phase": "Running", "acceptedAt": "2026-01-01T00:00:00Z", "colour": 1,
        }))
        .unwrap();
        assert_eq!(reply.phase, Phase::Running);
    }

    #[test]
    fn only_a_deferral_leaves_controllers_free() {
        for (owner, binds) in [
            (HoldOwner::Person, true),
            (HoldOwner::Suspend, true),
            (HoldOwner::Pause, true),
            (HoldOwner::Deferral, false),
        ] {
            assert_eq!(owner.binds_controllers(), binds, "{owner:?}");
        }
    }
}
