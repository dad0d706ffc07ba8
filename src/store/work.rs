//! Tasks in the database: given in, assigned, claimed, ended, seen.
//!
//! A claim belongs to a lease, a row of its own that heartbeats move: one for each process and queue, so that they don't touch
//! tasks. A claim's epoch rises with each claim and with whatever takes it away, so what comes late changes nothing.
//!
//! Live tasks and ended ones are kept apart, so that what workers search stays small and history can be dropped by time.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::tasks::{Assignment, ClaimedTask, Completion, NewTask, QueueKey, Task, TaskId, TaskState};

pub use crate::tasks::Unassigned;

use super::{CallEvidence, CallLife, Fence, Reapable, Slot, StoreError, is_storable};

/// A resource that workers need, as it is projected: an Expert, TaskQueue, WorkerPool or TaskSchedule.
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
        let bad = || format!("{text:?} is no cursor: write back one that an answer gave");
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

/// How many tasks of a queue are in which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueCounts {
    pub namespace: String,
    pub queue: String,
    pub pending: i64,
    /// Of those pending.
    pub unassigned: i64,
    pub in_progress: i64,
    pub deferred_to_human: i64,
    /// Ended in the last 24 hours.
    pub completed: i64,
    pub failed: i64,
    /// The oldest that is pending and due.
    pub oldest_pending: Option<Timestamp>,
    /// The one that has waited for a human for the longest.
    pub oldest_deferred: Option<Timestamp>,
}

/// Pending tasks that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
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
    pub oldest: Timestamp,
}

/// How many live tasks an expert has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// By the worker's clock, as are the times of `evidence`.
    #[serde(default)]
    pub reported_at: Timestamp,
}

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

/// Tasks as people and programs see and change them.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// By the database's clock, as are all times of tasks.
    async fn now(&self) -> Result<Timestamp, StoreError>;
    /// Inserts all or none, and tells whoever waits for work. A key that its queue has already gives the task that exists.
    /// An expert that is named is taken as it is; `assign` still gives it its model.
    async fn insert_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError>;
    /// Newest first.
    async fn tasks(&self, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError>;
    /// Tasks that came into the state they are in after `after`, oldest change first, `limit` of them: 1 to 1,000. Only what changed
    /// at least [`SETTLED`] ago by the database's clock: a transaction that began earlier may commit later, and whoever reads
    /// on from a cursor must not miss it. `brief`: without payload; else they may be fewer, where they are large.
    async fn task_changes(
        &self,
        filter: &TaskFilter,
        after: Option<TaskCursor>,
        limit: i64,
        brief: bool,
    ) -> Result<Vec<Task>, StoreError>;
    /// How many match.
    async fn count_tasks(&self, filter: &TaskFilter) -> Result<i64, StoreError>;
    /// One, whole.
    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError>;
    /// Carries a command out on all that match and that it applies to, at most `most` of them; returns their ids.
    async fn command_tasks(
        &self,
        filter: &TaskFilter,
        command: &TaskCommand,
        reason: &str,
        most: i64,
    ) -> Result<Vec<TaskId>, StoreError>;
    /// One row for each queue that has tasks, with those that ended in the last 24 hours.
    async fn queue_counts(&self) -> Result<Vec<QueueCounts>, StoreError>;
    /// The same of live tasks alone: history, which may be long, is not looked at.
    async fn live_counts(&self) -> Result<Vec<QueueCounts>, StoreError>;
    /// Pending tasks by what they could be waiting for.
    async fn waiting(&self) -> Result<Vec<WaitingGroup>, StoreError>;
    /// Whether tasks of these queues are due that take a slot.
    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError>;
    async fn expert_loads(&self) -> Result<Vec<ExpertLoad>, StoreError>;
    async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError>;
    /// Experts, queues, pools or schedules that are not gone.
    async fn declared(&self, kind: &str) -> Result<Vec<DeclaredRow>, StoreError>;
}

