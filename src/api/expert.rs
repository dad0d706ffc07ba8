//! Expert: who can do tasks.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{
    ClaimedBy, StatusBase, Webhook,
    common::{KEY, LINE, NAME},
};

/// How an expert does a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Handler {
    /// A chat with its model, under its system prompt.
    #[default]
    Chat,
    /// Vectors of its model for the task's texts.
    Embed,
    /// Somebody's own agent, which is sent the task.
    Webhook,
    /// A program of yours, which claims the task.
    External,
}

impl Handler {
    /// Its tasks are calls of a model: each takes a slot of a server.
    pub const fn calls_model(self) -> bool {
        matches!(self, Self::Chat | Self::Embed)
    }

    /// Whether tasks of its experts can be done in a queue that is claimed so.
    pub const fn fits(self, claimed_by: ClaimedBy) -> bool {
        !matches!((self, claimed_by), (Self::Webhook, ClaimedBy::Clients) | (Self::External, ClaimedBy::Workers))
    }
}

/// Who can do tasks: what it is good at, and what it does them with.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "Expert",
    plural = "experts",
    shortname = "exp",
    category = "ostler",
    namespaced,
    status = "ExpertStatus",
    derive = "PartialEq",
    doc = "Who can do tasks: what it is good at, and what it does them with.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Places", type_ = "integer", json_path = ".spec.maxConcurrentTasks"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.handler == 'Webhook' || self.handler == 'External' || has(self.model)",
     "message": "a Chat or Embed expert asks a model: set model to an alias that a backend serves", "fieldPath": ".handler"},
    {"rule": "self.handler == 'Webhook' ? has(self.webhook) : !has(self.webhook)",
     "message": "webhook and handler: Webhook go together: set both, or remove webhook", "fieldPath": ".handler"},
    {"rule": "!has(self.systemPrompt) || !has(self.systemPromptRef)",
     "message": "there is one system prompt: remove systemPrompt or systemPromptRef", "fieldPath": ".systemPromptRef"},
    {"rule": "self.handler == 'Chat' || (!has(self.systemPrompt) && !has(self.systemPromptRef))",
     "message": "only a chat has a system prompt: remove it, or set handler: Chat", "fieldPath": ".handler"}
]))]
pub struct ExpertSpec {
    /// Fields that it knows: a task of one of these domains fits it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 63), regex(pattern = LINE)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub domains: Vec<String>,
    /// What it can be: a task for one of these roles fits it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 63), regex(pattern = LINE)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub roles: Vec<String>,
    /// How it does a task.
    #[serde(default)]
    pub handler: Handler,
    /// Alias of the model that it asks, unless the task names another.
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub model: Option<String>,
    /// What it is told before each task.
    #[schemars(length(min = 1, max = 65536))]
    pub system_prompt: Option<String>,
    /// Where that is kept, when not here.
    pub system_prompt_ref: Option<TextRef>,
    /// Tasks of its own at once at most. It may be assigned more: they wait.
    #[serde(default = "default_places")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_concurrent_tasks: i32,
    /// How its model is asked.
    #[serde(default)]
    pub parameters: Parameters,
    /// Who is sent its tasks (handler: Webhook).
    pub webhook: Option<Webhook>,
    /// It gets no more tasks, and those that it did not start are given to others.
    #[serde(default)]
    pub suspend: bool,
}

/// Where a text is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum TextKind {
    #[default]
    ConfigMap,
    Secret,
}

impl TextKind {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A text under a key of a ConfigMap or Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TextRef {
    /// What keeps it.
    #[serde(default)]
    pub kind: TextKind,
    /// Name of the ConfigMap or Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// The key of the text.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key: String,
}

/// How a model is asked. What is left out is left to the engine.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Parameters {
    /// Temperature in hundredths: 70 is 0.7.
    #[schemars(range(min = 0, max = 200))]
    pub temperature_percent: Option<i32>,
    /// Only the likeliest tokens that together have this share, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub top_p_percent: Option<i32>,
    /// Tokens of an answer at most, unless the task says less.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_tokens: i32,
    /// The same seed gives the same answer, where the engine can.
    #[schemars(range(min = 0, max = 2147483647))]
    pub seed: Option<i32>,
    /// Texts that end an answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 4),
        inner(length(min = 1, max = 256)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub stop: Vec<String>,
    /// Seconds after which a call is aborted: the attempt has failed.
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: i32,
    /// For how many seconds Ollama keeps the model in memory after a call.
    #[schemars(range(min = 1, max = 86400))]
    pub keep_alive_seconds: i32,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature_percent: None,
            top_p_percent: None,
            max_tokens: 2048,
            seed: None,
            stop: Vec::new(),
            timeout_seconds: 600,
            keep_alive_seconds: 300,
        }
    }
}

fn default_places() -> i32 {
    5
}

fn default_key() -> String {
    "systemPrompt".into()
}

/// The one word for how an expert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum ExpertState {
    /// It takes tasks.
    Available,
    /// No backend of its namespace serves its model.
    ModelMissing,
    /// What its system prompt refers to is not there.
    PromptMissing,
    SecretMissing,
    Suspended,
}

/// How the expert is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpertStatus {
    #[serde(flatten)]
    pub base: StatusBase<ExpertState>,
    /// The backends that serve its model, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(max = 253)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub backends: Vec<String>,
}
