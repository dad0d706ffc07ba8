//! Slots in hand: renewed with the time of their last token, and known to be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
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

    /// Time until its call must have ended.
    pub fn left(&self, now: BootInstant) -> Duration {
        BootInstant::from_boot(Duration::from_nanos(self.call_ends.load(Ordering::Acquire))).since(now)
    }

    /// The store moved the end of its call: `within`, from when that was asked.
    pub fn moved(&self, asked_at: BootInstant, within: Duration) {
        let ends = (asked_at + within).since_boot().as_nanos();
        self.call_ends.store(u64::try_from(ends).unwrap_or(u64::MAX), Ordering::Release);
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
}

impl HeldSlots {
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        Self { store, lease, held: Mutex::default() }
    }

    /// `asked_at`: before it was asked for.
    pub fn add(&self, slot: Slot, asked_at: BootInstant, call_within: Duration) -> Arc<HeldSlot> {
        let key = key(&slot);
        let held = Arc::new(HeldSlot {
            slot,
            call_ends: AtomicU64::new(0),
            last_token: AtomicI64::new(0),
            lost: CancellationToken::new(),
        });
        held.moved(asked_at, call_within);
        self.lock().insert(key, Arc::clone(&held));
        held
    }

    /// Renews all; called every third of their lease.
    pub async fn renew(&self) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        stream::iter(all).for_each_concurrent(AT_ONCE, |held| async move { self.renew_one(&held).await }).await;
    }

    async fn renew_one(&self, held: &HeldSlot) {
        match self.store.renew_slot(&held.slot, self.lease, held.last_token()).await {
            Ok(()) => {}
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
        self.lock().remove(&key(&held.slot));
        if let Err(error) = self.store.release_slot(&held.slot, linger).await {
            tracing::debug!(server = held.slot.server_url, %error, "a slot lapses by itself");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, i64), Arc<HeldSlot>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(slot: &Slot) -> (String, i64) {
    (slot.server_url.clone(), slot.number)
}
