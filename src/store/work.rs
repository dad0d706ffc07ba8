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

store_traits! {
    /// Tasks as people and programs see and change them.
    Tasks {
        /// By the database's clock, as are all times of tasks.
        fn now() -> Timestamp;
        /// Inserts all or none, and tells whoever waits for work. A key that its queue has already gives the task that exists.
        /// An expert that is named is taken as it is; `assign` still gives it its model.
        fn insert_tasks(tasks: &[NewTask]) -> Vec<Inserted>;
        /// Newest first.
        fn tasks(filter: &TaskFilter, page: &TaskPage) -> Vec<Task>;
        /// Tasks that came into the state they are in after `after`, oldest change first, `limit` of them: 1 to 1,000. Only what changed
        /// at least [`SETTLED`] ago by the database's clock: a transaction that began earlier may commit later, and whoever reads
        /// on from a cursor must not miss it. `brief`: without payload; else they may be fewer, where they are large.
        fn task_changes(filter: &TaskFilter, after: Option<TaskCursor>, limit: i64, brief: bool) -> Vec<Task>;
        /// How many match.
        fn count_tasks(filter: &TaskFilter) -> i64;
        /// Carries a command out on all that match and that it applies to, at most `most` of them; returns their ids.
        fn command_tasks(filter: &TaskFilter, command: &TaskCommand, reason: &str, most: i64) -> Vec<TaskId>;
        /// One row for each queue that has tasks, with those that ended in the last 24 hours.
        fn queue_counts() -> Vec<QueueCounts>;
        /// How many tasks there are of each kind, with those that ended in the last 24 hours, to ten minutes.
        fn task_counts() -> Vec<TaskCount>;
        /// Whether tasks of these queues are due that take a slot.
        fn slots_wanted(queues: &[QueueKey]) -> bool;
        fn workers() -> Vec<WorkerRow>;
        default {
            /// One, whole.
            async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
                let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
                Ok(self.tasks(&filter, &TaskPage { limit: 1, ..TaskPage::default() }).await?.pop())
            }
            /// Pending tasks by what they could be waiting for.
            async fn waiting(&self) -> Result<Vec<WaitingGroup>, StoreError> {
                Ok(counts::waiting(self.task_counts().await?))
            }
            /// Live tasks by expert.
            async fn expert_loads(&self) -> Result<Vec<ExpertLoad>, StoreError> {
                Ok(counts::by_expert(self.task_counts().await?))
            }
        }
    }

    /// What only the leader does to tasks.
    Dispatch {
        /// Pending tasks without an expert or without its model, oldest first, from above `after`.
        fn unassigned(after: TaskId, most: i64) -> Vec<Unassigned>;
        /// Writes those that are still unassigned; returns how many.
        fn assign(fence: &Fence, assignments: &[Assignment]) -> u64;
        /// Takes away what belongs to lapsed leases, and fails what is past its deadline. The caller asks its [`Patience`] first.
        ///
        /// [`Patience`]: super::Patience
        fn reap_of(fence: &Fence, reapable: &Reapable) -> Reaped;
        /// In how long the next lease lapses or deadline passes; zero: something has. `None`: there is none.
        fn next_lapse() -> Option<Duration>;
        /// Drops ended tasks that are past their time, in bounded batches; makes room for the next days. Returns how many went.
        fn retain(fence: &Fence, retention: &[Retention]) -> u64;
        /// Inserts the tasks of one run of a schedule, once. With `replaces` it begins to cancel, in the same transaction, the live tasks that
        /// were there before, as far as one transaction may.
        fn fire(fence: &Fence, schedule: &str, run: Timestamp, tasks: &[NewTask], replaces: Option<&Replaced>) -> Fired;
        /// Goes on with what a run replaces; true when all of it is cancelled.
        fn replace_more(fence: &Fence, schedule: &str, run: Timestamp, replaces: &Replaced) -> bool;
        /// The last run of each schedule, by uid, and whether it has yet to cancel tasks that it replaces.
        fn last_runs() -> Vec<(String, Timestamp, bool)>;
        default {
            /// The same for every queue.
            async fn reap(&self, fence: &Fence) -> Result<Reaped, StoreError> {
                self.reap_of(fence, &Reapable::All).await
            }
        }
    }

    /// What workers do.
    Work {
        /// Opened again by the same holder for the same queue it is the same lease, extended.
        fn open_lease(holder: &str, queue: &QueueKey, lease: Duration) -> Lease;
        /// Extends them all; returns those that are lost, whose claims are somebody else's now.
        fn renew_leases(leases: &[(Lease, Duration)]) -> Vec<Lease>;
        /// Ends a lease; what is still claimed under it is pending again at once, no attempt used.
        fn close_lease(lease: &Lease) -> ();
        /// Whether tasks of these queues may be claimed, and when the next one of any queue is due. What is due by now is made claimable.
        fn due(queues: &[QueueKey]) -> Due;
        fn claim_free(claim: &FreeClaim) -> Vec<Claimed>;
        /// Slot and task in one transaction, or neither.
        fn claim_slots(claim: &SlotClaim) -> SlotClaimAnswer;
        /// The next task for a slot that is held: `most` is one. The slot's lease and its call's end are moved from now.
        /// [`StoreError::Fenced`] when the slot was lost or aborted.
        fn claim_next(slot: &Slot, claim: &SlotClaim, life: CallLife) -> Option<Claimed>;
        /// Gives a webhook's task a lease of its own, held by `task/ID`; once more extends it, which is its agent's heartbeat.
        /// [`StoreError::Fenced`] when the claim of this epoch is not in force any more.
        fn hand_over(task: TaskId, epoch: i64, lease: Duration) -> Lease;
        /// Ends executions, many at once; says for each whether it changed anything.
        fn complete(completions: &[Completion]) -> Vec<bool>;
        /// Of these claims (task and epoch), those that are not ours any more: cancelled, or taken away.
        fn lost_claims(claims: &[(TaskId, i64)]) -> Vec<TaskId>;
        fn report_worker(report: &WorkerReport) -> ();
        /// Forgets the report of a process that ends.
        fn worker_left(holder: &str) -> ();
    }
}
