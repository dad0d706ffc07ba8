//! Slots in hand: renewed with what is known of the call that runs in each, and known to be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::CallStopped;
use crate::store::{BootInstant, CallLife, Slot, Store, StoreError};

/// Renewals at once.
const AT_ONCE: usize = 8;
/// A call is recorded once it has run for so long, and its slot's row is written no more often than this between renewals.
const SETTLED: Duration = Duration::from_secs(2);
/// While bytes come, the recorded time of the last one is no older than this, and a pass of the loop.
const BYTES: Duration = Duration::from_secs(5);

/// A slot in hand.
#[derive(Debug)]
pub struct HeldSlot {
    pub slot: Slot,
    /// Nanoseconds since boot by which the call in it must have ended.
    call_ends: AtomicU64,
    /// The same for its lease, with a twentieth to spare.
    lease_ends: AtomicU64,
    /// Each renewal gives its call so long.
    may_last: Option<Duration>,
    /// It is being given back.
    leaves: AtomicBool,
    call: Mutex<Recorded>,
    lost: CancellationToken,
}

impl HeldSlot {
    pub fn may_run(&self, now: BootInstant) -> Result<(), CallStopped> {
        if self.lost.is_cancelled() {
            Err(CallStopped::SlotLost)
        } else if self.left(now).is_zero() {
            Err(CallStopped::SlotEnds)
        } else {
            Ok(())
        }
    }

    /// Whether a call may be sent. Once its lease has lapsed the server may be taken for another process, and the slot for free.
    pub fn may_begin(&self, now: BootInstant) -> Result<(), CallStopped> {
        self.may_run(now)?;
        if now < from_boot(&self.lease_ends) { Ok(()) } else { Err(CallStopped::SlotUnsure) }
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

    /// The store knows this of the call that runs in it.
    pub fn recorded(&self, asked_at: BootInstant, life: CallLife) {
        let mut call = self.call();
        call.known = life;
        call.known_at = Some(asked_at);
    }

    fn renewed(&self, asked_at: BootInstant, lease: Duration) {
        self.lease_ends.fetch_max(nanos(asked_at + (lease - lease / 20)), Ordering::AcqRel);
    }

    /// A call is sent in it now.
    pub fn begin_call(&self, outlives_client: bool) {
        let mut call = self.call();
        call.life = CallLife { began_at: Some(Timestamp::now()), outlives_client, ..CallLife::default() };
        call.began = Some(BootInstant::now());
    }

    /// A call is sent in it that shows no sign of life before its end: its silence is no evidence against the server.
    pub fn begin_silent_call(&self, outlives_client: bool) {
        let mut call = self.call();
        call.life = CallLife { outlives_client, ..CallLife::default() };
        call.began = None;
    }

    /// Whether the store must be told of the call before it is sent: the slot must not be freed early when this process dies.
    fn must_be_recorded(&self) -> bool {
        let call = self.call();
        call.life.outlives_client && !call.known.outlives_client
    }

    /// The call that runs in it received something.
    pub fn byte(&self) {
        self.call().life.last_byte_at = Some(Timestamp::now());
    }

    /// The server answers that call: it notices when its client goes.
    pub fn token(&self) {
        self.call().life.outlives_client = false;
        self.byte();
    }

    /// No call of ours runs in it any more; it `lingers` when the server may still be at it.
    pub fn end_call(&self, lingers: bool) {
        let mut call = self.call();
        call.is_outlived = lingers && call.life.outlives_client;
        call.life = CallLife::default();
        call.began = None;
    }

    /// The call that runs in it now.
    pub fn life(&self) -> CallLife {
        CallLife { may_last: self.may_last, ..self.call().life }
    }

    fn call(&self) -> MutexGuard<'_, Recorded> {
        self.call.lock()
    }

    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }
}

