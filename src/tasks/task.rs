//! A task as it is stored, shown and given in.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::IntoStaticStr;
use utoipa::ToSchema;

/// Number of a task: unique in an installation, rising with insertion.
pub type TaskId = i64;

/// A task whose leases were lost so many times is handed to a human: it may be what kills its workers.
pub const DEFERRING_LOST_LEASES: i32 = 3;

/// The states of a task. `Completed`, `Failed` and `Cancelled` are terminal, the others live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TaskState {
    Pending,
    InProgress,
    Completed,
    Failed,
    Cancelled,
    DeferredToHuman,
}

impl TaskState {
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::InProgress, Self::Completed, Self::Failed, Self::Cancelled, Self::DeferredToHuman];

    /// As the API and the database write it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Nothing happens to it any more, unless somebody retries it.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A queue by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueKey {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for QueueKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

/// What is to be done. Exactly one of `prompt`, `messages`, `input` and `data` is given.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payload {
    /// One message of the user.
    pub prompt: Option<String>,
    /// A whole conversation.
    pub messages: Option<Vec<Message>>,
    /// Texts to embed.
    pub input: Option<Vec<String>>,
    /// Whatever a webhook understands.
    pub data: Option<Value>,
    /// JSON Schema that the answer must match; where the engine can, it is made to.
    pub schema: Option<Value>,
    /// At most so many tokens of answer; else the expert's parameter.
    pub max_tokens: Option<i32>,
}

/// A task as somebody gives it in, with its defaults resolved (a missing queue is `default`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewTask {
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub payload: Payload,
    /// The alias that is asked for; else the expert's.
    pub model: Option<String>,
    /// Higher goes first, -100 to 100.
    pub priority: i32,
    pub run_after: Option<Timestamp>,
    /// After that it fails instead of being tried; else `deadlineSeconds` of its queue.
    pub deadline: Option<Timestamp>,
    /// Unique in its queue until purged.
    pub key: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// An assignment that is made already.
    pub expert: Option<String>,
}

/// Why an attempt ended, as far as it matters for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, IntoStaticStr)]
pub enum AttemptClass {
    /// Done.
    Ok,
    /// May go better next time: uses one attempt.
    Retryable,
    /// The backend was down or full: uses no attempt.
    Unavailable,
    /// The backend failed under it: uses no attempt either, until that has happened to the same task again and again.
    ServerFailed,
    /// Will never go well.
    Permanent,
    /// Its worker lost the lease.
    LeaseLost,
    /// Somebody cancelled it, or the worker was told to stop: uses no attempt.
    Cancelled,
}

impl AttemptClass {
    /// As JSON has it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One execution. Times are the worker's.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub expert: String,
    /// Backend and model that served it; none for a webhook.
    pub backend: Option<String>,
    pub model: Option<String>,
    /// The worker process.
    pub holder: String,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub first_token_at: Option<Timestamp>,
    pub prompt_tokens: Option<i64>,
    pub completion_tokens: Option<i64>,
    pub class: AttemptClass,
    /// What went wrong, for people; at most 2,000 characters.
    pub error: Option<String>,
}

/// A pending task without an expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unassigned {
    pub id: TaskId,
    pub queue: QueueKey,
    pub domain: String,
    pub role: String,
    pub model: Option<String>,
    /// Named by whoever gave it in, when that expert was not there yet.
    pub expert: Option<String>,
}

/// Who shall do a task, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub task: TaskId,
    pub expert: String,
    /// Where calls go: the task's alias or its expert's; none for a webhook.
    pub model: Option<String>,
    /// Why this one: `domain and role`, `domain`, `role`, `default of the queue`, `named by the task`.
    pub reason: &'static str,
    /// The equally good ones, at most ten. Tasks of one kind share the list.
    pub candidates: Arc<[String]>,
}

/// What whoever claimed a task gets of it: enough to do it, and to decide what its end means.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedTask {
    pub id: TaskId,
    /// Of this claim.
    pub epoch: i64,
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub payload: Payload,
    pub priority: i32,
    pub deadline: Option<Timestamp>,
    pub key: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub expert: String,
    /// Where its calls go; none for a webhook.
    pub assigned_model: Option<String>,
    /// Attempts used in this cycle.
    pub attempts_used: i32,
    /// Given back without using an attempt, in this cycle.
    pub free_requeues: i32,
    /// How often somebody opened it anew, by `retry`, from 1.
    pub cycle: i32,
    /// The last twenty.
    pub attempts: Vec<Attempt>,
}

/// A task as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    pub id: TaskId,
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub payload: Payload,
    /// As it was asked for.
    pub model: Option<String>,
    pub priority: i32,
    pub run_after: Option<Timestamp>,
    pub deadline: Option<Timestamp>,
    pub key: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub state: TaskState,
    pub created_at: Timestamp,
    /// Since it became pending, started, or ended.
    pub state_since: Timestamp,
    pub expert: Option<String>,
    /// Why that expert.
    pub assignment_reason: Option<String>,
    pub candidates: Vec<String>,
    /// Where its calls go once it is assigned; none for a webhook.
    pub assigned_model: Option<String>,
    /// Attempts used in this cycle.
    pub attempts_used: i32,
    /// Given back without using an attempt, in this cycle.
    pub free_requeues: i32,
    /// Leases lost in this cycle.
    pub leases_lost: i32,
    /// How often somebody opened it anew, by `retry`, from 1.
    pub cycle: i32,
    /// Rises with every claim, and with whatever takes a claim away.
    pub epoch: i64,
    /// Why it was last given back, deferred or ended other than well.
    pub reason: Option<String>,
    /// The last twenty.
    pub attempts: Vec<Attempt>,
    /// What came of it: `{"text"}`, `{"json"}`, `{"vectors"}` or a webhook's answer.
    pub result: Option<Value>,
}

impl From<Task> for ClaimedTask {
    /// Of one that is claimed, and so has an expert.
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            epoch: task.epoch,
            namespace: task.namespace,
            queue: task.queue,
            domain: task.domain,
            role: task.role,
            payload: task.payload,
            priority: task.priority,
            deadline: task.deadline,
            key: task.key,
            labels: task.labels,
            expert: task.expert.unwrap_or_default(),
            assigned_model: task.assigned_model,
            attempts_used: task.attempts_used,
            free_requeues: task.free_requeues,
            cycle: task.cycle,
            attempts: task.attempts,
        }
    }
}
