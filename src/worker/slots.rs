//! Slots in hand: renewed with the time of their last token, and known to be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::job::Stopped;
use crate::store::{BootInstant, Slot, Store, StoreError};

/// Renewals at once.
const AT_ONCE: usize = 8;

/// A slot in hand.
#[derive(Debug)]
pub struct HeldSlot {
    pub slot: Slot,
    /// Nanoseconds since boot by which the call in it must have ended.
    call_ends: AtomicU64,
    /// The same for its lease, with a twentieth to spare.
    lease_ends: AtomicU64,
    /// It is being given back.
    leaves: AtomicBool,
    /// Of the last token, in milliseconds since 1970; 0: none yet.
    last_token: AtomicI64,
    lost: CancellationToken,
}

impl HeldSlot {
    pub fn may_run(&self, now: BootInstant) -> Result<(), Stopped> {
        if self.lost.is_cancelled() {
            Err(Stopped::SlotLost)
        } else if self.left(now).is_zero() {
            Err(Stopped::SlotEnds)
        } else {
            Ok(())
        }
    }

    /// Whether a call may be sent. Once its lease has lapsed the server may be taken for another process, and the slot for free.
    pub fn may_begin(&self, now: BootInstant) -> Result<(), Stopped> {
        self.may_run(now)?;
        if now < from_boot(&self.lease_ends) { Ok(()) } else { Err(Stopped::SlotUnsure) }
    }

    /// Time until its call must have ended.
    pub fn left(&self, now: BootInstant) -> Duration {
        from_boot(&self.call_ends).since(now)
    }

    /// The store moved the end of its call, `within`, and of its lease, from when that was asked.
    pub fn moved(&self, asked_at: BootInstant, within: Duration, lease: Duration) {
        self.call_ends.store(nanos(asked_at + within), Ordering::Release);
        self.renewed(asked_at, lease);
    }

    fn renewed(&self, asked_at: BootInstant, lease: Duration) {
        self.lease_ends.fetch_max(nanos(asked_at + (lease - lease / 20)), Ordering::AcqRel);
    }

    pub fn token(&self) {
        self.last_token.store(Timestamp::now().as_millisecond(), Ordering::Relaxed);
    }

    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    fn last_token(&self) -> Option<Timestamp> {
        let millis = self.last_token.load(Ordering::Relaxed);
        (millis > 0).then(|| Timestamp::from_millisecond(millis).ok()).flatten()
    }
}

/// All slots of a worker.
pub struct HeldSlots {
    store: Arc<dyn Store>,
    lease: Duration,
    held: Mutex<HashMap<(String, i64), Arc<HeldSlot>>>,
    doubted: AtomicBool,
}

impl HeldSlots {
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        Self { store, lease, held: Mutex::default(), doubted: AtomicBool::new(false) }
    }

    /// `asked_at`: before it was asked for.
    pub fn add(&self, slot: Slot, asked_at: BootInstant, call_within: Duration) -> Arc<HeldSlot> {
        let key = key(&slot);
        let held = Arc::new(HeldSlot {
            slot,
            call_ends: AtomicU64::new(0),
            lease_ends: AtomicU64::new(0),
            leaves: AtomicBool::new(false),
            last_token: AtomicI64::new(0),
            lost: CancellationToken::new(),
        });
        held.moved(asked_at, call_within, self.lease);
        self.lock().insert(key, Arc::clone(&held));
        held
    }

    /// Renews all; called every third of their lease.
    pub async fn renew(&self) {
        let stays = |held: &&Arc<HeldSlot>| !held.leaves.load(Ordering::Acquire);
        let all: Vec<_> = self.lock().values().filter(stays).cloned().collect();
        stream::iter(all).for_each_concurrent(AT_ONCE, |held| async move { self.renew_one(&held).await }).await;
    }

    async fn renew_one(&self, held: &HeldSlot) {
        let asked_at = BootInstant::now();
        match self.store.renew_slot(&held.slot, self.lease, held.last_token()).await {
            Ok(()) => held.renewed(asked_at, self.lease),
            Err(StoreError::Fenced(_)) if held.leaves.load(Ordering::Acquire) => {}
            Err(StoreError::Fenced(why)) => {
                tracing::info!(server = held.slot.server_url, slot = held.slot.number, why, "a slot was taken away");
                held.lost.cancel();
            }
            // The lease of its task says when to stop.
            Err(error) => tracing::debug!(server = held.slot.server_url, %error, "a slot is not renewed"),
        }
    }

    /// Gives it back; a lost one is somebody else's already.
    pub async fn release(&self, held: &Arc<HeldSlot>, linger: Duration) {
        held.leaves.store(true, Ordering::Release);
        if let Err(error) = self.store.release_slot(&held.slot, linger).await {
            tracing::debug!(server = held.slot.server_url, %error, "a slot is given back later");
            self.doubt();
        }
        let mut all = self.lock();
        // Its number may have been given to this very worker again.
        if all.get(&key(&held.slot)).is_some_and(|known| Arc::ptr_eq(known, held)) {
            all.remove(&key(&held.slot));
        }
    }

    /// The database may have slots of ours that we don't know.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// Gives back what the database has for `holder` at these servers and we don't know: a slot of a claim that was never answered,
    /// or one that could not be given back. Not while a claim is under way.
    pub async fn give_back_unknown(
        &self,
        holder: &str,
        servers: &[String],
        linger: Duration,
    ) -> Result<(), StoreError> {
        if !self.doubted.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let given_back = async {
            for url in servers {
                for row in self.store.slots(url).await?.into_iter().filter(|row| row.holder == holder) {
                    let slot =
                        Slot { server_url: url.clone(), number: row.number, holder: row.holder, epoch: row.epoch };
                    if self.lock().get(&key(&slot)).is_none_or(|known| known.slot.epoch != slot.epoch) {
                        self.store.release_slot(&slot, linger).await?;
                        tracing::info!(
                            server = slot.server_url,
                            slot = slot.number,
                            "a slot that nobody knew of is given back"
                        );
                    }
                }
            }
            Ok(())
        };
        let done = given_back.await;
        if done.is_err() {
            self.doubt();
        }
        done
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i64), Arc<HeldSlot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanos(at: BootInstant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

fn from_boot(nanos: &AtomicU64) -> BootInstant {
    BootInstant::from_boot(Duration::from_nanos(nanos.load(Ordering::Acquire)))
}

fn key(slot: &Slot) -> (String, i64) {
    (slot.server_url.clone(), slot.number)
}