/// What only the leader does to tasks.
#[async_trait]
pub trait Dispatch: Send + Sync {
    /// Inserts or updates; writes nothing when nothing differs. For an expert it also moves its unstarted tasks to its new
    /// model, and takes them away from it when it is suspended.
    async fn project_declared(&self, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError>;
    /// Marks as gone what a complete listing lacks. A gone expert's unstarted tasks lose their assignment. Returns those newly marked.
    async fn sweep_declared(
        &self,
        fence: &Fence,
        kind: &str,
        complete: &[String],
    ) -> Result<Vec<DeclaredRow>, StoreError>;
    /// Pending tasks without an expert or without its model, oldest first, from above `after`.
    async fn unassigned(&self, after: TaskId, most: i64) -> Result<Vec<Unassigned>, StoreError>;
    /// Writes those that are still unassigned; returns how many.
    async fn assign(&self, fence: &Fence, assignments: &[Assignment]) -> Result<u64, StoreError>;
    /// Takes away what belongs to lapsed leases, and fails what is past its deadline. The caller asks its [`Patience`] first.
    ///
    /// [`Patience`]: super::Patience
    async fn reap_of(&self, fence: &Fence, reapable: &Reapable) -> Result<Reaped, StoreError>;
    /// The same for every queue.
    async fn reap(&self, fence: &Fence) -> Result<Reaped, StoreError> {
        self.reap_of(fence, &Reapable::All).await
    }
    /// In how long the next lease lapses or deadline passes; zero: something has. `None`: there is none.
    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError>;
    /// Drops ended tasks that are past their time, in bounded batches; makes room for the next days. Returns how many went.
    async fn retain(&self, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError>;
    /// Inserts the tasks of one run of a schedule, once. With `replaces` it begins to cancel, in the same transaction, the live tasks that
    /// were there before, as far as one transaction may.
    async fn fire(
        &self,
        fence: &Fence,
        schedule: &str,
        run: Timestamp,
        tasks: &[NewTask],
        replaces: Option<&Replaced>,
    ) -> Result<Fired, StoreError>;
    /// Goes on with what a run replaces; true when all of it is cancelled.
    async fn replace_more(
        &self,
        fence: &Fence,
        schedule: &str,
        run: Timestamp,
        replaces: &Replaced,
    ) -> Result<bool, StoreError>;
    /// The last run of each schedule, by uid, and whether it has yet to cancel tasks that it replaces.
    async fn last_runs(&self) -> Result<Vec<(String, Timestamp, bool)>, StoreError>;
}

/// What workers do.
#[async_trait]
pub trait Work: Send + Sync {
    /// Opened again by the same holder for the same queue it is the same lease, extended.
    async fn open_lease(&self, holder: &str, queue: &QueueKey, lease: Duration) -> Result<Lease, StoreError>;
    /// Extends them all; returns those that are lost, whose claims are somebody else's now.
    async fn renew_leases(&self, leases: &[(Lease, Duration)]) -> Result<Vec<Lease>, StoreError>;
    /// Ends a lease; what is still claimed under it is pending again at once, no attempt used.
    async fn close_lease(&self, lease: &Lease) -> Result<(), StoreError>;
    /// Whether tasks of these queues may be claimed, and when the next one of any queue is due. What is due by now is made claimable.
    async fn due(&self, queues: &[QueueKey]) -> Result<Due, StoreError>;
    async fn claim_free(&self, claim: &FreeClaim) -> Result<Vec<Claimed>, StoreError>;
    /// Slot and task in one transaction, or neither.
    async fn claim_slots(&self, claim: &SlotClaim) -> Result<SlotClaimAnswer, StoreError>;
    /// The next task for a slot that is held: `most` is one. The slot's lease and its call's end are moved from now.
    /// [`StoreError::Fenced`] when the slot was lost or aborted.
    async fn claim_next(&self, slot: &Slot, claim: &SlotClaim, life: CallLife) -> Result<Option<Claimed>, StoreError>;
    /// Gives a webhook's task a lease of its own, held by `task/ID`; once more extends it, which is its agent's heartbeat.
    /// [`StoreError::Fenced`] when the claim of this epoch is not in force any more.
    async fn hand_over(&self, task: TaskId, epoch: i64, lease: Duration) -> Result<Lease, StoreError>;
    /// Ends executions, many at once; says for each whether it changed anything.
    async fn complete(&self, completions: &[Completion]) -> Result<Vec<bool>, StoreError>;
    /// Of these claims (task and epoch), those that are not ours any more: cancelled, or taken away.
    async fn lost_claims(&self, claims: &[(TaskId, i64)]) -> Result<Vec<TaskId>, StoreError>;
    async fn report_worker(&self, report: &WorkerReport) -> Result<(), StoreError>;
    /// Forgets the report of a process that ends.
    async fn worker_left(&self, holder: &str) -> Result<(), StoreError>;
}
