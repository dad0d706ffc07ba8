//! A store whose errors are counted, by what was asked of it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::causes::{Acknowledgment, Cause, Delivery, KnownCause};
use crate::tasks::{Assignment, Completion, NewTask, QueueKey, Task, TaskId};
use crate::telemetry::Metrics;

/// Passes everything on, and counts each error but a lost lead or slot: that is an answer.
pub fn counted(inner: Arc<dyn Store>, metrics: Metrics) -> Arc<dyn Store> {
    Arc::new(Counted { inner, metrics })
}

struct Counted {
    inner: Arc<dyn Store>,
    metrics: Metrics,
}

impl Counted {
    fn count<T>(&self, operation: &str, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let (what, vital) = attempted(operation);
        let troubles = &self.metrics.troubles;
        let class = result.as_ref().err().map(StoreError::class);
        match (class, &result) {
            (None | Some(StoreClass::Lost), _) => troubles.over(what),
            // It is about what somebody sent.
            (Some(StoreClass::Refusal), _) => self.metrics.process.store_error(operation),
            (Some(StoreClass::Passing | StoreClass::Person), result) => {
                self.metrics.process.store_error(operation);
                if let Err(error) = result {
                    troubles.failed(what, error.to_string(), vital);
                }
            }
        }
        result
    }
}

/// What an operation is called in status, and whether anything gets done without it.
fn attempted(operation: &str) -> (&str, bool) {
    match operation {
        "campaign" | "renew" => ("hold the lead", true),
        "open_lease" | "renew_leases" => ("hold leases", true),
        "claim_free" | "claim_slots" | "claim_next" => ("claim tasks", true),
        // One request may be too large for the bounds of a statement.
        "insert_tasks" => ("take tasks", false),
        "complete" => ("record results", true),
        other => (other, false),
    }
}

macro_rules! pass_on {
    ($($of:ident {
        $(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*
    })*) => {
        $(#[async_trait]
        impl $of for Counted {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
                self.count(stringify!($name), self.inner.$name($($arg),*).await)
            })*
        })*
    };
}

impl Changes for Counted {
    fn follow(&self, topics: Topics) -> Follower {
        self.inner.follow(topics)
    }
}

