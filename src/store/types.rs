//! What goes into the database and comes out of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

use super::{CallerLimit, SlotCaller};
pub use crate::api::ObjectKey as ResourceKey;
use crate::tasks::{
    route::CallsOfDay,
    share::{CallClass, USUAL_WEIGHT},
};

/// What can go wrong with a database.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// The database can't be reached, or does not answer. What cannot be recorded is not done.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The lead or the slot was lost: somebody else has it, or its lease lapsed.
    #[error("no longer ours: {0}")]
    Fenced(String),
    /// The schema is newer than this binary.
    #[error("the database's schema has version {found}, this ostler knows {known}: install a newer ostler")]
    NewerSchema { found: i64, known: i64 },
    /// The schema is not there or older: `ostler migrate` was not run.
    #[error("the database's schema has version {found}, this ostler needs {known}: run `ostler migrate`")]
    OlderSchema { found: i64, known: i64 },
    /// The database belongs to another installation.
    #[error(
        "the database belongs to installation {found}, not {expected}: give this one a schema of its own, or adopt it with `ostler migrate --adopt`"
    )]
    OtherInstallation { found: Uuid, expected: Uuid },
    /// Somebody else holds the data folder.
    #[error("{0}")]
    Locked(String),
    /// What was to be written is refused for what it is: by an encoding, a type's range, a constraint, or somebody's trigger.
    /// The same again is refused again.
    #[error("the database refuses this: {0}")]
    Refused(String),
    /// The database can't be used as it is set up. The text says how to mend that.
    #[error("{0}")]
    Unfit(String),
    /// A row that can't be read, or a statement that is refused: a defect, or somebody changed the database by hand.
    #[error("the database refused or holds something unexpected: {0}")]
    Broken(String),
}

/// What an error means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreClass {
    /// It ends without a change of what was asked: again, later.
    Passing,
    /// The lead or the slot is somebody else's.
    Lost,
    /// It is about what was to be written: the same again fails again, something else does not.
    Refusal,
    /// Nothing works until a person mends something.
    Person,
}

impl StoreError {
    /// Each variant is named, so that a new one is a decision.
    pub const fn class(&self) -> StoreClass {
        match self {
            Self::Unavailable(_) => StoreClass::Passing,
            Self::Fenced(_) => StoreClass::Lost,
            Self::Refused(_) => StoreClass::Refusal,
            Self::NewerSchema { .. }
            | Self::OlderSchema { .. }
            | Self::OtherInstallation { .. }
            | Self::Locked(_)
            | Self::Unfit(_)
            | Self::Broken(_) => StoreClass::Person,
        }
    }
}

/// Proof of leadership that every write of a leader carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Who leads: unique for a process.
    pub holder: String,
    /// Rises with every change of leader.
    pub epoch: i64,
}

/// Who leads now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leader {
    pub holder: String,
    pub epoch: i64,
    /// Time until the lease lapses; zero when it has.
    pub expires_in: Duration,
}

/// Whether a backend's server gives slots to calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// None; only a proving canary gets one.
    Closed,
    /// One at a time, until a call succeeds: its last verdict is stale.
    One,
    /// As many as its limit.
    Open,
}

/// A backend as workers need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    /// `Ollama`, `MLX` or `OpenAI`.
    pub engine: String,
    /// As declared.
    pub url: String,
    /// Normalized: the key of the server's row.
    pub server_url: String,
    pub priority: i32,
    /// The whole defaulted spec.
    pub spec: serde_json::Value,
    /// `status.state`, and the reason of `Ready`.
    pub state: String,
    pub reason: String,
    pub ready: bool,
    /// Since when `ready` has had this value.
    pub ready_since: Option<Timestamp>,
}

/// The last probe and canary of a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    pub probe_at: Option<Timestamp>,
    /// One word, such as `Refused` or `Models`.
    pub probe_verdict: Option<String>,
    pub probe_millis: Option<i64>,
    pub canary_at: Option<Timestamp>,
    pub canary_verdict: Option<String>,
    pub canary_millis: Option<i64>,
    /// When a call was last served, and which in words.
    pub served_at: Option<Timestamp>,
    pub served_by: Option<String>,
}

/// A server whose slots are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerRow {
    /// Normalized URL.
    pub url: String,
    pub limit: i32,
    pub admission: Admission,
    /// The process that listens there, as the agent reports it (`pid@start`); `None` without an agent.
    pub instance: Option<String>,
    /// Calls that may begin on one UTC day; canaries are not counted. `None`: any number.
    pub calls_per_day: Option<i32>,
}

