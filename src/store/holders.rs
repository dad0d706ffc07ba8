//! Which processes hold slots and leases. What a dead one held is free at once: its sockets are closed, so its calls end within the
//! engine's linger. Of one of which nothing is known, the end of each call stays the bound.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::counted::{Counted, store_traits};
use super::{BootInstant, Fence, ProcessIdentity, Reaped, Store, StoreError, Topics};
use crate::base::tick;

/// How long an engine may take to notice that a client's connection is closed: Ollama a few milliseconds, MLX until its next token.
/// While MLX reads a prompt it does not notice at all: see `outlives_client` of [`CallLife`](super::CallLife).
pub const ENGINE_LINGER: Duration = Duration::from_secs(1);
/// A dead worker's tasks stay its own for so long after its death was seen first: the next process on its machine records the finished
/// results that wait on disk.
const SPOOLED: Duration = Duration::from_secs(3);
/// Between two looks while other processes hold something.
const LOOK: Duration = Duration::from_secs(2);
/// The same while none does and nobody claims.
const LOOK_SELDOM: Duration = Duration::from_secs(30);
/// Registrations are refreshed so often; those that are older and hold nothing are forgotten.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
pub(super) const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A registered holder that holds something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderRow {
    pub holder: String,
    pub process: ProcessIdentity,
    /// It had the lock of the data folder that this process has now.
    pub is_predecessor: bool,
    /// Occupied slots that it did not give back.
    pub slots: i64,
    /// Leases of tasks.
    pub leases: i64,
    /// Whether the lease of any of its slots is in force.
    pub renews: bool,
    /// Time since its last report; `None`: it makes none.
    pub reported_ago: Option<Duration>,
}

store_traits! {
    /// Who holds slots and leases.
    Holders {
        /// Tells which process a holder is. Again, it refreshes that; what is old and holds nothing is forgotten.
        fn register_holder(holder: &str, process: &ProcessIdentity) -> ();
        /// The registered holders that hold a slot or a lease.
        fn busy_holders() -> Vec<HolderRow>;
        /// Frees the slots of a dead process after `linger`; returns how many. The lease of a slot whose call outlives its client ends, and
        /// the slot counts until that call must have ended, or [`free_lapsed_slots`](Self::free_lapsed_slots) frees it. A death is never taken
        /// back, so this needs no fence. A process that lives after all loses its slots, and learns it at its next renewal.
        fn free_holder_slots(holder: &str, linger: Duration) -> u64;
        /// Takes the tasks of a dead process back: as with a lapsed lease, no attempt is used.
        fn free_holder_tasks(holder: &str) -> Reaped;
        /// Frees a server's slots after `linger` when the leases of all of them have lapsed: for a caller who knows that the server computes
        /// nothing. Returns how many.
        fn free_lapsed_slots(fence: &Fence, server_url: &str, linger: Duration) -> u64;
    }
}

/// Why a holder is surely dead, as `own` sees it; `None`: it lives, or nobody knows. `has_ended` asks about a process whose id means
/// the same here.
pub(super) fn evidence_of_death(
    row: &HolderRow,
    own: &ProcessIdentity,
    has_ended: impl FnOnce(&ProcessIdentity) -> bool,
) -> Option<&'static str> {
    let process = &row.process;
    if process.is(own) {
        return None;
    }
    if row.is_predecessor {
        return Some("another process has the lock of its data folder");
    }
    if process.shares_pids_with(own) {
        return has_ended(process).then_some("its process ended");
    }
    let same_host = !process.host.is_empty() && process.host == own.host;
    let booted = !process.boot.is_empty() && !own.boot.is_empty() && process.boot != own.boot;
    // Copies of a machine may call themselves the same; they renew what they hold.
    let is_silent = row.slots > 0 && !row.renews;
    (same_host && booted && is_silent).then_some("its machine was booted since")
}

/// Frees what dead processes of this machine hold, pass by pass.
#[derive(Debug, Default)]
pub struct DeathWatch {
    dead_since: HashMap<String, BootInstant>,
}

