//! What travels about containers: which, how they are, what to do about them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::messages::Phase;

/// The largest piece of a log that one request returns, in bytes; head and tail each.
pub const MAX_LOG_BYTES: u32 = 16 * 1024;

/// Which containers are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ContainerSelector {
    /// By name; one that does not exist is reported as missing.
    Names(Vec<String>),
    /// Those that have all of these labels; none can be missing.
    Labels(BTreeMap<String, String>),
    /// Services of a compose project; one without a container is reported as missing.
    Compose(ComposeServices),
}

impl ContainerSelector {
    /// For errors: what was asked for, shortened.
    pub fn shown(&self) -> String {
        let text = match self {
            Self::Names(names) => names.join(", "),
            Self::Labels(labels) => labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            Self::Compose(project) => project.project_directory.clone(),
        };
        text.chars().take(200).collect()
    }
}

/// Services of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComposeServices {
    /// The project's folder on the agent's host, absolute.
    pub project_directory: String,
    /// Its files, as given to compose. Empty: as the containers' labels tell, else what compose finds in the folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Empty: every service that the project has containers of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// One container, or the place of one that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ContainerTarget {
    /// A container's name.
    Name(String),
    /// A service of a compose project: its first container.
    Service(ComposeService),
}

/// A service of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComposeService {
    pub project_directory: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    pub service: String,
}

impl ContainerTarget {
    /// What people call it: the container's name, or `SERVICE` of its project.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Service(service) => &service.service,
        }
    }
}

/// Body of `POST /v1/containers`. Asks only, so it needs no epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerQuery {
    pub selector: ContainerSelector,
}

/// Reply of `POST /v1/containers`: what the engine has of those that were asked for, never older than a minute. With the
/// engine away there is no such reply, but a refusal (`EngineUnavailable`): nothing that could be taken for "all gone".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerList {
    /// As in the agent's report: as long as it is the same, so are the containers (peaks of memory aside).
    pub revision: u64,
    /// When the engine last confirmed this, by the agent's clock.
    pub observed_at: Timestamp,
    /// In the order of their names.
    pub containers: Vec<ContainerReport>,
    /// What was named and does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ContainerTarget>,
}

/// What the engine says of a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, and never started; with `error`, its start failed.
    Created,
    Running,
    /// Somebody paused it: it exists, and does nothing.
    Paused,
    /// The engine's own restart policy is about to start it again.
    Restarting,
    Removing,
    Exited,
    /// The engine could not remove it.
    Dead,
    #[serde(other)]
    Unknown,
}

/// The engine's own health check, if the container has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerHealth {
    Starting,
    Healthy,
    Unhealthy,
    #[serde(other)]
    Unknown,
}

/// Who stopped a container that does not run, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StoppedBy {
    /// A stop through the engine's API that was not the agent's, and no shutdown of the engine: a person's wish.
    Person,
    /// An operation of this agent.
    Agent,
    /// The engine went down, and its containers with it.
    Engine,
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    pub by: StoppedBy,
    pub at: Timestamp,
}

/// One container, as the engine has it and as its events told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    /// The engine's id, 64 hexadecimal digits: another one is another container.
    pub id: String,
    /// Without the engine's leading slash.
    pub name: String,
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<ComposeIdentity>,
    pub state: ContainerState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealth>,
    /// What its failing health check last said: bounded, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_output: Option<String>,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When its last run ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Of its last run; absent while it runs and when it never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// The kernel killed its last run for want of memory: with exit code 137 that is what ended it. Absent while it runs.
    #[serde(default)]
    pub oom_killed: bool,
    /// What the engine said when it could not start it: no such image, no such mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its image is not on this host.
    #[serde(default)]
    pub image_missing: bool,
    /// How often the engine's own restart policy started it since a person or the agent last did.
    #[serde(default)]
    pub restart_count: i64,
    /// The engine's own restart policy: `no`, `always`, `unless-stopped`, `on-failure`.
    #[serde(default)]
    pub restart_policy: String,
    /// In bytes; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<i64>,
    /// The most memory that it was seen to use under this id, in bytes, page cache left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<i64>,
    /// How often it ran out of memory, as far as the agent saw under this id.
    #[serde(default)]
    pub oom_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_oom_at: Option<Timestamp>,
    /// Who stopped its last run, if somebody did. Absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// The operation that runs or waits now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

impl ContainerReport {
    /// Whether a lack of memory ended its last run: 137 with the runtime's flag. Without the flag, 137 is a kill from outside.
    pub fn ended_out_of_memory(&self) -> bool {
        self.exit_code == Some(137) && self.oom_killed
    }

    /// How to name it in an operation.
    pub fn target(&self) -> ContainerTarget {
        ContainerTarget::Name(self.name.clone())
    }
}

/// What compose wrote on a container that it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComposeIdentity {
    pub project: String,
    pub service: String,
    /// From 1; more than one where a service is scaled.
    pub number: u32,
    pub project_directory: String,
}

