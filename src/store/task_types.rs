//! Tasks, leases and workers as the database has them.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::tasks::{ClaimedTask, QueueKey, Task, TaskId, TaskState};

pub use crate::tasks::Unassigned;

use super::{CallEvidence, OpenCall, Slot, is_storable};

/// A resource that workers or gateways need, as it is projected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredRow {
    pub uid: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    pub labels: std::collections::BTreeMap<String, String>,
    /// The whole defaulted spec.
    pub spec: Value,
    /// By its manifest or by a person.
    pub suspended: bool,
    /// Why it holds what it has (a gate of `requires`); `None`: it does not.
    pub held: Option<String>,
}

/// A promise to come back: what was claimed under it is taken away once it has lapsed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    pub id: i64,
    /// The process that holds it, or `task/ID` for a webhook's.
    pub holder: String,
}

/// A task that is this worker's until its lease lapses.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    pub task: ClaimedTask,
    pub lease: Lease,
}

/// A queue that a worker serves, with its lease for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub queue: QueueKey,
    pub lease: Lease,
}

/// Claims tasks that take no slot (those of webhooks), as many as there are places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeClaim {
    /// Queues whose gates are open.
    pub queues: Vec<Served>,
    pub most: i32,
}

/// Claims slots of one server, and a task for each, or neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotClaim {
    pub queues: Vec<Served>,
    /// Unique for a process: the slots' holder.
    pub holder: String,
    pub server_url: String,
    /// The namespace and alias of what this server may be asked for now.
    pub models: Vec<(String, String)>,
    /// The model whose calls come first because it is in memory there.
    pub loaded: Option<(String, String)>,
    /// Tasks for `loaded` go before others that have waited at most so much longer and have no higher priority. Measured from
    /// one to the other: so in a long line, where all have waited for long, models don't alternate.
    pub affinity: Duration,
    pub most: i32,
    pub slot_lease: Duration,
    /// By when a call must have ended, from now.
    pub call_within: Duration,
}

/// What came of a [`SlotClaim`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotClaimAnswer {
    /// Each task with its slot. Fewer than asked for when either ran out.
    pub given: Vec<(Slot, Claimed)>,
    /// The server had no more slots, whether or not tasks wait.
    pub full: bool,
    /// The server gives none at all now.
    pub closed: bool,
    /// Its calls of this day are used up.
    pub spent: bool,
}

/// What there is to claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Tasks of the queues are due, assigned and not taken.
    pub now: bool,
    /// In how long the next task will be due that is not yet.
    pub next: Option<Duration>,
}

/// What people and programs do to tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskCommand {
    /// Live ones end as cancelled; a running one is aborted at its worker's next heartbeat.
    Cancel,
    /// Terminal ones become pending, in a new cycle.
    Retry,
    /// Deferred ones become pending, with all their attempts.
    Resume,
    /// Pending and deferred ones get this expert, and become pending.
    #[serde(rename_all = "camelCase")]
    Reassign { expert: String, model: Option<String> },
    /// Deferred ones end as failed.
    Close,
    /// Terminal ones are deleted, keys and all.
    Purge,
}

/// Which tasks. All that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskFilter {
    pub ids: Vec<TaskId>,
    pub namespace: Option<String>,
    pub queue: Option<String>,
    pub states: Vec<TaskState>,
    pub domain: Option<String>,
    pub role: Option<String>,
    pub expert: Option<String>,
    /// `Some(true)`: only those without an expert.
    pub unassigned: Option<bool>,
    pub key: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    /// Ended, or since in their state, at or after this.
    pub since: Option<Timestamp>,
    /// Ended, or since in their state, before this.
    pub until: Option<Timestamp>,
    /// Nobody asks for it through the API.
    #[serde(skip)]
    pub created_before: Option<Timestamp>,
}

/// A page of tasks: newest first, from below `before`. Whole ones may be fewer than asked for, where they are large; none: there are no
/// more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskPage {
    pub before: Option<TaskId>,
    /// 1 to 1,000.
    pub limit: i64,
    /// Without payload and result, for lists.
    pub brief: bool,
}

/// A place in the order in which tasks came into their states. It reads and writes as `TIME_ID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskCursor {
    pub at: Timestamp,
    pub id: TaskId,
}

impl TaskCursor {
    /// After this task's last change.
    pub fn of(task: &Task) -> Self {
        Self { at: task.state_since, id: task.id }
    }
}

impl std::fmt::Display for TaskCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.at, self.id)
    }
}

impl std::str::FromStr for TaskCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is an invalid cursor; use one returned by a previous response");
        let (at, id) = text.rsplit_once('_').ok_or_else(bad)?;
        let at = at.parse().ok().filter(|at| is_storable(*at)).ok_or_else(bad)?;
        Ok(Self { at, id: id.parse().map_err(|_| bad())? })
    }
}

