//! What workers and the gateway need to call servers: slots in hand, what is declared, who is called with which credentials, and what
//! calls showed of a server.
//!
//! `slots` knows until when a slot is ours, on a clock that counts sleep. `declared` and `target` are the servers as they are declared
//! and called, `secrets` their credentials; `callers` are those who call through the gateway. `contact`, `evidence` and `shown` keep what calls showed: for the next call, and for the
//! leader.

mod callers;
mod contact;
mod declared;
mod evidence;
mod secrets;
mod shown;
mod slots;
mod target;

pub use callers::{CallerKey, KeyHash, KnownCaller, ProjectedCaller, fits};
pub use contact::Contact;
pub use declared::{Backend, seconds, servers};
pub use evidence::EvidenceLog;
pub use secrets::{CachedSecrets, CallSecrets, PlatformSecrets, SealedSecrets};
pub use shown::{CallShown, FaultCause, Waited, cause, may_still_run, shown};
pub use slots::{HeldSlot, HeldSlots};
pub use target::{CallTarget, Targets};

/// Why a call is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStopped {
    /// The lease is lost or can't be known to hold.
    LeaseLost,
    /// The task was cancelled, or given to somebody else: nothing is recorded.
    NotOurs,
    /// The slot was taken away: its server is about to be mended.
    SlotLost,
    /// The slot's lease may have lapsed before the call was sent, or its call's end came while the machine slept.
    SlotUnsure,
    /// The time by which a call in this slot must have ended has come.
    SlotEnds,
    /// The process ends.
    Draining,
}
