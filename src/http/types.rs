//! Bodies of requests and replies: JSON in camelCase.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    host::OperationStatus,
    platform,
    store::{Admission, JournalEntry, Leader, Observation, Suspension},
};

/// A resource as kubectl would show it, and what changes by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub api_version: String,
    pub kind: String,
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    #[schema(value_type = Object)]
    pub spec: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub status: Option<Map<String, Value>>,
    #[serde(default)]
    pub live: Live,
}

impl Item {
    pub fn name(&self) -> &str {
        self.metadata.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.metadata.get("namespace").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What is not in status because it changes by itself.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Live {
    /// Occupied slots of the backend's server, and the limit in force.
    pub slots_in_use: Option<i64>,
    pub limit: Option<i32>,
    /// `Closed`, `One` (at a time) or `Open`.
    pub admission: Option<String>,
    pub last_probe: Option<Check>,
    pub last_canary: Option<Check>,
    /// The last call that was served, in words as its verdict.
    pub last_served: Option<Check>,
    /// When an open call last received a byte.
    pub last_byte_at: Option<Timestamp>,
    /// Of a caller: calls that an engine was asked, and tokens, on this UTC day; when one of its calls last ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_today: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_today: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    /// A person suspended or resumed it, against its manifest.
    pub suspension: Option<SuspensionView>,
}

/// A probe or canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub at: Timestamp,
    pub verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SuspensionView {
    pub suspended: bool,
    pub by: String,
    pub at: Timestamp,
}

impl From<Suspension> for SuspensionView {
    fn from(Suspension { suspended, by, at }: Suspension) -> Self {
        Self { suspended, by, at }
    }
}

impl Live {
    pub(super) fn observed(&mut self, seen: &Observation) {
        let check = |at: Option<Timestamp>, verdict: &Option<String>, millis| {
            at.map(|at| Check { at, verdict: verdict.clone().unwrap_or_default(), millis })
        };
        self.last_probe = check(seen.probe_at, &seen.probe_verdict, seen.probe_millis);
        self.last_canary = check(seen.canary_at, &seen.canary_verdict, seen.canary_millis);
        self.last_served = check(seen.served_at, &seen.served_by, None);
    }
}

/// The word for an admission.
pub(super) fn admission_word(admission: Admission) -> &'static str {
    match admission {
        Admission::Closed => "Closed",
        Admission::One => "One",
        Admission::Open => "Open",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ItemList {
    /// The server's time, for ages.
    pub now: Timestamp,
    pub items: Vec<Item>,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderView {
    pub holder: String,
    pub epoch: i64,
    /// Seconds until the lease lapses unless it is renewed.
    pub expires_in_seconds: u64,
}

impl LeaderView {
    /// `None` when the lease has lapsed: nobody leads then.
    pub(super) fn of(leader: Leader) -> Option<Self> {
        (!leader.expires_in.is_zero()).then_some(Self {
            holder: leader.holder,
            epoch: leader.epoch,
            expires_in_seconds: leader.expires_in.as_secs(),
        })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub at: Timestamp,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    pub message: String,
}

impl From<JournalEntry> for Event {
    fn from(JournalEntry { at, about, warning, reason, message }: JournalEntry) -> Self {
        Self { at, kind: about.kind, namespace: about.namespace, name: about.name, warning, reason, message }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    pub now: Timestamp,
    /// Newest first.
    pub items: Vec<Event>,
}

/// Something in the folder of manifests that is not in force, or is ignored.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// It is not in force until it is mended; otherwise it is only ignored.
    pub error: bool,
    pub file: Option<String>,
    /// From 1; absent when the whole file is meant.
    pub line: Option<usize>,
    /// `LLMBackend default/ollama`
    pub about: Option<String>,
    /// `spec.models[0].name`
    pub field: Option<String>,
    pub message: String,
}

impl From<platform::PlatformProblem> for Problem {
    fn from(platform::PlatformProblem { severity, place, about, field, message }: platform::PlatformProblem) -> Self {
        let (file, line) = place.map_or((None, None), |p| (Some(p.file), Some(p.line).filter(|line| *line > 0)));
        Self { error: severity == platform::Severity::Error, file, line, about, field, message }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemList {
    pub items: Vec<Problem>,
}

/// What a change did, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    pub message: String,
}

/// Body of `POST /api/v1/pause`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PauseRequest {
    /// Seconds after which it ends by itself. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub for_seconds: Option<i64>,
}

/// Body of a stop or start of a service; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReasonRequest {
    /// Shown with the hold.
    #[schema(max_length = 1024)]
    pub reason: String,
}

/// An operation of a host agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationView {
    pub id: String,
    pub agent: String,
    pub service: String,
    /// `Start` or `Stop`.
    pub action: String,
    /// `Accepted`, `Running`, `Succeeded` or `Failed`.
    pub phase: String,
    pub finished: bool,
    /// What was done, or why it failed and what to do.
    pub message: String,
}

impl OperationView {
    pub(super) fn of(agent: &str, operation: OperationStatus) -> Self {
        use crate::host::Phase;
        Self {
            agent: agent.to_owned(),
            action: operation.action.as_str().to_owned(),
            phase: match operation.phase {
                Phase::Accepted => "Accepted",
                Phase::Running => "Running",
                Phase::Succeeded => "Succeeded",
                Phase::Failed => "Failed",
            }
            .to_owned(),
            finished: operation.phase.is_finished(),
            id: operation.id,
            service: operation.service,
            message: operation.message,
        }
    }
}