/// What became of one inserted task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inserted {
    pub id: TaskId,
    /// A task with this key was there already; this is it.
    pub existed: bool,
}

/// How many tasks there are that have the same of all this. Of ended ones only queue and state are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCount {
    pub namespace: String,
    pub queue: String,
    pub state: TaskState,
    pub domain: String,
    pub role: String,
    pub expert: Option<String>,
    /// Where calls would go.
    pub model: Option<String>,
    pub is_assigned: bool,
    /// False: `run_after` is still to come.
    pub is_due: bool,
    pub count: i64,
}

/// How many tasks of a queue are in which state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueCounts {
    pub namespace: String,
    pub queue: String,
    pub pending: i64,
    /// Of those pending.
    pub unassigned: i64,
    pub in_progress: i64,
    pub deferred_to_human: i64,
    /// Ended in the last 24 hours, to ten minutes.
    pub completed: i64,
    pub failed: i64,
    /// The oldest that is pending and due.
    pub oldest_pending: Option<Timestamp>,
    /// The one that has waited for a human for the longest.
    pub oldest_deferred: Option<Timestamp>,
}

impl QueueCounts {
    /// Of a queue without tasks.
    pub fn none(namespace: &str, queue: &str) -> Self {
        Self { namespace: namespace.to_owned(), queue: queue.to_owned(), ..Self::default() }
    }
}

/// Pending tasks that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingGroup {
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    pub expert: Option<String>,
    /// Where calls would go.
    pub model: Option<String>,
    /// False: `run_after` is still to come.
    pub due: bool,
    pub count: i64,
}

/// How many live tasks an expert has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpertLoad {
    pub namespace: String,
    pub expert: String,
    pub pending: i64,
    pub in_progress: i64,
}

/// A worker process as it reports itself, every few seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerReport {
    /// Unique for a process.
    pub holder: String,
    pub namespace: String,
    pub pool: String,
    /// The pod, or the machine.
    pub host: String,
    pub in_flight: i32,
    pub effective_concurrency: i32,
    /// What keeps it from doing more: `Concurrency`, `Cpu`, `Memory`, `Disk`, `Backends`, `Tasks`, `Draining`.
    pub limited_by: String,
    pub draining: bool,
    /// For each server and model, what its calls were like since the last report.
    pub calls: Vec<CallStats>,
    /// What its calls showed of servers: a state, which each report repeats.
    #[serde(default)]
    pub evidence: Vec<CallEvidence>,
    /// Of a gateway: the calls that are open, the oldest first, at most [`MOST_OPEN_CALLS`].
    #[serde(default)]
    pub open_calls: Vec<OpenCall>,
    /// By the worker's clock, as are the times of `evidence`.
    #[serde(default)]
    pub reported_at: Timestamp,
}

/// How many open calls a report tells of.
pub const MOST_OPEN_CALLS: usize = 500;

/// Calls for one model of one server over a few seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallStats {
    pub server_url: String,
    /// The server's own name for it: each has its own pace.
    pub model: String,
    /// Those that ended, with the errors.
    pub calls: i64,
    /// Those whose failure is evidence against the server.
    pub errors: i64,
    pub tokens: i64,
    /// Time that these tokens took, loading excluded, in milliseconds.
    pub token_millis: i64,
}

/// A report and how old it is by the database's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerRow {
    pub report: WorkerReport,
    pub age: Duration,
}

/// What the reaper did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    pub leases: u64,
    /// Back to pending.
    pub requeued: u64,
    /// To a human, for having lost too many.
    pub deferred: u64,
    /// Pending past their deadline: failed.
    pub expired: u64,
}

impl std::ops::AddAssign for Reaped {
    fn add_assign(&mut self, other: Self) {
        let Self { leases, requeued, deferred, expired } = other;
        self.leases += leases;
        self.requeued += requeued;
        self.deferred += deferred;
        self.expired += expired;
    }
}

/// What a run of a schedule replaces.
#[derive(Clone, Debug, PartialEq)]
pub struct Replaced {
    /// The schedule's tasks. Those of the run itself are never among them.
    pub filter: TaskFilter,
    pub reason: String,
}

/// What came of a run of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// This run was fired before: nothing was done.
    Before,
    /// Its tasks are in.
    Now {
        /// What it replaces is cancelled; else [`Dispatch::replace_more`] goes on.
        replaced: bool,
    },
}

/// How long ended tasks of a queue are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `None`: every queue that is not named.
    pub queue: Option<QueueKey>,
    pub completed: Duration,
    pub failed: Duration,
}

/// See [`Tasks::task_changes`].
pub const SETTLED: Duration = Duration::from_secs(1);
