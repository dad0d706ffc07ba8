//! TaskSchedule: tasks that come by the clock.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strum::IntoStaticStr;

use super::{
    LabelSelector, LocalRef, Mode, Requirement, StatusBase,
    common::{LINE, NAME, ZONE},
};

/// Annotation that fires a schedule once, now; its value is echoed in `status.lastHandledRunAt`.
pub const RUN_REQUESTED_AT: &str = "ostler.dev/run-requested-at";
/// Under this kind a person's `run` of a schedule is kept in the store, where manifests are a folder.
pub const RUN_CONTROL: &str = "TaskScheduleRun";

/// One field of cron: a list of values, ranges and steps (`5`, `1-5`, `*/10`, `1-30/5`), or what is only this field's. Names are
/// spelled out: `(?i)` would admit signs such as the Kelvin for a k.
macro_rules! field {
    ($value:expr) => {
        field!($value, $value)
    };
    ($value:expr, $single:expr) => {
        concat!(
            "([*]|",
            field!(@one $value, $single),
            "(,",
            field!(@one $value, $single),
            ")*)"
        )
    };
    (@one $value:expr, $single:expr) => {
        concat!("([*]/[1-9][0-9]?|(", $value, ")-(", $value, ")(/[1-9][0-9]?)?|", $single, ")")
    };
}

macro_rules! minute {
    () => {
        "[0-5]?[0-9]"
    };
}
macro_rules! hour {
    () => {
        "[01]?[0-9]|2[0-3]"
    };
}
macro_rules! day {
    () => {
        "0?[1-9]|[12][0-9]|3[01]"
    };
}
macro_rules! month {
    () => {
        concat!(
            "0?[1-9]|1[0-2]|",
            "[jJ][aA][nN]|[fF][eE][bB]|[mM][aA][rR]|[aA][pP][rR]|[mM][aA][yY]|[jJ][uU][nN]|",
            "[jJ][uU][lL]|[aA][uU][gG]|[sS][eE][pP]|[oO][cC][tT]|[nN][oO][vV]|[dD][eE][cC]"
        )
    };
}
macro_rules! weekday {
    () => {
        "[0-7]|[sS][uU][nN]|[mM][oO][nN]|[tT][uU][eE]|[wW][eE][dD]|[tT][hH][uU]|[fF][rR][iI]|[sS][aA][tT]"
    };
}

macro_rules! cron {
    () => {
        concat!(
            "^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|",
            field!(minute!()),
            " +",
            field!(hour!()),
            " +([?]|",
            field!(day!(), concat!("(", day!(), ")[wW]?|[lL][wW]?")),
            ") +",
            field!(month!()),
            " +([?]|",
            field!(weekday!(), concat!("(", weekday!(), ")([lL]|#[1-5])?")),
            "))$"
        )
    };
}

