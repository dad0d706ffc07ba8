//! Status of an LLMBackend: a copy of what the store knows, for people and for kstatus.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::StatusBase;

/// The one word for how a backend is. docs/backends.md has the table of what each means for conditions and slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum BackendState {
    Proving,
    Serving,
    Idle,
    Busy,
    /// Another namespace declared the server first, and judges it.
    Shared,
    RateLimited,
    Unauthorized,
    ModelsMissing,
    WrongUser,
    LoopbackURL,
    DuplicateServer,
    HostAgentMissing,
    WorkloadMissing,
    SecretMissing,
    InvalidSpec,
    Down,
    Unreachable,
    Misconfigured,
    Hung,
    Unknown,
    Recovering,
    Deferred,
    Suspended,
}

impl BackendState {
    /// As manifests and metrics write it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What was last seen and done.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LLMBackendStatus {
    #[serde(flatten)]
    pub base: StatusBase<BackendState>,
    /// Calls at once that the server is given now.
    #[schemars(range(min = 0, max = 10000))]
    pub effective_limit: Option<i32>,
    /// Why that is below the declared maximum.
    #[schemars(length(max = 256))]
    pub limited_by: Option<String>,
    /// The models as the server has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<ModelStatus>,
    /// When an inference last succeeded.
    pub last_served_time: Option<Time>,
    /// The call that proved the process that runs now: which, by which model, how fast.
    #[schemars(length(max = 512))]
    pub proved_by: Option<String>,
    /// The current or last episode of recovery.
    pub recovery: Option<RecoveryStatus>,
}

/// One expected model as the server has it.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The server's name for it.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Whether the server lists it.
    pub present: bool,
    /// Whether it is in memory, where the engine tells.
    pub loaded: Option<bool>,
    /// How much of a running pull is there; written at most every 10 seconds.
    #[schemars(range(min = 0, max = 100))]
    pub pull_percent: Option<i32>,
    /// Why the last pull failed.
    #[schemars(length(max = 1024))]
    pub pull_error: Option<String>,
}

/// An episode of recovery: from the first failure to a success, or to a human.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryStatus {
    /// What went wrong: Exited, Refused, Reset, ServerError, OutOfMemory or Hung.
    #[schemars(length(max = 64))]
    pub cause: Option<String>,
    /// The step that is running or was last tried: Unload or Restart.
    #[schemars(length(max = 64))]
    pub step: Option<String>,
    /// Attempts used in this episode.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100000))]
    pub attempts: i32,
    /// When the next attempt may come.
    pub next_attempt_time: Option<Time>,
    /// The latest attempts, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<RecoveryRecord>,
    /// How often each step helped for each cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub tallies: Vec<StepTally>,
}

/// One attempt and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryRecord {
    /// When it began.
    pub time: Time,
    /// What went wrong.
    #[schemars(length(max = 64))]
    pub cause: String,
    /// What was done.
    #[schemars(length(max = 64))]
    pub step: String,
    /// Running, Helped, DidNotHelp, Inconclusive or WouldDo (mode: Observe).
    #[schemars(length(max = 64))]
    pub outcome: String,
    /// What was seen before and after.
    #[schemars(length(max = 1024))]
    pub evidence: String,
}

/// How often a step helped for a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepTally {
    /// What went wrong.
    #[schemars(length(max = 64))]
    pub cause: String,
    /// What was done.
    #[schemars(length(max = 64))]
    pub step: String,
    /// How often it was tried.
    #[schemars(range(min = 0, max = 1000000000))]
    pub tried: i32,
    /// How often an inference succeeded after it.
    #[schemars(range(min = 0, max = 1000000000))]
    pub helped: i32,
}
