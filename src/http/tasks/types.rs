//! Bodies of requests and replies about tasks.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    http::TimeOrDuration,
    store::{Inserted, QueueCounts, WorkerReport},
    tasks::{Message, Task, TaskId, TaskState},
};

/// What is wrong with a task that was sent.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskProblem {
    /// Line of the text, from 1.
    pub line: Option<usize>,
    /// Element of the array, from 1.
    pub item: Option<usize>,
    pub field: Option<String>,
    /// What it is, and the mend.
    pub message: String,
}

impl fmt::Display for TaskProblem {
    /// `line 7: prompt: is empty`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(item) = self.item {
            write!(f, "task {item}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// A task as it is sent. Exactly one of `prompt`, `messages`, `input` and `data` is given.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRequest {
    /// `default` when absent.
    pub queue: Option<String>,
    /// Its field, for assignment.
    pub domain: Option<String>,
    /// Who is to do it, for assignment.
    pub role: Option<String>,
    /// One message of the user.
    pub prompt: Option<String>,
    /// A whole conversation.
    pub messages: Option<Vec<Message>>,
    /// Texts to embed.
    pub input: Option<Vec<String>>,
    /// Whatever a webhook understands: any JSON of at most 64 levels.
    pub data: Option<Value>,
    /// JSON Schema that the answer must match. References stay within it, patterns look around nowhere.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// At most so many tokens of answer; else the expert's parameter.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub max_tokens: Option<i32>,
    /// Alias of the model, instead of the expert's.
    pub model: Option<String>,
    /// Higher goes first.
    #[schema(minimum = -100, maximum = 100)]
    pub priority: Option<i32>,
    /// Not before then.
    pub run_after: Option<TimeOrDuration>,
    /// After that it fails instead of being tried.
    pub deadline: Option<TimeOrDuration>,
    /// Unique in its queue: a task that is there already is not added again.
    pub key: Option<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// An assignment that is made already.
    pub expert: Option<String>,
}

/// What became of the tasks that were sent, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InsertReply {
    pub inserted: usize,
    /// Their keys were there already.
    pub existed: usize,
    pub items: Vec<Inserted>,
}

/// Tasks, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskList {
    /// The server's time, for ages.
    pub now: Timestamp,
    pub items: Vec<Task>,
    /// `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<TaskId>,
}

/// Tasks that ended, in the order in which they did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultList {
    pub items: Vec<Task>,
    /// `after` of the next request, whether or not something came.
    pub next: String,
}

/// What is done to tasks by `POST /api/v1/tasks/commands`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum TaskVerb {
    /// Pending, running and deferred ones end as cancelled.
    Cancel,
    /// Ended ones become pending, in a new cycle.
    Retry,
    /// Deferred ones become pending.
    Resume,
    /// Pending and deferred ones get another expert.
    Reassign,
    /// Deferred ones end as failed.
    Close,
}

/// A command and whom it concerns: `ids`, or filters, or `all` of the namespace.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandRequest {
    pub command: TaskVerb,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<TaskId>,
    pub queue: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<TaskState>,
    pub domain: Option<String>,
    pub role: Option<String>,
    /// Those that have this expert now.
    pub expert: Option<String>,
    pub unassigned: Option<bool>,
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Ended, or in their state, since then; a duration is one before now.
    pub since: Option<TimeOrDuration>,
    /// Ended, or in their state, before then; a duration is one before now.
    pub until: Option<TimeOrDuration>,
    /// Every task that the command applies to.
    #[serde(default)]
    pub all: bool,
    /// For `reassign`: who gets them.
    pub to: Option<String>,
    /// Kept with the tasks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 1024)]
    pub reason: String,
    /// Only count.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a command changed, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandReply {
    /// How many it applies to (`dryRun`), or was carried out on.
    pub count: i64,
    /// Those that it was carried out on, the first 10,000.
    pub ids: Vec<TaskId>,
}

/// Why a task waits, or how it is if it doesn't.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub id: TaskId,
    pub state: TaskState,
    /// In words: what it waits for, and what would mend it where somebody must.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
    pub expert: Option<String>,
    /// Why that expert.
    pub assignment_reason: Option<String>,
    /// Those as good.
    pub candidates: Vec<String>,
}

/// A change, as it is sent to whoever follows.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskChange {
    pub id: TaskId,
    pub namespace: String,
    pub queue: String,
    pub state: TaskState,
    pub state_since: Timestamp,
    pub expert: Option<String>,
    pub key: Option<String>,
    pub attempts_used: i32,
    pub cycle: i32,
    pub reason: Option<String>,
}

impl From<&Task> for TaskChange {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id,
            namespace: task.namespace.clone(),
            queue: task.queue.clone(),
            state: task.state,
            state_since: task.state_since,
            expert: task.expert.clone(),
            key: task.key.clone(),
            attempts_used: task.attempts_used,
            cycle: task.cycle,
            reason: task.reason.clone(),
        }
    }
}

/// How many tasks of each queue are in which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueList {
    pub now: Timestamp,
    pub items: Vec<QueueCounts>,
}

/// An expert and its load.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpertView {
    pub namespace: String,
    pub name: String,
    /// Of its spec; false for one that is gone and still has tasks.
    pub declared: bool,
    pub suspended: bool,
    pub domains: Vec<String>,
    pub roles: Vec<String>,
    pub model: Option<String>,
    /// `Chat`, `Embed` or `Webhook`.
    pub handler: String,
    pub pending: i64,
    pub in_progress: i64,
    /// As many as it takes at once.
    pub max_concurrent: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExpertList {
    pub items: Vec<ExpertView>,
}

/// A worker process, as it last reported itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerView {
    #[serde(flatten)]
    pub report: WorkerReport,
    /// Since that report.
    pub age_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    pub items: Vec<WorkerView>,
}

/// Body of a heartbeat for a task that was handed over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeartbeatRequest {
    /// The claim's epoch. A claim token says it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// In its place, the claim that came with a task of `POST /api/v1/claims`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

/// By when the next heartbeat must come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatReply {
    pub lease_seconds: i64,
}

/// Body of the end of a task that was handed over: `result`, or `error`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CompleteRequest {
    /// The claim's epoch. A claim token says it already.
    pub epoch: Option<i64>,
    /// In its place, the claim that came with a task of `POST /api/v1/claims`.
    pub claim: Option<String>,
    /// What came of it: any JSON.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// What went wrong.
    #[schema(max_length = 4096)]
    pub error: Option<String>,
    /// With `error`: whether another attempt may go better. Absent: it may.
    pub retryable: Option<bool>,
    /// With `error`: what it needs was down or full, or its client is told to stop. It is tried again, and uses no attempt.
    pub unavailable: Option<bool>,
}

/// What became of the task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompleteReply {
    pub state: TaskState,
}
