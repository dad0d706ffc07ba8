//! Leadership, projections, recovery state, slots, journal and controls, in PostgreSQL and in SQLite, behind one trait.
//!
//! Whoever changes what the leader owns hands over its [`Fence`]: the write and the check of epoch and expiry are one
//! transaction, so a leader that was replaced changes nothing. Leases use the database's clock.

mod admit;
mod batch;
mod callbacks;
mod callers;
mod causes;
mod changes;
mod clock;
mod commands;
mod counted;
mod counts;
mod error;
mod evidence;
mod filter;
mod folder;
mod holders;
mod home;
mod inspect;
mod lead;
mod order;
mod pause;
pub mod postgres;
mod process;
mod recording;
pub mod rounds;
mod rows;
mod schema;
pub mod seal;
#[cfg(test)]
mod simulation;
pub mod sqlite;
mod stamp;
mod tables;
mod task_rows;
mod task_types;
mod text;
mod types;
mod words;
mod work;
pub mod world;

use async_trait::async_trait;
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

pub use callbacks::{Callback, Callbacks};
pub use callers::{CallerDay, CallerLimit, CallerUse, Callers, OpenCall, OpenCallState, SlotCaller, caller_id};
pub use causes::Causes;
pub use changes::{Changes, Follower, Topics};
pub use clock::BootInstant;
pub use counted::counted;
pub use evidence::{CallEvidence, CallFault, FailedCall, MAX_FAILED_CALLS, ServedCall};
pub use folder::{check_folder, new_file, open_own, own_folder};
pub use holders::{DeathWatch, ENGINE_LINGER, HolderRow, Holders, watch_deaths};
pub use home::{Home, Migrated, migrate, open};
pub use inspect::{DatabaseFacts, back_up, inspect};
pub use lead::{LeadState, LeadWatch, LeaseTimings, Term, lead};
pub use pause::{Patience, Reapable};
pub use postgres::{DatabaseUrl, drop_schema};
pub use process::{PodIdentity, ProcessIdentity};
pub use recording::{Recorded, record};
pub use stamp::is_storable;
pub use task_types::*;
pub use types::*;
pub use work::*;
pub use world::spec_of;

/// How long the rows of a backend that is gone are kept.
const GONE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Everything that a process needs of its database.
pub trait Store:
    Leadership
    + Projections
    + Recoveries
    + Slots
    + Holders
    + Journal
    + Controls
    + LocalState
    + Tasks
    + Dispatch
    + Work
    + Callbacks
    + Callers
    + Causes
    + Changes
{
}
impl<T> Store for T where
    T: Leadership
        + Projections
        + Recoveries
        + Slots
        + Holders
        + Journal
        + Controls
        + LocalState
        + Tasks
        + Dispatch
        + Work
        + Callbacks
        + Callers
        + Causes
        + Changes
{
}

/// The leader's row: one holder, an expiry by the database's clock, and an epoch that only rises.
#[async_trait]
pub trait Leadership: Send + Sync {
    /// The id that `migrate` gave to this installation.
    async fn installation(&self) -> Result<Uuid, StoreError>;
    /// Takes the lead when it is free or lapsed (with a higher epoch), or when `holder` has it already (same epoch).
    /// `None`: somebody else leads.
    async fn campaign(&self, holder: &str, lease: Duration) -> Result<Option<Fence>, StoreError>;
    /// Extends the lease. [`StoreError::Fenced`] when somebody else took the lead meanwhile.
    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<(), StoreError>;
    /// Raises the epoch of this lead: agents may have seen higher ones than a restored database knows.
    async fn raise_epoch(&self, fence: &Fence, by: i64) -> Result<Fence, StoreError>;
    /// Ends the lease at once, so that a successor need not wait.
    async fn resign(&self, fence: &Fence) -> Result<(), StoreError>;
    /// Who leads now.
    async fn leader(&self) -> Result<Option<Leader>, StoreError>;
}

/// What resources say, as tables that workers read.
#[async_trait]
pub trait Projections: Send + Sync {
    /// Inserts or updates a backend; writes nothing when nothing differs. A backend that was gone is back.
    async fn project_backend(&self, fence: &Fence, row: &BackendRow) -> Result<(), StoreError>;
    /// Marks as gone every backend whose uid is not in `complete`, the uids of a complete listing. Returns those newly marked.
    async fn sweep_backends(&self, fence: &Fence, complete: &[String]) -> Result<Vec<BackendRow>, StoreError>;
    /// All backends that are not gone.
    async fn backends(&self) -> Result<Vec<BackendRow>, StoreError>;
    /// The last probe and canary of these backends, by uid, so that every replica can show ages. The caller bounds the rate.
    async fn record_observations(&self, fence: &Fence, seen: &[(String, Observation)]) -> Result<(), StoreError>;
    /// The last observation of every backend, by uid.
    async fn observations(&self) -> Result<Vec<(String, Observation)>, StoreError>;
}

