//! LLMBackend: an inference server that is kept serving.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::{
    LLMBackendStatus, LocalRef, Mode, Model, SecretRef, Webhook, WorkloadRef,
    common::{LINE, SERVICE, URL},
};

/// The engine behind a URL; decides paths, rules and defaults.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Display, IntoStaticStr,
)]
pub enum EngineKind {
    Ollama,
    #[serde(rename = "MLX")]
    #[strum(serialize = "MLX")]
    Mlx,
    #[serde(rename = "OpenAI")]
    #[strum(serialize = "OpenAI")]
    OpenAi,
}

impl EngineKind {
    pub const ALL: [Self; 3] = [Self::Ollama, Self::Mlx, Self::OpenAi];

    /// As OpenTelemetry's conventions for generative AI write the names of providers.
    pub const fn gen_ai_name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Mlx => "mlx",
            Self::OpenAi => "openai",
        }
    }

    /// As manifests write it: `Ollama`, `MLX`, `OpenAI`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An inference server: where it is, what it serves, how it is judged, and what can restart it.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "LLMBackend",
    plural = "llmbackends",
    shortname = "llm",
    category = "ostler",
    namespaced,
    status = "LLMBackendStatus",
    derive = "PartialEq",
    doc = "An inference server that is kept serving.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Limit", type_ = "integer", json_path = ".status.effectiveLimit"),
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
    {"rule": "self.engine != 'MLX' || !has(self.concurrency.max) || self.concurrency.max <= 2 || self.concurrency.unsafeMax",
     "message": "MLX crashes under many requests at once: set concurrency.max to 2 or less, or set concurrency.unsafeMax: true", "fieldPath": ".concurrency"},
    {"rule": "!has(self.concurrency.max) || self.concurrency.min <= self.concurrency.max",
     "message": "concurrency.min is above concurrency.max: lower min or raise max", "fieldPath": ".concurrency"},
    {"rule": "self.engine == 'Ollama' || !has(self.models) || !self.models.exists(m, m.pull || m.preload)",
     "message": "only Ollama can pull or preload a model: remove pull and preload, or set engine: Ollama", "fieldPath": ".models"},
    {"rule": "!has(self.models) || self.models.all(m, self.models.exists_one(n, (has(n.alias) ? n.alias : n.name) == (has(m.alias) ? m.alias : m.name)))",
     "message": "two models of one server have the same alias: a task that asks for it must find one; set another alias", "fieldPath": ".models"},
    {"rule": "self.engine != 'Ollama' || !has(self.models) || self.models.all(m, !has(m.contextTokens) || (has(m.alias) ? m.alias : m.name).matches('^[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})?$'))",
     "message": "contextTokens needs an alias that Ollama takes as a name: letters, digits, '.', '_' and '-', and perhaps a tag after ':'; set another alias", "fieldPath": ".models"},
    {"rule": "self.canary.when != 'Always' || has(self.canary.model) || (has(self.models) && self.models.size() > 0)",
     "message": "canary.when: Always needs a model to ask: list one under models, or set canary.model", "fieldPath": ".canary"}
]))]
pub struct LLMBackendSpec {
    /// The engine that answers at the URL.
    pub engine: EngineKind,
    /// Where the server listens: http://127.0.0.1:11434. Paths of the engine's API are appended; credentials belong into
    /// authSecretRef.
    #[schemars(length(min = 8, max = 2048), regex(pattern = URL))]
    pub url: String,
    /// Secret whose key `token` is sent as a bearer token.
    pub auth_secret_ref: Option<SecretRef>,
    /// The models that this server is expected to serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub models: Vec<Model>,
    /// Which of several servers of one alias is used first: the lower number.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// How the server is asked whether it answers.
    #[serde(default)]
    pub probe: Probe,
    /// When and how a one-token inference proves that it serves.
    #[serde(default)]
    pub canary: Canary,
    /// After how many seconds without a byte of any open call, and without other signs of life, the server counts as hung.
    #[serde(default = "default_stall")]
    #[schemars(range(min = 1, max = 86400))]
    pub stall_seconds: i32,
    /// For how many seconds a server that is busy is left alone: it says 503, or works while nobody of ours gets an answer.
    #[serde(default = "default_busy_grace")]
    #[schemars(range(min = 1, max = 86400))]
    pub busy_grace_seconds: i32,
    /// How many calls at once.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// What can restart the server, and how often. Without it, nothing is restarted.
    pub recovery: Option<Recovery>,
    /// Enforce heals; Observe says what it would do.
    #[serde(default)]
    pub mode: Mode,
    /// Stops canaries, healing and new calls; probing goes on.
    #[serde(default)]
    pub suspend: bool,
}

/// How the server is asked whether it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// Paths to try in order, until one proves which models there are. Default: by engine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 256), regex(pattern = "^/[!-~]*$")))]
    pub paths: Vec<String>,
    /// Seconds between two probes; jittered.
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
    /// Seconds after which a probe has failed.
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,
    /// Failures in a row after which the server is down.
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
    /// Successes in a row after which it answers again.
    #[schemars(range(min = 1, max = 100))]
    pub success_threshold: i32,
    /// Seconds that a server which just started, or a model that is loaded, may take.
    #[schemars(range(min = 1, max = 86400))]
    pub startup_seconds: i32,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            period_seconds: 10,
            timeout_seconds: 2,
            failure_threshold: 3,
            success_threshold: 1,
            startup_seconds: 600,
        }
    }
}

