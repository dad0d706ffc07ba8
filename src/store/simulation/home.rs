//! What the simulation asks of a store, whichever it is.

use std::time::Duration;

use crate::{
    store::{Fence, Lease, Reaped, ServerRow, Slot, SlotClaim, StoreError, TaskCommand, stamp::Stamp},
    tasks::{Completion, NewTask, QueueKey, Task, TaskId, machine::Life},
};

pub type Answer<T> = Result<T, StoreError>;

pub const NAMESPACE: &str = "default";
pub const QUEUE: &str = "default";
pub const LEASE: Duration = Duration::from_secs(90);
/// Experts with how many tasks each has in progress at most. All ask for [`MODEL`].
pub const EXPERTS: [(&str, i64); 2] = [("anna", 3), ("igor", 2)];
pub const MODEL: &str = "small";

pub fn queue() -> QueueKey {
    QueueKey { namespace: NAMESPACE.into(), name: QUEUE.into() }
}

/// A task as it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: TaskId,
    pub life: Life,
    /// Which of [`EXPERTS`].
    pub expert: Option<usize>,
}

impl Seen {
    pub fn of(task: &Task) -> Self {
        let expert = EXPERTS.iter().position(|(name, _)| task.expert.as_deref() == Some(name));
        Self { id: task.id, life: Life::of(task), expert }
    }
}

/// A store as actors use it. Each call is one transaction: it happened, or it did not.
pub trait Home {
    fn set_clock(&mut self, now: Stamp);
    fn campaign(&mut self, holder: &str) -> Answer<Option<Fence>>;
    fn insert(&mut self, tasks: &[NewTask]) -> Answer<Vec<TaskId>>;
    /// A round over all that nobody has.
    fn assign(&mut self, fence: &Fence) -> Answer<()>;
    fn put_server(&mut self, fence: &Fence, server: &ServerRow) -> Answer<()>;
    fn reap(&mut self, fence: &Fence) -> Answer<Reaped>;
    fn open_lease(&mut self, holder: &str) -> Answer<Lease>;
    /// False: it is lost.
    fn renew_lease(&mut self, lease: &Lease) -> Answer<bool>;
    fn close_lease(&mut self, lease: &Lease) -> Answer<()>;
    fn claim(&mut self, claim: &SlotClaim) -> Answer<Vec<(Slot, Task)>>;
    fn renew_slot(&mut self, slot: &Slot, lease: Duration) -> Answer<()>;
    fn release_slot(&mut self, slot: &Slot, linger: Duration) -> Answer<()>;
    fn complete(&mut self, completion: &Completion) -> Answer<bool>;
    fn lost_claims(&mut self, claims: &[(TaskId, i64)]) -> Answer<Vec<TaskId>>;
    fn command(&mut self, task: TaskId, command: &TaskCommand) -> Answer<bool>;
    /// Occupied slots of each server.
    fn occupancy(&mut self) -> Answer<Vec<(String, i64)>>;
    /// Every task that is kept, live and ended.
    fn lives(&mut self) -> Vec<Seen>;
}
