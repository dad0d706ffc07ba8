//! Leadership, projections, recovery state, slots, journal and controls, in PostgreSQL and in SQLite, behind one trait.
//!
//! Whoever changes what the leader owns hands over its [`Fence`]: the write and the check of epoch and expiry are one
//! transaction, so a leader that was replaced changes nothing. Leases use the database's clock.

mod admit;
mod answers;
mod batch;
mod callbacks;
mod callers;
mod causes;
mod changes;
mod clock;
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
mod projections;
mod recording;
pub mod rounds;
mod rows;
mod schema;
pub mod seal;
#[cfg(test)]
mod simulation;
mod slot_rows;
pub mod sqlite;
mod stamp;
mod tables;
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

pub use answers::{AnswerKey, Answers, KeptAnswer};
pub use callbacks::{Callback, Callbacks};
pub use callers::{CallerDay, CallerLimit, CallerStore, CallerUse, OpenCall, OpenCallState, SlotCaller, caller_id};
pub use causes::Causes;
pub use changes::{Changes, Follower, Topics};
pub use clock::BootInstant;
pub use counted::counted;
use counted::{Counted, store_traits};
pub use evidence::{CallEvidence, CallFault, FailedCall, MAX_FAILED_CALLS, ServedCall};
pub use folder::{check_folder, new_file, open_own, own_folder};
pub use holders::{DeathWatch, ENGINE_LINGER, HolderRow, Holders, watch_deaths};
pub use home::{Home, Migrated, migrate, open};
pub use inspect::{DatabaseFacts, back_up, inspect};
pub use lead::{LeadState, LeadWatch, LeaseTimings, Term, lead};
pub use pause::{Patience, Reapable};
pub use postgres::{DatabaseUrl, drop_schema};
pub use process::{PodIdentity, ProcessIdentity};
pub use projections::Projections;
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
    + Observations
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
    + CallerStore
    + Answers
    + Causes
    + Changes
{
}
impl<T> Store for T where
    T: Leadership
        + Projections
        + Observations
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
        + CallerStore
        + Answers
        + Causes
        + Changes
{
}

store_traits! {
    /// The leader's row: one holder, an expiry by the database's clock, and an epoch that only rises.
    Leadership {
        /// The id that `migrate` gave to this installation.
        fn installation() -> Uuid;
        /// Takes the lead when it is free or lapsed (with a higher epoch), or when `holder` has it already (same epoch).
        /// `None`: somebody else leads.
        fn campaign(holder: &str, lease: Duration) -> Option<Fence>;
        /// Extends the lease. [`StoreError::Fenced`] when somebody else took the lead meanwhile.
        fn renew(fence: &Fence, lease: Duration) -> ();
        /// Raises the epoch of this lead: agents may have seen higher ones than a restored database knows.
        fn raise_epoch(fence: &Fence, by: i64) -> Fence;
        /// Ends the lease at once, so that a successor need not wait.
        fn resign(fence: &Fence) -> ();
        /// Who leads now.
        fn leader() -> Option<Leader>;
    }

    /// The last probe and canary of each backend, so that every replica can show ages.
    Observations {
        /// Of these backends, by uid. The caller bounds the rate.
        fn record_observations(fence: &Fence, seen: &[(String, Observation)]) -> ();
        /// Of every backend, by uid.
        fn observations() -> Vec<(String, Observation)>;
    }

    /// Recovery state: committed before acting, so that a successor knows what was begun.
    Recoveries {
        /// The document of a backend, as it was last saved.
        fn recovery(uid: &str) -> Option<serde_json::Value>;
        /// Replaces the document.
        fn save_recovery(fence: &Fence, uid: &str, state: &serde_json::Value) -> ();
    }

    /// Slots of servers: exact across processes, leased, fenced.
    ///
    /// A slot is given under a lock of the server's row, only while occupied slots are fewer than its limit. A slot is
    /// occupied until it was released, or its lease lapsed and either its call must have ended or the process that was called is
    /// gone. So nobody sends a call in a slot whose lease may have lapsed.
    Slots {
        /// The same, with how long its instance runs at most, up to now. When that is another one than before, slots whose leases had
        /// lapsed before it began are free: their calls went with the former one. `None`: nobody knows, and none is.
        fn put_server_running(fence: &Fence, server: &ServerRow, running_for: Option<Duration>) -> ();
        /// The server of a normalized URL.
        fn server(url: &str) -> Option<ServerRow>;
        /// Takes a slot, or says why not.
        fn take_slot(request: &SlotRequest) -> SlotAnswer;
        /// Extends the slot's lease, and records the call that runs in it now. [`StoreError::Fenced`] when it was aborted, or lapsed and given to somebody else.
        fn renew_slot(slot: &Slot, lease: Duration, life: CallLife) -> ();
        /// Gives the slot back, after `linger` (an aborted streamed call: one second). Twice does no harm.
        fn release_slot(slot: &Slot, linger: Duration) -> ();
        /// Marks every held slot of the server as aborted: its holder closes its connection at its next renewal.
        fn abort_slots(fence: &Fence, url: &str) -> u64;
        /// The occupied slots of a server.
        fn slots(url: &str) -> Vec<SlotRow>;
        /// The occupied slots of all servers, with the server's URL.
        fn occupied_slots() -> Vec<(String, SlotRow)>;
        /// Tells which calls of a process wait, for which servers: all of them, each second. Whoever is not named again waits no more.
        fn wait_for_slots(holder: &str, waits: &[SlotWait]) -> ();
        /// How many interactive calls wait, by server.
        fn interactive_waits() -> Vec<(String, i64)>;
        /// Every server as it is now, by URL: one look, however many there are.
        fn servers() -> Vec<ServerNow>;
        default {
            /// Inserts or updates the server's row. Lowering the limit stops new calls, never running ones.
            async fn put_server(&self, fence: &Fence, server: &ServerRow) -> Result<(), StoreError> {
                self.put_server_running(fence, server, None).await
            }
        }
    }

    /// What happened: kept 30 days.
    Journal {
        /// Appends an entry.
        fn append(entry: &JournalEntry) -> ();
        /// Entries, newest first.
        fn journal(filter: &JournalFilter) -> Vec<JournalEntry>;
        /// Drops entries before a time; returns how many.
        fn prune_journal(before: Timestamp) -> u64;
    }

    /// What people asked for outside of manifests: `pause`, and locally `suspend`, `resume`, `reconcile`.
    Controls {
        /// Everything that is set.
        fn controls() -> ControlSet;
        /// Pauses all acting, or ends the pause.
        fn set_pause(pause: Option<&Pause>) -> ();
        /// Suspends or resumes one resource. `None` leaves it to the manifest again.
        fn set_suspended(key: &ResourceKey, suspended: Option<&Suspension>) -> ();
        /// Asks for a pass over one resource now. `token` is echoed in its status.
        fn request_reconcile(key: &ResourceKey, token: &str) -> ();
    }

    /// What a folder of manifests can't keep itself: uid, generation and status of its resources.
    LocalState {
        /// All records.
        fn local_objects() -> Vec<LocalObject>;
        /// Inserts or replaces a record.
        fn put_local_object(object: &LocalObject) -> ();
        /// Forgets a record.
        fn delete_local_object(key: &ResourceKey) -> ();
    }
}
