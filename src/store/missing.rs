//! Tasks in a store that does not keep them yet.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::*;
use crate::tasks::{Assignment, Completion, NewTask, QueueKey, Task, TaskId};

macro_rules! not_in {
    ($store:ty: $($of:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)* $(wait $wait:ident($most:ident: $time:ty);)? })*) => {
        $(#[async_trait]
        impl $of for $store {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
                $(let _ = $arg;)*
                Err(StoreError::Broken(concat!(stringify!($name), ": tasks are not in this store yet").to_owned()))
            })*
            $(async fn $wait(&self, $most: $time) {
                tokio::time::sleep($most).await;
            })?
        })*
    };
}

macro_rules! without_tasks {
    ($store:ty) => {
        not_in! { $store:
        Tasks {
            fn insert_tasks(tasks: &[NewTask]) -> Vec<Inserted>;
            fn tasks(filter: &TaskFilter, page: &TaskPage) -> Vec<Task>;
            fn task(id: TaskId) -> Option<Task>;
            fn task_changes(filter: &TaskFilter, after: Option<TaskCursor>, limit: i64, brief: bool) -> Vec<Task>;
            fn count_tasks(filter: &TaskFilter) -> i64;
            fn command_tasks(filter: &TaskFilter, command: &TaskCommand, reason: &str, most: i64) -> Vec<TaskId>;
            fn queue_counts() -> Vec<QueueCounts>;
            fn waiting() -> Vec<WaitingGroup>;
            fn expert_loads() -> Vec<ExpertLoad>;
            fn workers() -> Vec<WorkerRow>;
            fn declared(kind: &str) -> Vec<DeclaredRow>;
            wait tasks_changed(most: Duration);
        }
        Dispatch {
            fn project_declared(fence: &Fence, row: &DeclaredRow) -> ();
            fn sweep_declared(fence: &Fence, kind: &str, complete: &[String]) -> Vec<DeclaredRow>;
            fn unassigned(after: TaskId, most: i64) -> Vec<Unassigned>;
            fn assign(fence: &Fence, assignments: &[Assignment]) -> u64;
            fn reap(fence: &Fence) -> Reaped;
            fn retain(fence: &Fence, retention: &[Retention]) -> u64;
            fn fire(fence: &Fence, schedule: &str, run: Timestamp, tasks: &[NewTask]) -> bool;
            fn last_runs() -> Vec<(String, Timestamp)>;
        }
        Work {
            fn open_lease(holder: &str, queue: &QueueKey, lease: Duration) -> Lease;
            fn renew_leases(leases: &[(Lease, Duration)]) -> Vec<Lease>;
            fn close_lease(lease: &Lease) -> ();
            fn claim_free(claim: &FreeClaim) -> Vec<Claimed>;
            fn claim_slots(claim: &SlotClaim) -> SlotClaimAnswer;
            fn claim_next(slot: &Slot, claim: &SlotClaim) -> Option<Claimed>;
            fn hand_over(task: TaskId, epoch: i64, lease: Duration) -> Lease;
            fn complete(completions: &[Completion]) -> Vec<bool>;
            fn lost_claims(claims: &[(TaskId, i64)]) -> Vec<TaskId>;
            fn report_worker(report: &WorkerReport) -> ();
            fn worker_left(holder: &str) -> ();
        }
        }
    };
}

without_tasks!(postgres::PostgresStore);