/// Recovery state: committed before acting, so that a successor knows what was begun.
#[async_trait]
pub trait Recoveries: Send + Sync {
    /// The document of a backend, as it was last saved.
    async fn recovery(&self, uid: &str) -> Result<Option<serde_json::Value>, StoreError>;
    /// Replaces the document.
    async fn save_recovery(&self, fence: &Fence, uid: &str, state: &serde_json::Value) -> Result<(), StoreError>;
}

/// Slots of servers: exact across processes, leased, fenced.
///
/// A slot is given under a lock of the server's row, only while occupied slots are fewer than its limit. A slot is
/// occupied until it was released, or its lease lapsed and either its call must have ended or the process that was called is
/// gone. So nobody sends a call in a slot whose lease may have lapsed.
#[async_trait]
pub trait Slots: Send + Sync {
    /// Inserts or updates the server's row. Lowering the limit stops new calls, never running ones.
    async fn put_server(&self, fence: &Fence, server: &ServerRow) -> Result<(), StoreError> {
        self.put_server_running(fence, server, None).await
    }
    /// The same, with how long its instance runs at most, up to now. When that is another one than before, slots whose leases had
    /// lapsed before it began are free: their calls went with the former one. `None`: nobody knows, and none is.
    async fn put_server_running(
        &self,
        fence: &Fence,
        server: &ServerRow,
        running_for: Option<Duration>,
    ) -> Result<(), StoreError>;
    /// The server of a normalized URL.
    async fn server(&self, url: &str) -> Result<Option<ServerRow>, StoreError>;
    /// Takes a slot, or says why not.
    async fn take_slot(&self, request: &SlotRequest) -> Result<SlotAnswer, StoreError>;
    /// Extends the slot's lease, and records the call that runs in it now. [`StoreError::Fenced`] when it was aborted, or lapsed and given to somebody else.
    async fn renew_slot(&self, slot: &Slot, lease: Duration, life: CallLife) -> Result<(), StoreError>;
    /// Gives the slot back, after `linger` (an aborted streamed call: one second). Twice does no harm.
    async fn release_slot(&self, slot: &Slot, linger: Duration) -> Result<(), StoreError>;
    /// Marks every held slot of the server as aborted: its holder closes its connection at its next renewal.
    async fn abort_slots(&self, fence: &Fence, url: &str) -> Result<u64, StoreError>;
    /// The occupied slots of a server.
    async fn slots(&self, url: &str) -> Result<Vec<SlotRow>, StoreError>;
    /// The occupied slots of all servers, with the server's URL.
    async fn occupied_slots(&self) -> Result<Vec<(String, SlotRow)>, StoreError>;
    /// Tells which calls of a process wait, for which servers: all of them, each second. Whoever is not named again waits no more.
    async fn wait_for_slots(&self, holder: &str, waits: &[SlotWait]) -> Result<(), StoreError>;
    /// How many interactive calls wait, by server.
    async fn interactive_waits(&self) -> Result<Vec<(String, i64)>, StoreError>;
    /// Every server as it is now, by URL: one look, however many there are.
    async fn servers(&self) -> Result<Vec<ServerNow>, StoreError>;
}

/// What happened: kept 30 days.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Appends an entry.
    async fn append(&self, entry: &JournalEntry) -> Result<(), StoreError>;
    /// Entries, newest first.
    async fn journal(&self, filter: &JournalFilter) -> Result<Vec<JournalEntry>, StoreError>;
    /// Drops entries before a time; returns how many.
    async fn prune_journal(&self, before: Timestamp) -> Result<u64, StoreError>;
}

/// What people asked for outside of manifests: `pause`, and locally `suspend`, `resume`, `reconcile`.
#[async_trait]
pub trait Controls: Send + Sync {
    /// Everything that is set.
    async fn controls(&self) -> Result<ControlSet, StoreError>;
    /// Pauses all acting, or ends the pause.
    async fn set_pause(&self, pause: Option<&Pause>) -> Result<(), StoreError>;
    /// Suspends or resumes one resource. `None` leaves it to the manifest again.
    async fn set_suspended(&self, key: &ResourceKey, suspended: Option<&Suspension>) -> Result<(), StoreError>;
    /// Asks for a pass over one resource now. `token` is echoed in its status.
    async fn request_reconcile(&self, key: &ResourceKey, token: &str) -> Result<(), StoreError>;
}

/// What a folder of manifests can't keep itself: uid, generation and status of its resources.
#[async_trait]
pub trait LocalState: Send + Sync {
    /// All records.
    async fn local_objects(&self) -> Result<Vec<LocalObject>, StoreError>;
    /// Inserts or replaces a record.
    async fn put_local_object(&self, object: &LocalObject) -> Result<(), StoreError>;
    /// Forgets a record.
    async fn delete_local_object(&self, key: &ResourceKey) -> Result<(), StoreError>;
}
