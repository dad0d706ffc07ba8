//! What the simulation asks of a store, whichever it is.

use std::time::Duration;

use crate::{
    store::{
        Fence, Lease, Reapable, Reaped, Served, ServerRow, Slot, SlotClaim, StoreError, TaskCommand, stamp::Stamp,
    },
    tasks::{ClaimedTask, Completion, NewTask, QueueKey, Task, TaskId, machine::Life},
};

pub type Answer<T> = Result<T, StoreError>;

pub const NAMESPACE: &str = "default";
/// Queues with how long their leases are.
pub const QUEUES: [(&str, Duration); 2] = [("default", Duration::from_secs(90)), ("batch", Duration::from_secs(240))];
pub const SMALL: &str = "small";
pub const BIG: &str = "big";
/// Experts with how many tasks each has in progress at most, their domain and model.
pub const EXPERTS: [(&str, i64, &str, &str); 3] =
    [("anna", 3, "d", SMALL), ("igor", 2, "d", SMALL), ("vera", 2, "v", BIG)];

pub fn queue(index: usize) -> QueueKey {
    QueueKey { namespace: NAMESPACE.into(), name: QUEUES[index].0.into() }
}

pub fn model_of(expert: &str) -> Option<&'static str> {
    EXPERTS.iter().find(|(name, ..)| *name == expert).map(|(_, _, _, model)| *model)
}

/// A task as it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTask {
    pub id: TaskId,
    pub life: Life,
    /// Which of [`EXPERTS`].
    pub expert: Option<usize>,
}

impl SeenTask {
    pub fn of(task: &Task) -> Self {
        let expert = EXPERTS.iter().position(|(name, ..)| task.expert.as_deref() == Some(name));
        Self { id: task.id, life: Life::of(task), expert }
    }
}

/// A task and the lease that it was claimed under.
pub type Given = (ClaimedTask, Lease);

/// A store as actors use it. Each call is one transaction: it happened, or it did not.
pub trait SimStore {
    fn set_clock(&mut self, now: Stamp);
    fn campaign(&mut self, holder: &str) -> Answer<Option<Fence>>;
    fn insert(&mut self, tasks: &[NewTask]) -> Answer<Vec<TaskId>>;
    /// A round over all that nobody has.
    fn assign(&mut self, fence: &Fence) -> Answer<()>;
    fn put_server(&mut self, fence: &Fence, server: &ServerRow, running_for: Option<Duration>) -> Answer<()>;
    fn reap(&mut self, fence: &Fence, reapable: &Reapable) -> Answer<Reaped>;
    fn open_lease(&mut self, holder: &str, queue: usize) -> Answer<Served>;
    /// False: it is lost.
    fn renew_lease(&mut self, lease: &Served) -> Answer<bool>;
    fn close_lease(&mut self, lease: &Lease) -> Answer<()>;
    fn claim(&mut self, claim: &SlotClaim) -> Answer<Vec<(Slot, Given)>>;
    fn claim_next(&mut self, slot: &Slot, claim: &SlotClaim) -> Answer<Option<Given>>;
    fn renew_slot(&mut self, slot: &Slot, lease: Duration) -> Answer<()>;
    fn release_slot(&mut self, slot: &Slot, linger: Duration) -> Answer<()>;
    /// Frees what a dead process held: its slots after `linger`, its tasks at once.
    fn free_holder(&mut self, holder: &str, linger: Duration) -> Answer<()>;
    fn complete(&mut self, completion: &Completion) -> Answer<bool>;
    fn lost_claims(&mut self, claims: &[(TaskId, i64)]) -> Answer<Vec<TaskId>>;
    fn command(&mut self, task: TaskId, command: &TaskCommand) -> Answer<bool>;
    /// Occupied slots of each server.
    fn occupancy(&mut self) -> Answer<Vec<(String, i64)>>;
    /// Every task that is kept, live and ended.
    fn lives(&mut self) -> Vec<SeenTask>;
}

/// How long the leases of a queue are.
pub fn lease_of(queue: &QueueKey) -> Duration {
    QUEUES.iter().find(|(name, _)| *name == queue.name).map_or(Duration::ZERO, |(_, lease)| *lease)
}