/// When a canary is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CanaryWhen {
    /// While work waits, or ran in the last five minutes.
    #[default]
    Demand,
    /// Also without work.
    Always,
    /// Never: probes and models suffice.
    Never,
}

/// A one-token inference that proves that the server serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// When it is sent.
    pub when: CanaryWhen,
    /// The model to ask. Default: an expected one that is loaded, else the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub model: Option<String>,
    /// Seconds between two canaries.
    #[schemars(range(min = 1, max = 86400))]
    pub period_seconds: i32,
    /// Seconds after which it is aborted.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
}

impl Default for Canary {
    fn default() -> Self {
        Self { when: CanaryWhen::Demand, model: None, period_seconds: 60, timeout_seconds: 15 }
    }
}

/// What happens to work that does not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Overflow {
    /// It goes to another server of the same alias that accepts it, else it waits.
    #[default]
    Spill,
    /// It waits.
    Wait,
}

/// How many calls at once.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Concurrency {
    /// Calls at once at most. Default: MLX 2, Ollama 4, OpenAI 32.
    #[schemars(range(min = 1, max = 10000))]
    pub max: Option<i32>,
    /// The adaptive limit never goes below this.
    #[schemars(range(min = 1, max = 10000))]
    pub min: i32,
    /// Move the limit between min and max with time per token and errors.
    pub adaptive: bool,
    /// What happens to work that does not fit.
    pub overflow: Overflow,
    /// May other servers' overflow come here? Default: true, but false for OpenAI with authSecretRef.
    pub accept_spill: Option<bool>,
    /// Calls on one UTC day at most; canaries are not counted.
    #[schemars(range(min = 1, max = 100000000))]
    pub max_calls_per_day: Option<i32>,
    /// Allow MLX more than two calls at once.
    pub unsafe_max: bool,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            max: None,
            min: 1,
            adaptive: true,
            overflow: Overflow::Spill,
            accept_spill: None,
            max_calls_per_day: None,
            unsafe_max: false,
        }
    }
}

/// What can restart the server, and within which bounds.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.hostAgentRef), has(self.workloadRef), has(self.webhook)].filter(x, x).size() == 1",
     "message": "set exactly one of hostAgentRef, workloadRef and webhook"},
    {"rule": "has(self.hostAgentRef) == has(self.service)",
     "message": "hostAgentRef and service go together: name the service in the agent's file that runs this server"}
]))]
pub struct Recovery {
    /// The agent on the server's host.
    pub host_agent_ref: Option<LocalRef>,
    /// The service in that agent's file.
    #[schemars(length(min = 1, max = 63), regex(pattern = SERVICE))]
    pub service: Option<String>,
    /// The workload in the cluster that runs the server.
    pub workload_ref: Option<WorkloadRef>,
    /// Somebody's webhook that restarts the server.
    pub webhook: Option<Webhook>,
    /// Attempts in one episode, before a human is asked.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: i32,
    /// Longest wait between two attempts in seconds: 10 after the first one, doubling to this.
    #[serde(default = "default_recovery_period")]
    #[schemars(range(min = 1, max = 86400))]
    pub period_seconds: i32,
    /// Seconds of health after which attempts count anew.
    #[serde(default = "default_min_healthy")]
    #[schemars(range(min = 1, max = 86400))]
    pub min_healthy_seconds: i32,
    /// Attempts in 24 hours at most.
    #[serde(default = "default_max_per_day")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_per_day: i32,
    /// Seconds between two silent attempts after a human was asked.
    #[serde(default = "default_retry_deferred")]
    #[schemars(range(min = 1, max = 604800))]
    pub retry_deferred_seconds: i32,
}

fn default_priority() -> i32 {
    100
}
fn default_stall() -> i32 {
    60
}
fn default_busy_grace() -> i32 {
    1800
}
fn default_max_attempts() -> i32 {
    3
}
fn default_recovery_period() -> i32 {
    300
}
fn default_min_healthy() -> i32 {
    600
}
fn default_max_per_day() -> i32 {
    12
}
fn default_retry_deferred() -> i32 {
    3600
}

impl LLMBackendSpec {
    /// The greatest number of calls at once: as declared, else the engine's default.
    pub fn max_concurrency(&self) -> i32 {
        self.concurrency.max.unwrap_or(match self.engine {
            EngineKind::Mlx => 2,
            EngineKind::Ollama => 4,
            EngineKind::OpenAi => 32,
        })
    }

    /// Whether overflow of other servers may come here. An outage must not send private prompts to a paid cloud by itself.
    pub fn accepts_spill(&self) -> bool {
        let paid_cloud = self.engine == EngineKind::OpenAi && self.auth_secret_ref.is_some();
        self.concurrency.accept_spill.unwrap_or(!paid_cloud)
    }
}