/// The call that runs in a slot, and what the database knows of it.
#[derive(Debug, Default)]
struct Recorded {
    life: CallLife,
    began: Option<BootInstant>,
    known: CallLife,
    known_at: Option<BootInstant>,
    /// The last call was left although the server does not notice that.
    is_outlived: bool,
}

impl Recorded {
    /// Whether it is to be written before the next renewal: its begin and its first byte soon, so that the leader can judge it; later
    /// bytes seldom; a short call not at all.
    fn is_due(&self, now: BootInstant) -> bool {
        let since = |at: Option<BootInstant>| at.map_or(Duration::MAX, |at| now.since(at));
        if self.began.is_some() && self.known.outlives_client && !self.life.outlives_client {
            return true;
        }
        if self.began.is_none() || since(self.began) < SETTLED {
            return false;
        }
        let is_new = self.life.began_at != self.known.began_at;
        let is_alive = self.life.last_byte_at != self.known.last_byte_at;
        let wait = if is_new || self.known.last_byte_at.is_none() { SETTLED } else { BYTES };
        (is_new || is_alive) && since(self.known_at) >= wait
    }
}

/// All slots of a process.
pub struct HeldSlots {
    store: Arc<dyn Store>,
    lease: Duration,
    held: Mutex<HashMap<(String, i64), Arc<HeldSlot>>>,
    /// Not held any more, and left to lapse.
    outlived: Mutex<Vec<Arc<HeldSlot>>>,
    doubted: AtomicBool,
}

impl HeldSlots {
    pub fn new(store: Arc<dyn Store>, lease: Duration) -> Self {
        Self { store, lease, held: Mutex::default(), outlived: Mutex::default(), doubted: AtomicBool::new(false) }
    }

    /// `asked_at`: before it was asked for.
    pub fn add(&self, slot: Slot, asked_at: BootInstant, call_within: Duration) -> Arc<HeldSlot> {
        self.insert(slot, asked_at, call_within, None)
    }

    /// The same for a call without an end of its own: each renewal gives it as long again.
    pub fn add_lasting(&self, slot: Slot, asked_at: BootInstant, call_within: Duration) -> Arc<HeldSlot> {
        self.insert(slot, asked_at, call_within, Some(call_within))
    }

    fn insert(
        &self,
        slot: Slot,
        asked_at: BootInstant,
        call_within: Duration,
        may_last: Option<Duration>,
    ) -> Arc<HeldSlot> {
        let key = key(&slot);
        let held = Arc::new(HeldSlot {
            slot,
            call_ends: AtomicU64::new(0),
            lease_ends: AtomicU64::new(0),
            may_last,
            leaves: AtomicBool::new(false),
            call: Mutex::default(),
            lost: CancellationToken::new(),
        });
        held.moved(asked_at, call_within, self.lease);
        self.held.lock().insert(key, Arc::clone(&held));
        held
    }

    /// Renews all; called every third of their lease.
    pub async fn renew(&self) {
        self.renew_those(|_| true).await;
    }

    /// Renews those whose call has something to tell before that; called every second.
    pub async fn record_calls(&self) {
        let now = BootInstant::now();
        self.renew_those(|held| held.call().is_due(now)).await;
    }

    async fn renew_those(&self, which: impl Fn(&HeldSlot) -> bool) {
        let stays = |held: &&Arc<HeldSlot>| !held.leaves.load(Ordering::Acquire) && which(held);
        let all: Vec<_> = self.held.lock().values().filter(stays).cloned().collect();
        stream::iter(all).for_each_concurrent(AT_ONCE, |held| async move { self.renew_one(&held).await }).await;
    }

    /// Tells the store of a call that outlives its client, before it is sent. Returns whether the call may be sent.
    pub async fn announce_call(&self, held: &HeldSlot) -> bool {
        if held.must_be_recorded() {
            self.renew_one(held).await;
        }
        !held.must_be_recorded()
    }

