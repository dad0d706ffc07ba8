//! What is done with tasks in the database: given in, assigned, claimed, ended, seen.
//!
//! A claim belongs to a lease, a row of its own that heartbeats move: one for each process and queue, so that they don't touch
//! tasks. A claim's epoch rises with each claim and with whatever takes it away, so what comes late changes nothing.
//!
//! Live tasks and ended ones are kept apart, so that what workers search stays small and history can be dropped by time.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::*;
use crate::tasks::{Assignment, Completion, NewTask, QueueKey, Task, TaskId};

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
    /// How many tasks there are of each kind, with those that ended in the last 24 hours, to ten minutes.
    async fn task_counts(&self) -> Result<Vec<TaskCount>, StoreError>;
    /// Pending tasks by what they could be waiting for.
    async fn waiting(&self) -> Result<Vec<WaitingGroup>, StoreError> {
        Ok(counts::waiting(self.task_counts().await?))
    }
    /// Live tasks by expert.
    async fn expert_loads(&self) -> Result<Vec<ExpertLoad>, StoreError> {
        Ok(counts::by_expert(self.task_counts().await?))
    }
    /// Whether tasks of these queues are due that take a slot.
    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError>;
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