/// What to do with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ContainerAction {
    /// What is stopped is started; a compose service without a container gets one, unless its file has changed since the
    /// last one was made. What runs is left alone.
    Up,
    /// Stops and starts; what does not run is started.
    Restart,
    Stop,
    /// Changes the limit of memory in place, running or not; swap on top of it stays as much as it is.
    #[serde(rename_all = "camelCase")]
    Resize {
        memory_bytes: i64,
    },
}

impl ContainerAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "Up",
            Self::Restart => "Restart",
            Self::Stop => "Stop",
            Self::Resize { .. } => "Resize",
        }
    }
}

/// Body of `POST /v1/containers/operations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerOperationRequest {
    pub target: ContainerTarget,
    /// The container that was judged: another one under the same name is left alone (`ContainerChanged`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub action: ContainerAction,
    /// Why, for people: shown in the agent's log.
    #[serde(default)]
    pub reason: String,
}

/// Reply of `POST /v1/containers/operations` (202) and `GET /v1/containers/operations/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOperation {
    pub id: String,
    pub target: ContainerTarget,
    pub action: ContainerAction,
    pub phase: Phase,
    /// What was done, or why it failed and what to do; empty until then.
    #[serde(default)]
    pub message: String,
    /// Of a failure: one of the words of [`ContainerFailure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ContainerFailure>,
    pub accepted_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Why an operation on a container failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerFailure {
    /// No such container, and nothing that could make one.
    Missing,
    /// The container of that name is another one than was judged.
    ContainerChanged,
    /// Its compose file is not what the container was made from: nobody's half-edited file is deployed.
    ComposeDrift,
    /// Its image is not on this host and can't be had.
    ImageMissing,
    /// Under 5 % free disk: nothing is pulled.
    DiskFull,
    /// The engine does not answer.
    EngineUnavailable,
    /// The engine, or compose, refused: the message says how.
    #[serde(other)]
    Engine,
}

/// Body of `POST /v1/containers/logs`. Asks only, so it needs no epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerLogsRequest {
    pub target: ContainerTarget,
    /// Bytes of the beginning of its last run's log, at most [`MAX_LOG_BYTES`]; 0: none.
    #[serde(default = "default_head_bytes")]
    pub head_bytes: u32,
    /// Bytes of its end, at most [`MAX_LOG_BYTES`]; 0: none.
    #[serde(default = "default_tail_bytes")]
    pub tail_bytes: u32,
}

impl ContainerLogsRequest {
    pub fn new(target: ContainerTarget) -> Self {
        Self { target, head_bytes: default_head_bytes(), tail_bytes: default_tail_bytes() }
    }
}

fn default_head_bytes() -> u32 {
    1024
}

fn default_tail_bytes() -> u32 {
    4096
}

/// Reply of `POST /v1/containers/logs`: whole lines where they fit, secrets masked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerLogs {
    #[serde(default)]
    pub head: String,
    #[serde(default)]
    pub tail: String,
}

/// Body of `POST /v1/containers/exec`: runs a command in a running container, where the agent's file permits that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerExecRequest {
    pub target: ContainerTarget,
    /// Program and arguments; no shell reads it.
    pub command: Vec<String>,
    /// From 1 to 8: callers wait for 10 s.
    #[serde(default = "default_exec_seconds")]
    pub timeout_seconds: u32,
}

fn default_exec_seconds() -> u32 {
    5
}

/// Reply of `POST /v1/containers/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerExecResult {
    /// Absent: it had not ended in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// The end of what it printed: bounded, secrets masked.
    #[serde(default)]
    pub output: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_read_as_the_documented_json() {
        let service = json!({"service": {"projectDirectory": "/srv/knowledge", "service": "nightly"}});
        for (text, expected) in [
            (json!("Up"), ContainerAction::Up),
            (json!({"Resize": {"memoryBytes": 1}}), ContainerAction::Resize { memory_bytes: 1 }),
        ] {
            let request: ContainerOperationRequest =
                serde_json::from_value(json!({"target": service, "action": text})).unwrap();
            assert_eq!(request.action, expected);
            assert_eq!(request.target.name(), "nightly");
            assert_eq!(serde_json::to_value(&request).unwrap()["action"], text);
        }
        for bad in [
            json!({"target": {"name": "a"}, "action": "Up", "force": true}),
            json!({"target": {"name": "a", "id": "b"}, "action": "Up"}),
            json!({"target": {"name": "a"}, "action": {"Resize": {}}}),
        ] {
            assert!(serde_json::from_value::<ContainerOperationRequest>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_an_older_reader_does_not_know_is_unknown() {
        assert_eq!(serde_json::from_value::<ContainerState>(json!("Frozen")).unwrap(), ContainerState::Unknown);
        assert_eq!(serde_json::from_value::<StoppedBy>(json!("Cat")).unwrap(), StoppedBy::Unknown);
        assert_eq!(serde_json::from_value::<ContainerFailure>(json!("Moon")).unwrap(), ContainerFailure::Engine);
    }
}
