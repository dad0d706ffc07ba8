//! What travels between an agent and those who ask it: JSON in camelCase, enums in CamelCase.
//!
//! Requests refuse unknown fields, replies accept them: an older reader understands a newer agent.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an operation does to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        match self {
            Self::Start => "Start",
            Self::Restart => "Restart",
            Self::Stop => "Stop",
            Self::Hold => "Hold",
            Self::Release => "Release",
        }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
        match self {
            Self::Person => "Person",
            Self::Suspend => "Suspend",
            Self::Pause => "Pause",
            Self::Deferral => "Deferral",
        }
    }

    /// Whether the hold also refuses a controller's Restart. A deferral doesn't: one silent attempt an hour goes on.
    pub fn binds_controllers(self) -> bool {
        self != Self::Deferral
    }
}

/// Body of `POST /v1/operations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRequest {
    /// A service that the agent's file lists.
    pub service: String,
    pub action: Action,
    /// Whose hold Stop and Hold set, Start and Release clear. Absent: a person's. Restart needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<HoldOwner>,
    /// Why, for people: shown with the hold and in the agent's log.
    #[serde(default)]
    pub reason: String,
    /// When the hold of Stop or Hold ends by itself (`ostler pause --for`). Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl OperationRequest {
    /// A request without an end and of a person, until said otherwise.
    pub fn new(service: impl Into<String>, action: Action, reason: impl Into<String>) -> Self {
        Self { service: service.into(), action, owner: None, reason: reason.into(), until: None }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The process that was started has exited again before it answered: no use in waiting for it.
    #[serde(default)]
    pub exited_early: bool,
}

/// Reply of `GET /v1/report`: everything that the agent knows of its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentReport {
    pub name: String,
    pub version: String,
    /// The user that the agent runs as: only root starts services of other users.
    pub user: String,
    /// The agent's clock. The reader computes the skew.
    pub time: Timestamp,
    pub started_at: Timestamp,
    /// The agent's own loop only says what it would do.
    #[serde(default)]
    pub observe: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_runtime: Option<ContainerRuntime>,
    /// Another number means that something about the containers that the agent may see has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers_revision: Option<u64>,
    /// Free space of the file system that holds the agent's state, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_percent: Option<f64>,
    /// Rises with each notable change ([`ServiceReport::notable`]) of a service; absent in agents that can't be waited for.
    /// Comparable only between reports with the same `started_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    #[serde(default)]
    pub services: Vec<ServiceReport>,
}

impl AgentReport {
    pub fn service(&self, name: &str) -> Option<&ServiceReport> {
        self.services.iter().find(|s| s.name == name)
    }

    /// What callers react to, of each service.
    pub fn notable(&self) -> Vec<ServiceReport> {
        self.services.iter().map(ServiceReport::notable).collect()
    }
}

/// The container engine on the agent's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRuntime {
    pub name: String,
    /// As it last said; empty while it has not answered yet.
    pub version: String,
    /// Why nothing is known of its containers now, and since when; absent while it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who is the service's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Manager {
    /// The agent.
    Process,
    /// Something with commands: systemctl, launchctl, brew.
    Command,
    /// A container engine.
    Container,
    /// One that this reader does not know.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceState {
    Running,
    Stopped,
    /// Its process runs, and has not yet answered a check since it was started.
    Starting,
    /// Something else owns its port: left alone unless the file says `adopt: true`.
    Foreign,
    #[serde(other)]
    Unknown,
}

impl ServiceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Stopped => "Stopped",
            Self::Starting => "Starting",
            Self::Foreign => "Foreign",
            Self::Unknown => "Unknown",
        }
    }
}

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// 0 for a container, whose pid may be one of a virtual machine.
    pub pid: u32,
    /// Opaque: equal for as long as the process is the same one (Linux: clock ticks since boot).
    pub start_time: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    pub name: String,
    pub manager: Manager,
    pub state: ServiceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The user that its process runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user that the agent's file wants it to run as, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_user: Option<String>,
    /// CPU time of its whole process tree in seconds: while it rises the server works, a hung one shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// For how long its process has been running at most: a length, so that clocks need not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_seconds: Option<f64>,
    /// When the agent first saw the port of the check accept a connection to this instance, by the agent's clock. Absent until
    /// then, and for a service without a check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepting_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// Why it is down or was last, for people: at most [`MAX_FAILURE_CHARS`] characters without control characters or secrets.
    /// Absent once it is up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Who listens on the port of the check's URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_owner: Option<PortOwner>,
    /// Starts that the agent's own loop did: a controller counts them as attempts.
    #[serde(default)]
    pub self_starts: SelfStarts,
    #[serde(default)]
    pub failed_starts_in_row: u32,
    /// After five failed starts in a row the loop waits for a passing check or for an operation.
    #[serde(default)]
    pub gave_up: bool,
    /// When a lack of memory was last seen: a pattern in its log, or a kill by the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<CheckReport>,
    /// The operation that runs or waits now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

/// The longest `last_failure`.
pub const MAX_FAILURE_CHARS: usize = 300;

impl ServiceReport {
    /// The part that callers react to: all but times, CPU, the port's owner and the details of checks.
    pub fn notable(&self) -> Self {
        Self {
            cpu_seconds: None,
            running_seconds: None,
            port_owner: None,
            self_starts: SelfStarts { last: None, ..self.self_starts },
            last_check: self.last_check.as_ref().map(|check| CheckReport {
                ok: check.ok,
                at: Timestamp::UNIX_EPOCH,
                detail: String::new(),
            }),
            ..self.clone()
        }
    }

    /// Whether a hold refuses a controller's Restart.
    pub fn held(&self) -> bool {
        self.holds.iter().any(|h| h.owner.binds_controllers())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub owner: HoldOwner,
    #[serde(default)]
    pub reason: String,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How the last process of a service ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default)]
    pub out_of_memory: bool,
    pub at: Timestamp,
    /// The agent was not its parent (it found the process again after its own restart), so that nobody told it how.
    #[serde(default)]
    pub unknown: bool,
    /// The agent itself stopped it, on somebody's request.
    #[serde(default)]
    pub requested: bool,
}

impl LastExit {
    /// In words without times.
    pub fn describe(&self) -> String {
        let how = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "nobody saw how".to_owned(),
        };
        if self.out_of_memory { format!("out of memory, {how}") } else { how }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortOwner {
    pub port: u16,
    /// Absent when the owner belongs to somebody whose processes the agent may not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Starts by the agent's own loop since the agent first knew the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfStarts {
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

/// Result of the last check of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    pub ok: bool,
    pub at: Timestamp,
    #[serde(default)]
    pub detail: String,
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
        let hold: Hold =
            serde_json::from_str(r#"{"owner":"Person","since":"2026-01-01T00:00:00Z","colour":1}"#).unwrap();
        assert_eq!(hold.owner, HoldOwner::Person);
    }

    #[test]
    fn a_state_that_this_reader_does_not_know_is_unknown() {
        assert_eq!(serde_json::from_str::<ServiceState>(r#""Hibernating""#).unwrap(), ServiceState::Unknown);
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