/// Ranges of cron that go backwards (`5-1`, `fri-mon`): CEL has no numbers of texts, so all of them are listed. Sunday is 0 where a
/// range begins and 7 where it ends.
macro_rules! backwards {
    () => {
        concat!(
            "(^|[ ,])(",
            // 5-1, 05-1
            "0?(1-0?0|2-0?[01]|3-0?[0-2]|4-0?[0-3]|5-0?[0-4]|6-0?[0-5]|7-0?[0-6]|8-0?[0-7]|9-0?[0-8])|",
            // 30-5
            "[1-5][0-9]-0?[0-9]|",
            // 30-20
            "(2[0-9]-1|3[0-9]-[12]|4[0-9]-[1-3]|5[0-9]-[1-4])[0-9]|",
            // 31-30
            same_tens!("1"),
            "|",
            same_tens!("2"),
            "|",
            same_tens!("3"),
            "|",
            same_tens!("4"),
            "|",
            same_tens!("5"),
            "|",
            "(?i:",
            "(mon|0?1)-0?0|(tue|0?2)-(mon|0?[01])|(wed|0?3)-(mon|tue|0?[0-2])|(thu|0?4)-(mon|tue|wed|0?[0-3])|",
            "(fri|0?5)-(mon|tue|wed|thu|0?[0-4])|(sat|0?6)-(mon|tue|wed|thu|fri|0?[0-5])|7-(mon|tue|wed|thu|fri|sat)|",
            "(feb|0?2)-(jan|0?1)|(mar|0?3)-(jan|feb|0?[12])|(apr|0?4)-(jan|feb|mar|0?[1-3])|",
            "(may|0?5)-(jan|feb|mar|apr|0?[1-4])|(jun|0?6)-(jan|feb|mar|apr|may|0?[1-5])|",
            "(jul|0?7)-(jan|feb|mar|apr|may|jun|0?[1-6])|(aug|0?8)-(jan|feb|mar|apr|may|jun|jul|0?[1-7])|",
            "(sep|0?9)-(jan|feb|mar|apr|may|jun|jul|aug|0?[1-8])|",
            "(oct|10)-(jan|feb|mar|apr|may|jun|jul|aug|sep|0?[1-9])|",
            "(nov|11)-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|0?[1-9]|10)|",
            "(dec|12)-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|0?[1-9]|1[01])",
            ")",
            ")($|[ ,/])"
        )
    };
}
macro_rules! same_tens {
    ($t:literal) => {
        concat!(
            $t, "(1-", $t, "0|2-", $t, "[01]|3-", $t, "[0-2]|4-", $t, "[0-3]|5-", $t, "[0-4]|6-", $t, "[0-5]|7-", $t,
            "[0-6]|8-", $t, "[0-7]|9-", $t, "[0-8])"
        )
    };
}

/// The grammar of schedules: five fields of cron, or a word for the usual ones. Whatever it admits can be read, unless a range goes
/// [`BACKWARDS`] or the day never comes.
#[cfg(test)]
pub const CRON: &str = cron!();
#[cfg(test)]
pub const BACKWARDS: &str = backwards!();
const CRON_RULE: &str = concat!("self.schedule.matches('", cron!(), "')");
const BACKWARDS_RULE: &str = concat!("!self.schedule.matches('", backwards!(), "')");

/// Tasks that come by the clock.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "TaskSchedule",
    plural = "taskschedules",
    shortname = "ts",
    category = "ostler",
    namespaced,
    status = "TaskScheduleStatus",
    derive = "PartialEq",
    doc = "Tasks that come by the clock.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRunTime"),
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
    {"rule": CRON_RULE,
     "message": "schedule can't be read: set it to minute, hour, day of month, month and day of week, as cron has them (0 3 * * mon-fri), or to one of @yearly, @monthly, @weekly, @daily, @midnight and @hourly",
     "fieldPath": ".schedule"},
    {"rule": BACKWARDS_RULE,
     "message": "a range of schedule goes backwards: set two, such as 22-23,0-5 instead of 22-5", "fieldPath": ".schedule"},
    {"rule": "!has(self.forEachExpert) || !has(self.task.expert)",
     "message": "forEachExpert gives each expert its own task: remove task.expert, or remove forEachExpert", "fieldPath": ".task"}
]))]
pub struct TaskScheduleSpec {
    /// The queue that its tasks come into.
    pub queue_ref: LocalRef,
    /// When: minute, hour, day of month, month and day of week, as cron has them (`0 3 * * *`), or `@daily` and the like.
    #[schemars(length(min = 1, max = 256))]
    pub schedule: String,
    /// Where that time is told. A local time that is skipped runs at the next valid minute, a repeated one once.
    #[serde(default = "default_zone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = ZONE))]
    pub time_zone: String,
    /// What is to be done.
    pub task: TaskTemplate,
    /// One task for each expert that this selects (`{}`: all), assigned to it. Absent: one task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each_expert: Option<LabelSelector>,
    /// What must hold for it to fire: until then a run waits, within missedRunDeadlineSeconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub requires: Vec<Requirement>,
    /// What happens when tasks of its last run have not ended.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Runs that were missed not longer ago than this are made up for by one run.
    #[serde(default = "default_missed")]
    #[schemars(range(min = 1, max = 31536000))]
    pub missed_run_deadline_seconds: i32,
    /// Enforce inserts tasks; Observe says when it would.
    #[serde(default)]
    pub mode: Mode,
    /// It does not fire. What it misses while suspended is not made up for.
    #[serde(default)]
    pub suspend: bool,
}