impl DeathWatch {
    /// One pass; returns whether other processes hold anything.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pass(&mut self, store: &dyn Store) -> Result<bool, StoreError> {
        let own = ProcessIdentity::own();
        let mut others = store.busy_holders().await?;
        others.retain(|row| !row.process.is(own));
        self.keep(&others);
        for row in &others {
            if let Some(evidence) = evidence_of_death(row, own, ProcessIdentity::has_ended) {
                self.free(store, row, evidence, BootInstant::now()).await?;
            }
        }
        Ok(!others.is_empty())
    }

    /// Forgets those that hold nothing any more.
    pub fn keep(&mut self, busy: &[HolderRow]) {
        self.dead_since.retain(|holder, _| busy.iter().any(|row| row.holder == *holder));
    }

    /// Frees what a dead holder has: its slots at once, its tasks a moment later.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn free(
        &mut self,
        store: &dyn Store,
        row: &HolderRow,
        evidence: &str,
        now: BootInstant,
    ) -> Result<(), StoreError> {
        let holder = &row.holder;
        let since = *self.dead_since.entry(holder.clone()).or_insert(now);
        if row.slots > 0 {
            let slots = store.free_holder_slots(holder, ENGINE_LINGER).await?;
            if slots > 0 {
                tracing::warn!(holder, evidence, slots, "freed slots of a dead process");
            }
        }
        if row.leases > 0 && now.since(since) >= SPOOLED {
            let Reaped { leases: _, requeued, deferred, expired: _ } = store.free_holder_tasks(holder).await?;
            tracing::warn!(holder, evidence, requeued, deferred, "took back the tasks of a dead process");
        }
        Ok(())
    }
}

/// Registers `holder` where this process holds something under it, and frees what dead processes of this machine hold, until `shutdown`.
pub async fn watch_deaths(store: Arc<dyn Store>, holder: Option<String>, shutdown: CancellationToken) {
    let mut deaths = DeathWatch::default();
    let mut registered_at: Option<BootInstant> = None;
    let mut claims = store.follow(Topics::STARTED);
    loop {
        let now = BootInstant::now();
        let passed = async {
            if let Some(holder) = &holder
                && registered_at.is_none_or(|at| now.since(at) >= REFRESH)
            {
                store.register_holder(holder, ProcessIdentity::own()).await?;
                registered_at = Some(now);
            }
            deaths.pass(&*store).await
        };
        let others = passed.await.unwrap_or_else(|error| {
            tracing::debug!(%error, "could not check for dead processes; will retry");
            true
        });
        let wait = async {
            tick(LOOK).await;
            if !others {
                claims.changed(LOOK_SELDOM).await;
            }
        };
        if shutdown.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(host: &str, boot: &str, namespace: &str, pid: u32) -> ProcessIdentity {
        ProcessIdentity {
            host: host.into(),
            boot: boot.into(),
            pid_namespace: namespace.into(),
            pid,
            start_time: 7,
            ..ProcessIdentity::default()
        }
    }

    fn row(process: ProcessIdentity) -> HolderRow {
        let holder = "h".to_owned();
        HolderRow { holder, process, is_predecessor: false, slots: 1, leases: 1, renews: false, reported_ago: None }
    }

    #[test]
    fn a_holder_is_dead_only_where_that_is_known() {
        let own = process("host", "boot", "ns", 1);
        let ended = "its process ended";
        let booted = "its machine was booted since";
        for (row, process_ended, dead, why) in [
            (row(own.clone()), true, None, "it is this process"),
            (row(process("host", "boot", "ns", 2)), true, Some(ended), "it ended"),
            (row(process("host", "boot", "ns", 2)), false, None, "it lives"),
            (row(process("", "boot", "ns", 2)), true, Some(ended), "the same kernel, whatever the machine is called"),
            (row(process("host", "boot", "other", 2)), true, None, "its pid means another process here"),
            (row(process("host", "boot", "", 2)), true, None, "its pid may mean another process here"),
            (row(process("host", "before", "ns", 2)), false, Some(booted), "no process outlives its boot"),
            (row(process("else", "before", "ns", 2)), true, None, "another machine"),
            (row(process("", "before", "ns", 2)), true, None, "perhaps another machine"),
            (row(process("host", "", "ns", 2)), true, None, "its boot is not known"),
            (
                HolderRow { renews: true, ..row(process("host", "before", "ns", 2)) },
                true,
                None,
                "a copy of the machine",
            ),
            (
                HolderRow { slots: 0, ..row(process("host", "before", "ns", 2)) },
                true,
                None,
                "nothing tells a copy apart",
            ),
            (
                HolderRow { is_predecessor: true, ..row(process("else", "", "", 2)) },
                false,
                Some("another process has the lock of its data folder"),
                "the lock is its successor's",
            ),
            (HolderRow { is_predecessor: true, ..row(own.clone()) }, true, None, "it is this process"),
        ] {
            assert_eq!(evidence_of_death(&row, &own, |_| process_ended), dead, "{why}: {row:?}");
        }
    }
}