/// A server as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNow {
    pub row: ServerRow,
    /// How many of its slots are occupied.
    pub occupied: i64,
    /// What it may still be called today; `None`: that is not limited.
    pub today: Option<CallsOfDay>,
    /// Slots that interactive calls have, or gave back a moment ago.
    pub interactive: i64,
}

/// Calls of a process that wait for a slot of a server, by class and caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotWait {
    pub server_url: String,
    pub class: CallClass,
    /// Of the gateway's calls, see [`super::caller_id`]; empty: tasks.
    pub caller: String,
    pub weight: i32,
    pub calls: i64,
}

impl SlotWait {
    /// Tasks of a worker.
    pub fn of_tasks(server_url: &str) -> Self {
        let (caller, weight) = (String::new(), USUAL_WEIGHT);
        Self { server_url: server_url.to_owned(), class: CallClass::Batch, caller, weight, calls: 1 }
    }
}

/// What a slot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotPurpose {
    /// A call of a task or of the gateway: needs an open server.
    Call,
    /// A proving inference: also on a closed server, but only while no other slot is occupied.
    Canary,
}

/// Asks for a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    pub server_url: String,
    /// Unique for a process.
    pub holder: String,
    pub purpose: SlotPurpose,
    /// Whose call it is; `None`: it stands in no line, as canaries don't.
    pub class: Option<CallClass>,
    /// `None`: a task's, or a canary.
    pub caller: Option<SlotCaller>,
    pub model: Option<String>,
    pub lease: Duration,
    /// By when the call must have ended, from now: bounded tokens and seconds.
    pub call_within: Duration,
}

/// A slot that was given.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Slot {
    pub server_url: String,
    /// Row number.
    pub number: i64,
    pub holder: String,
    /// Rises each time that this row is given.
    pub epoch: i64,
}

/// The call that runs in a slot now, by its holder's clock. Times that are in the future count as now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallLife {
    /// When it was sent; `None`: no call runs.
    pub began_at: Option<Timestamp>,
    /// Its last byte, keepalive comments included; `None` until its first one.
    pub last_byte_at: Option<Timestamp>,
    /// The server goes on with it when its client is gone: MLX reads a prompt to its end.
    pub outlives_client: bool,
    /// It must have ended in so long from now, or later where that was said before; `None`: as was said when the slot was taken.
    pub may_last: Option<Duration>,
}

/// Answer to a [`SlotRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotAnswer {
    Given(Slot),
    /// As many occupied as the limit in force (for a canary: any at all), or the free ones are for others.
    Full {
        occupied: i64,
        limit: i32,
    },
    /// The server's admission is closed, or nobody declared it.
    Closed,
    /// It may not be called again today.
    Spent,
    /// Whoever asks has reached a limit of its own.
    Limited(CallerLimit),
}

/// An occupied slot. Its times are by the reader's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotRow {
    pub number: i64,
    pub holder: String,
    pub epoch: i64,
    pub purpose: SlotPurpose,
    pub model: Option<String>,
    pub taken_at: Timestamp,
    pub lease_expires_at: Timestamp,
    pub call_ends_at: Timestamp,
    /// When the call that runs now was sent; `None` between calls, and before the first one.
    pub call_began_at: Option<Timestamp>,
    /// The last byte of that call, keepalive comments included; `None` until its first one.
    pub last_byte_at: Option<Timestamp>,
    pub instance: Option<String>,
    pub aborted: bool,
}

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalEntry {
    pub at: Timestamp,
    #[serde(flatten)]
    pub about: ResourceKey,
    /// `Warning` or `Normal`, as Kubernetes' events have it.
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

/// Which entries to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFilter {
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub since: Option<Timestamp>,
    /// At most this many; 0 means 1,000.
    pub limit: u32,
}

/// Nothing acts until it ends; tasks go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    pub since: Timestamp,
    /// `None`: until somebody ends it.
    pub until: Option<Timestamp>,
    pub by: String,
}

/// A resource suspended (or resumed, against its manifest) by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    pub suspended: bool,
    pub by: String,
    pub at: Timestamp,
}

/// Everything that people set outside of manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlSet {
    pub pause: Option<Pause>,
    pub suspended: Vec<(ResourceKey, Suspension)>,
    /// The last token of `request_reconcile` of each resource.
    pub reconcile_requested: Vec<(ResourceKey, String)>,
}

/// What is kept about a resource of the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalObject {
    pub key: ResourceKey,
    pub uid: String,
    pub generation: i64,
    /// Rises with every change of spec or status.
    pub resource_version: i64,
    pub created_at: Timestamp,
    /// The defaulted manifest as it was last applied (without status).
    pub manifest: serde_json::Value,
    pub status: Option<serde_json::Value>,
}