pass_on! {
    Leadership {
        fn installation() -> Uuid;
        fn campaign(holder: &str, lease: Duration) -> Option<Fence>;
        fn renew(fence: &Fence, lease: Duration) -> ();
        fn raise_epoch(fence: &Fence, by: i64) -> Fence;
        fn resign(fence: &Fence) -> ();
        fn leader() -> Option<Leader>;
    }
    Projections {
        fn project_backend(fence: &Fence, row: &BackendRow) -> ();
        fn sweep_backends(fence: &Fence, complete: &[String]) -> Vec<BackendRow>;
        fn backends() -> Vec<BackendRow>;
        fn record_observations(fence: &Fence, seen: &[(String, Observation)]) -> ();
        fn observations() -> Vec<(String, Observation)>;
    }
    Recoveries {
        fn recovery(uid: &str) -> Option<serde_json::Value>;
        fn save_recovery(fence: &Fence, uid: &str, state: &serde_json::Value) -> ();
    }
    Slots {
        fn put_server_running(fence: &Fence, server: &ServerRow, running_for: Option<Duration>) -> ();
        fn server(url: &str) -> Option<ServerRow>;
        fn take_slot(request: &SlotRequest) -> SlotAnswer;
        fn renew_slot(slot: &Slot, lease: Duration, life: CallLife) -> ();
        fn release_slot(slot: &Slot, linger: Duration) -> ();
        fn abort_slots(fence: &Fence, url: &str) -> u64;
        fn slots(url: &str) -> Vec<SlotRow>;
        fn occupied_slots() -> Vec<(String, SlotRow)>;
        fn wait_for_slots(holder: &str, waits: &[SlotWait]) -> ();
        fn interactive_waits() -> Vec<(String, i64)>;
        fn servers() -> Vec<ServerNow>;
    }
    Holders {
        fn register_holder(holder: &str, process: &ProcessIdentity) -> ();
        fn busy_holders() -> Vec<HolderRow>;
        fn free_holder_slots(holder: &str, linger: Duration) -> u64;
        fn free_holder_tasks(holder: &str) -> Reaped;
        fn free_lapsed_slots(fence: &Fence, server_url: &str, linger: Duration) -> u64;
    }
    Journal {
        fn append(entry: &JournalEntry) -> ();
        fn journal(filter: &JournalFilter) -> Vec<JournalEntry>;
        fn prune_journal(before: Timestamp) -> u64;
    }
    Controls {
        fn controls() -> ControlSet;
        fn set_pause(pause: Option<&Pause>) -> ();
        fn set_suspended(key: &ResourceKey, suspended: Option<&Suspension>) -> ();
        fn request_reconcile(key: &ResourceKey, token: &str) -> ();
    }
    LocalState {
        fn local_objects() -> Vec<LocalObject>;
        fn put_local_object(object: &LocalObject) -> ();
        fn delete_local_object(key: &ResourceKey) -> ();
    }
    Tasks {
        fn now() -> Timestamp;
        fn insert_tasks(tasks: &[NewTask]) -> Vec<Inserted>;
        fn tasks(filter: &TaskFilter, page: &TaskPage) -> Vec<Task>;
        fn task(id: TaskId) -> Option<Task>;
        fn task_changes(filter: &TaskFilter, after: Option<TaskCursor>, limit: i64, brief: bool) -> Vec<Task>;
        fn count_tasks(filter: &TaskFilter) -> i64;
        fn command_tasks(filter: &TaskFilter, command: &TaskCommand, reason: &str, most: i64) -> Vec<TaskId>;
        fn queue_counts() -> Vec<QueueCounts>;
        fn task_counts() -> Vec<TaskCount>;
        fn slots_wanted(queues: &[QueueKey]) -> bool;
        fn workers() -> Vec<WorkerRow>;
        fn declared(kind: &str) -> Vec<DeclaredRow>;
    }
    Dispatch {
        fn project_declared(fence: &Fence, row: &DeclaredRow) -> ();
        fn sweep_declared(fence: &Fence, kind: &str, complete: &[String]) -> Vec<DeclaredRow>;
        fn unassigned(after: TaskId, most: i64) -> Vec<Unassigned>;
        fn assign(fence: &Fence, assignments: &[Assignment]) -> u64;
        fn reap_of(fence: &Fence, reapable: &Reapable) -> Reaped;
        fn next_lapse() -> Option<Duration>;
        fn retain(fence: &Fence, retention: &[Retention]) -> u64;
        fn fire(fence: &Fence, schedule: &str, run: Timestamp, tasks: &[NewTask], replaces: Option<&Replaced>) -> Fired;
        fn replace_more(fence: &Fence, schedule: &str, run: Timestamp, replaces: &Replaced) -> bool;
        fn last_runs() -> Vec<(String, Timestamp, bool)>;
    }
    Work {
        fn open_lease(holder: &str, queue: &QueueKey, lease: Duration) -> Lease;
        fn renew_leases(leases: &[(Lease, Duration)]) -> Vec<Lease>;
        fn close_lease(lease: &Lease) -> ();
        fn due(queues: &[QueueKey]) -> Due;
        fn claim_free(claim: &FreeClaim) -> Vec<Claimed>;
        fn claim_slots(claim: &SlotClaim) -> SlotClaimAnswer;
        fn claim_next(slot: &Slot, claim: &SlotClaim, life: CallLife) -> Option<Claimed>;
        fn hand_over(task: TaskId, epoch: i64, lease: Duration) -> Lease;
        fn complete(completions: &[Completion]) -> Vec<bool>;
        fn lost_claims(claims: &[(TaskId, i64)]) -> Vec<TaskId>;
        fn report_worker(report: &WorkerReport) -> ();
        fn worker_left(holder: &str) -> ();
    }
    Callers {
        fn count_use(uses: &[CallerUse]) -> ();
        fn caller_days() -> Vec<CallerDay>;
        fn cancel_call(id: &str) -> ();
        fn cancelled_calls() -> Vec<String>;
    }
    Callbacks {
        fn due_callbacks(queue: &QueueKey, now: Timestamp, most: i64) -> Vec<Callback>;
        fn settle_callbacks(fence: &Fence, told: &[i64], failed: &[(i64, Timestamp)]) -> ();
        fn expire_callbacks(fence: &Fence, before: Timestamp) -> Vec<(QueueKey, i64)>;
    }
    Causes {
        fn causes(resolved_since: Timestamp) -> Vec<KnownCause>;
        fn deliveries() -> Vec<Delivery>;
        fn put_causes(fence: &Fence, causes: &[Cause], deliveries: &[Delivery]) -> ();
        fn acknowledge_cause(key: &str, by: &Acknowledgment) -> bool;
        fn prune_causes(fence: &Fence, before: Timestamp) -> u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Home, open, sqlite::Hold};

    #[tokio::test]
    async fn what_the_database_does_not_carry_out_is_counted_and_a_lost_lead_is_not() {
        let folder = std::env::temp_dir().join(format!("ostler-counted-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        let metrics = Metrics::new();
        let home = Home::Folder { path: folder.clone(), hold: Hold::Lock };
        let store = counted(open(&home, None).await.unwrap(), metrics.clone());
        let nobody = Fence { holder: "nobody".into(), epoch: 7 };
        assert!(matches!(store.renew(&nobody, Duration::from_secs(1)).await, Err(StoreError::Fenced(_))));
        assert_eq!(store.backends().await, Ok(Vec::new()));
        assert!(!metrics.render(Timestamp::now()).contains("ostler_store_errors_total{"));
        let broken = Counted { inner: store, metrics: metrics.clone() };
        let away: Result<(), _> = Err(StoreError::Unavailable("away".into()));
        assert!(broken.count("save_recovery", away).is_err());
        let line = "ostler_store_errors_total{operation=\"save_recovery\"} 1";
        assert!(metrics.render(Timestamp::now()).contains(line));
        let said = || metrics.troubles.all().iter().map(ToString::to_string).collect::<Vec<_>>();
        for error in [StoreError::Refused("no".into()), StoreError::Unavailable("full".into())] {
            for _ in 0..2 {
                broken.count::<()>("complete", Err(error.clone())).unwrap_err();
            }
        }
        assert_eq!(said(), ["the database is unavailable: full (can't record results)"]);
        broken.count("complete", Ok(())).unwrap();
        assert_eq!(said(), Vec::<String>::new());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
