//! Caller: who may call through the gateway, and how much.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{SecretRef, StatusBase, common::LINE};

/// Name of the Caller of programs that run beside a gateway and give no key.
pub const LOCAL_CALLER: &str = "local";

/// How urgent a caller's calls are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CallerClass {
    /// Somebody waits for the answer: before tasks.
    #[default]
    Interactive,
    /// As tasks.
    Batch,
}

/// Who may call through the gateway, and how much.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "Caller",
    plural = "callers",
    shortname = "cl",
    category = "ostler",
    namespaced,
    status = "CallerStatus",
    derive = "PartialEq",
    doc = "Who may call through the gateway, and how much.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last used", type_ = "date", json_path = ".status.lastUsedTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CallerSpec {
    /// Secrets, in the same namespace, whose key `key` is a key of this caller: one that `ostler callers create` made. Two while one
    /// replaces the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub secret_refs: Vec<SecretRef>,
    /// What is served for which names of models; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["match"]))]
    pub aliases: Vec<CallerAlias>,
    /// Aliases that it may ask for. Empty: all of its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), regex(pattern = LINE)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub models: Vec<String>,
    /// Interactive calls go before tasks; Batch calls share with them.
    #[serde(default)]
    pub class: CallerClass,
    /// Its part of the servers' time among callers of its class that wait: one of weight 20 gets twice that of one of weight 10.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: i32,
    /// Calls at once at most, at all gateways and servers together. Absent: as many as the servers take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_concurrent: Option<i32>,
    /// Tokens of one UTC day, of prompts and answers: once they are used, no call begins. Absent: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub tokens_per_day: Option<i64>,
    /// Its calls go to servers of this machine and its network only.
    #[serde(default)]
    pub local_only: bool,
    /// For how many seconds a call waits for a slot. Absent: 600 where its answer is streamed, else 240.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub max_wait_seconds: Option<i32>,
    /// The same request is answered with the same answer again, which no engine is asked for: only its own answers, to a request that is the
    /// same in all that matters, of the same model. Absent: every call is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<AnswerCache>,
    /// Its calls are refused, and those that run are ended.
    #[serde(default)]
    pub suspend: bool,
}

/// Answers that are given again to the same request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerCache {
    /// Seconds for which an answer is given again.
    #[schemars(range(min = 1, max = 2592000))]
    pub seconds: i32,
    /// Mebibytes of answers at most: the oldest are forgotten first.
    #[schemars(range(min = 1, max = 10240))]
    pub mebibytes: i32,
}

impl Default for AnswerCache {
    fn default() -> Self {
        Self { seconds: 3600, mebibytes: 64 }
    }
}

/// What is served for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallerAlias {
    /// The name of a model as it is asked for; `*` stands for any text: `claude-*`.
    #[serde(rename = "match")]
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub pattern: String,
    /// The alias that is served for it.
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub alias: String,
}

impl Default for CallerSpec {
    fn default() -> Self {
        Self {
            secret_refs: Vec::new(),
            aliases: Vec::new(),
            models: Vec::new(),
            class: CallerClass::default(),
            weight: default_weight(),
            max_concurrent: None,
            tokens_per_day: None,
            local_only: false,
            max_wait_seconds: None,
            cache: None,
            suspend: false,
        }
    }
}

const fn default_weight() -> i32 {
    10
}

/// The one word for how a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum CallerState {
    /// Its calls are served.
    Active,
    /// It has no key, or a Secret is not there.
    KeyMissing,
    /// What a Secret has is no key of a gateway.
    KeyInvalid,
    /// No backend of its namespace serves something that it names.
    ModelMissing,
    Suspended,
}

/// How the caller is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallerStatus {
    #[serde(flatten)]
    pub base: StatusBase<CallerState>,
    /// Keys by which it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub keys: Option<i32>,
    /// When one of its calls last ended, to the hour: the API has it to the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_time: Option<Time>,
    /// Calls of this UTC day that an engine was asked, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_000_i64))]
    pub calls_today: Option<i64>,
    /// Tokens of this UTC day, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_000_i64))]
    pub tokens_today: Option<i64>,
}

/// What a status tells of.
const MOST_COUNTED: i64 = 1_000_000_000_000_000;

impl CallerStatus {
    /// With what it used. What changes with each call is written only along with something else.
    #[must_use]
    pub fn used(self, at: Timestamp, calls: i64, tokens: i64) -> Self {
        let hour = Timestamp::from_second(at.as_second().div_euclid(3600) * 3600).unwrap_or(at);
        let bounded = |count: i64| Some(count.clamp(0, MOST_COUNTED));
        let (calls_today, tokens_today) = (bounded(calls), bounded(tokens));
        Self { last_used_time: Some(Time(hour)), calls_today, tokens_today, ..self }
    }
}