    async fn renew_one(&self, held: &HeldSlot) {
        let asked_at = BootInstant::now();
        let life = held.life();
        match self.store.renew_slot(&held.slot, self.lease, life).await {
            Ok(()) => {
                held.renewed(asked_at, self.lease);
                if let Some(within) = held.may_last {
                    held.call_ends.fetch_max(nanos(asked_at + within), Ordering::AcqRel);
                }
                held.recorded(asked_at, life);
            }
            Err(StoreError::Fenced(_)) if held.leaves.load(Ordering::Acquire) => {}
            Err(StoreError::Fenced(why)) => {
                tracing::info!(server = held.slot.server_url, slot = held.slot.number, why, "a slot was taken away");
                held.lost.cancel();
            }
            // The lease of its task says when to stop.
            Err(error) => tracing::debug!(server = held.slot.server_url, %error, "a slot is not renewed"),
        }
    }

    /// Gives it back; a lost one is somebody else's already. One in which the server works on is left to lapse: it counts until its
    /// call must have ended, or the server is seen to do nothing.
    pub async fn release(&self, held: &Arc<HeldSlot>, linger: Duration) {
        held.leaves.store(true, Ordering::Release);
        if held.call().is_outlived {
            tracing::debug!(server = held.slot.server_url, "the server works on in a slot; it lapses");
            let mut outlived = self.outlived.lock();
            outlived.retain(|one| !one.left(BootInstant::now()).is_zero());
            outlived.push(Arc::clone(held));
        } else if let Err(error) = self.store.release_slot(&held.slot, linger).await {
            tracing::debug!(server = held.slot.server_url, %error, "a slot is given back later");
            self.doubt();
        }
        let mut all = self.held.lock();
        // Its number may have been given to this very process again.
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
                    let is_held = self.held.lock().get(&key(&slot)).is_some_and(|known| known.slot.epoch == slot.epoch);
                    let lapses = self.outlived.lock().iter().any(|known| known.slot == slot);
                    if !is_held && !lapses {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(second))
    }

    fn life(began: i64, last_byte: Option<i64>) -> CallLife {
        let time = |second| Timestamp::from_second(second).expect("a time");
        CallLife { began_at: Some(time(began)), last_byte_at: last_byte.map(time), ..CallLife::default() }
    }

    #[test]
    fn a_call_is_recorded_soon_and_seldom() {
        let none = CallLife::default();
        // The call began at 100; what the database knows, since when; due at.
        for (now, known, known_at, last_byte, due, why) in [
            (101, none, None, None, false, "it may be a short call"),
            (102, none, None, None, true, "its begin"),
            (102, life(50, Some(99)), Some(101), None, false, "written a second ago"),
            (103, life(50, Some(99)), Some(101), None, true, "the call before is known, not this one"),
            (104, life(100, None), Some(102), None, false, "nothing is new"),
            (104, life(100, None), Some(102), Some(103), true, "its first byte"),
            (103, life(100, None), Some(102), Some(103), false, "written a second ago"),
            (106, life(100, Some(103)), Some(104), Some(106), false, "later bytes can wait"),
            (109, life(100, Some(103)), Some(104), Some(109), true, "but not for long"),
            (200, life(100, Some(103)), Some(104), Some(103), false, "silence is not written again and again"),
        ] {
            let call = Recorded {
                life: life(100, last_byte),
                began: Some(at(100)),
                known,
                known_at: known_at.map(at),
                is_outlived: false,
            };
            assert_eq!(call.is_due(at(now)), due, "at {now}: {why}");
        }
        let announced = CallLife { outlives_client: true, ..life(100, None) };
        let answers = Recorded {
            life: life(100, Some(101)),
            began: Some(at(100)),
            known: announced,
            known_at: Some(at(100)),
            is_outlived: false,
        };
        assert!(answers.is_due(at(101)), "the server notices now when its client goes: its slot may be freed sooner");
        let ended = Recorded { known: life(100, Some(103)), known_at: Some(at(104)), ..Recorded::default() };
        assert!(!ended.is_due(at(200)), "its slot is claimed for the next call, or given back");
    }
}
