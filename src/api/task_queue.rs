//! TaskQueue: tasks that are done by the same rules.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{AnswerCache, LocalRef, Requirement, StatusBase, Webhook};

/// Tasks that are done by the same rules: who else takes them, how often they are tried, how long they are kept.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "TaskQueue",
    plural = "taskqueues",
    shortname = "tq",
    category = "ostler",
    namespaced,
    status = "TaskQueueStatus",
    derive = "PartialEq",
    doc = "Tasks that are done by the same rules: who else takes them, how often they are tried, how long they are kept.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Pools", type_ = "integer", json_path = ".status.pools"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct TaskQueueSpec {
    /// Who takes what no other expert's domains and roles fit.
    pub default_expert_ref: Option<LocalRef>,
    /// When tasks are assigned, beside the moment when they come in.
    #[serde(default)]
    pub assignment: AssignmentPolicy,
    /// How often a failed task is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Seconds after which a task that has not ended fails, unless it says itself. Absent: never.
    #[schemars(range(min = 1, max = 31536000))]
    pub deadline_seconds: Option<i32>,
    /// After how many seconds without a sign of its worker a task is given to another one.
    #[serde(default = "default_lease")]
    #[schemars(range(min = 1, max = 86400))]
    pub lease_seconds: i32,
    /// How long ended tasks are kept.
    #[serde(default)]
    pub retention: RetentionPolicy,
    /// A task with the same payload, expert and model is answered with the same result again, which no engine is asked for. Absent: every task
    /// is done.
    pub cache: Option<AnswerCache>,
    /// Who does its tasks.
    #[serde(default)]
    pub claimed_by: ClaimedBy,
    /// Who is sent each of its tasks when it ends: completed, failed or cancelled.
    pub on_finished: Option<Webhook>,
    /// What must hold before its tasks are started. Those that run go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub requires: Vec<Requirement>,
    /// No task of it is started; those that run go on.
    #[serde(default)]
    pub suspend: bool,
}

/// Who does the tasks of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ClaimedBy {
    /// The workers of WorkerPools.
    #[default]
    Workers,
    /// Programs of yours, which claim them by the API: POST /api/v1/claims.
    Clients,
}

/// When tasks are assigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AssignmentPolicy {
    /// Seconds between two rounds over all that nobody has.
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
}

impl Default for AssignmentPolicy {
    fn default() -> Self {
        Self { period_seconds: 10 }
    }
}

/// How often a failed task is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.backoffSeconds <= self.maxBackoffSeconds",
     "message": "backoffSeconds is above maxBackoffSeconds: lower it or raise maxBackoffSeconds", "fieldPath": ".backoffSeconds"}
]))]
pub struct Retry {
    /// Attempts before a human is asked. A backend that is down or full uses none.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: i32,
    /// Seconds before the second attempt, doubled for each further one; jittered.
    #[schemars(range(min = 1, max = 86400))]
    pub backoff_seconds: i32,
    /// Seconds that it is never doubled beyond.
    #[schemars(range(min = 1, max = 604800))]
    pub max_backoff_seconds: i32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 3, backoff_seconds: 10, max_backoff_seconds: 600 }
    }
}

/// How long ended tasks are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionPolicy {
    /// Seconds for completed ones.
    #[schemars(range(min = 1, max = 315360000))]
    pub completed_seconds: i32,
    /// Seconds for failed and cancelled ones.
    #[schemars(range(min = 1, max = 315360000))]
    pub failed_seconds: i32,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { completed_seconds: 7 * 86_400, failed_seconds: 30 * 86_400 }
    }
}

fn default_lease() -> i32 {
    90
}

/// The one word for how a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum TaskQueueState {
    /// Its tasks are done.
    Open,
    /// It waits for what it requires.
    Held,
    /// Its default expert is not there.
    ExpertMissing,
    Suspended,
}

/// How the queue is. What is in it changes by itself: `ostler status` shows that.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskQueueStatus {
    #[serde(flatten)]
    pub base: StatusBase<TaskQueueState>,
    /// How many WorkerPools serve it.
    #[schemars(range(min = 0, max = 10000))]
    pub pools: Option<i32>,
    /// Tasks that waited when this status was written.
    #[schemars(range(min = 0, max = 9007199254740991_i64))]
    pub pending: Option<i64>,
    /// Tasks that ran when this status was written.
    #[schemars(range(min = 0, max = 9007199254740991_i64))]
    pub in_progress: Option<i64>,
}