/// What happens when tasks of the last run have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// It fires all the same.
    #[default]
    Allow,
    /// This run is left out.
    Forbid,
    /// They are cancelled, and it fires.
    Replace,
}

/// A task that a schedule inserts. The names are those of `ostler tasks add`.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.prompt), has(self.messages), has(self.input), has(self.data)].filter(x, x).size() == 1",
     "message": "a task has one content: set exactly one of prompt, messages, input and data", "fieldPath": ".prompt"}
]))]
pub struct TaskTemplate {
    /// Its field. Absent with forEachExpert: each expert's first.
    #[schemars(length(min = 1, max = 63), regex(pattern = LINE))]
    pub domain: Option<String>,
    /// Who is to do it.
    #[schemars(length(min = 1, max = 63), regex(pattern = LINE))]
    pub role: Option<String>,
    /// One message of the user.
    #[schemars(length(min = 1, max = 262144))]
    pub prompt: Option<String>,
    /// A whole conversation.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub messages: Option<Vec<ScheduledMessage>>,
    /// Texts to embed.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 65536)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub input: Option<Vec<String>>,
    /// Whatever the webhook of its expert understands.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub data: Option<Map<String, Value>>,
    /// JSON Schema that the answer must match.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub schema: Option<Map<String, Value>>,
    /// Tokens of the answer at most.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_tokens: Option<i32>,
    /// Alias of the model; absent: its expert's.
    #[schemars(length(min = 1, max = 253), regex(pattern = LINE))]
    pub model: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// Name of the expert that does it; absent: assigned like any other.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub expert: Option<String>,
    /// Seconds after which it fails; absent: as its queue has it.
    #[schemars(range(min = 1, max = 31536000))]
    pub deadline_seconds: Option<i32>,
    /// Labels that its tasks carry, beside that of the schedule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 253}))]
    pub labels: BTreeMap<String, String>,
}

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledMessage {
    /// system, user or assistant.
    #[schemars(length(min = 4, max = 9), regex(pattern = "^(system|user|assistant)$"))]
    pub role: String,
    /// Its text.
    #[schemars(length(min = 1, max = 262144))]
    pub content: String,
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn default_zone() -> String {
    "UTC".into()
}

fn default_missed() -> i32 {
    43_200
}

/// The one word for how a schedule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum TaskScheduleState {
    /// It waits for its time.
    Scheduled,
    /// Its time has come, and it waits for what it requires.
    Held,
    /// Its queue is not there.
    QueueMissing,
    /// It selects no expert, or its expert is not there.
    ExpertMissing,
    /// Its schedule or time zone can't be read, or never comes.
    InvalidSchedule,
    Suspended,
}

/// How the schedule is.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskScheduleStatus {
    #[serde(flatten)]
    pub base: StatusBase<TaskScheduleState>,
    /// The last value of the run-requested-at annotation that was acted on.
    #[schemars(length(max = 253))]
    pub last_handled_run_at: Option<String>,
    /// When it last fired: the time that was due.
    pub last_run_time: Option<Time>,
    /// How many tasks that run inserted.
    #[schemars(range(min = 0, max = 100000))]
    pub last_run_tasks: Option<i32>,
    /// When it fires next.
    pub next_run_time: Option<Time>,
}
