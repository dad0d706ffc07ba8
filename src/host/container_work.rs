//! What travels about work on containers: operations, logs, commands.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{MAX_MESSAGE_CHARS, containers::ContainerTarget, mask::one_line, messages::Phase};

/// The largest piece of a log that one request returns, in bytes; head and tail each.
pub const MAX_LOG_BYTES: u32 = 16 * 1024;

/// What to do with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
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
        self.into()
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
#[serde_with::skip_serializing_none]
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
    pub failure: Option<ContainerFailure>,
    pub accepted_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub idempotency_key: Option<String>,
}

impl ContainerOperation {
    /// Whatever answers, its words fit into a status.
    pub(super) fn bounded(mut self) -> Self {
        self.message = one_line(&self.message, MAX_MESSAGE_CHARS);
        self
    }
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
    /// Hardly any disk is left: nothing is pulled.
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
    fn a_failure_that_an_older_reader_does_not_know_is_the_engines() {
        assert_eq!(serde_json::from_value::<ContainerFailure>(json!("Moon")).unwrap(), ContainerFailure::Engine);
    }
}
