//! What changed in the database, for those who wait for it: they sleep until then, instead of asking again and again.
//!
//! Changes of this process are told at once. Those of others arrive by what the database has for that: NOTIFY in PostgreSQL, a socket
//! for each process in a data folder. Notices can get lost, so nobody relies on them alone: every wait has an end.

use std::collections::HashMap;
use std::ops::{BitAnd, BitOr, BitOrAssign};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{CallEvidence, WorkerReport};

/// How long one waits at most while changes of other processes are not heard.
const DEAF: Duration = Duration::from_secs(2);

/// Kinds of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topics(u8);

impl Topics {
    pub const NONE: Self = Self(0);
    /// Tasks that nobody has came in, or lost their expert.
    pub const NEW: Self = Self(1);
    /// Tasks may be claimed that could not be before.
    pub const READY: Self = Self(1 << 1);
    /// Tasks were claimed.
    pub const STARTED: Self = Self(1 << 2);
    /// Tasks ended or were deleted: the places of their experts are free.
    pub const ENDED: Self = Self(1 << 3);
    /// Backends, servers, experts, queues, pools or schedules are declared otherwise.
    pub const WORLD: Self = Self(1 << 4);
    /// People asked for something: a pause, a suspension, a pass.
    pub const WISHES: Self = Self(1 << 5);
    /// A worker reported something new.
    pub const REPORTS: Self = Self(1 << 6);

    /// A slot was given back where calls wait, or calls wait for one.
    pub const SLOTS: Self = Self(1 << 7);

    /// Everything about tasks.
    pub const TASKS: Self = Self(Self::NEW.0 | Self::READY.0 | Self::STARTED.0 | Self::ENDED.0);
    pub const ALL: Self = Self(u8::MAX);

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    /// Bits that this release does not know are left out.
    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `self` when `true`, else none.
    pub(super) const fn when(self, happened: bool) -> Self {
        if happened { self } else { Self::NONE }
    }

    pub(super) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    fn positions(self) -> impl Iterator<Item = usize> {
        (0..COUNT).filter(move |at| self.0 & (1 << at) != 0)
    }
}

impl BitOr for Topics {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Topics {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOrAssign for Topics {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

const COUNT: usize = 8;

/// How often each kind has changed.
type Versions = [u64; COUNT];

/// What a store knows of changes. Clones share it.
#[derive(Clone)]
pub(super) struct ChangeHub {
    versions: watch::Sender<Versions>,
    hears: Arc<AtomicBool>,
}

impl ChangeHub {
    pub fn new() -> Self {
        Self { versions: watch::Sender::new([0; COUNT]), hears: Arc::default() }
    }

    /// Tells those in this process.
    pub fn note(&self, topics: Topics) {
        if topics.is_empty() {
            return;
        }
        self.versions.send_modify(|versions| {
            for at in topics.positions() {
                versions[at] += 1;
            }
        });
    }

    /// Whether changes of other processes arrive now.
    pub fn set_hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Release);
    }

    pub fn follow(&self, topics: Topics) -> Follower {
        let receiver = self.versions.subscribe();
        let seen = *receiver.borrow();
        Follower { topics, seen, receiver, hears: Arc::clone(&self.hears) }
    }
}

/// Whoever waits for changes, instead of asking again and again.
pub trait Changes: Send + Sync {
    /// Follows these kinds of changes from now on, here and in other processes.
    fn follow(&self, topics: Topics) -> Follower;
}

/// What each worker of this process last reported of servers: a report that repeats it is no news.
#[derive(Default)]
pub(super) struct Reported(Mutex<HashMap<String, Vec<CallEvidence>>>);

impl Reported {
    pub fn is_news(&self, report: &WorkerReport) -> bool {
        let mut last = self.lock();
        match last.get(&report.holder) {
            Some(known) if *known == report.evidence => !report.calls.is_empty(),
            _ => {
                last.insert(report.holder.clone(), report.evidence.clone());
                true
            }
        }
    }

    pub fn forget(&self, holder: &str) {
        self.lock().remove(holder);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<CallEvidence>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows some kinds of changes. A change between two waits is not missed.
pub struct Follower {
    topics: Topics,
    seen: Versions,
    receiver: watch::Receiver<Versions>,
    hears: Arc<AtomicBool>,
}

impl Follower {
    /// Until something changed since the last time, or `most` has passed; tells whether something may have.
    pub async fn changed(&mut self, most: Duration) -> bool {
        let began = Instant::now();
        loop {
            if self.take() {
                return true;
            }
            let hears = self.hears.load(Ordering::Acquire);
            let until = began + if hears { most } else { most.min(DEAF) };
            match tokio::time::timeout_at(until, self.receiver.changed()).await {
                Ok(Ok(())) => {}
                // The store is gone: there is nothing to hear any more.
                Ok(Err(_)) => {
                    tokio::time::sleep_until(until).await;
                    return false;
                }
                Err(_) => return self.take() || !hears,
            }
        }
    }

    /// Whether something changed since the last time; it counts as seen from now on.
    pub fn take(&mut self) -> bool {
        let now = *self.receiver.borrow_and_update();
        let changed = self.topics.positions().any(|at| now[at] != self.seen[at]);
        self.seen = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn hub() -> ChangeHub {
        let hub = ChangeHub::new();
        hub.set_hears(true);
        hub
    }

    #[tokio::test]
    async fn a_change_is_seen_once_by_whoever_follows_its_kind() {
        let hub = hub();
        let mut tasks = hub.follow(Topics::NEW | Topics::READY);
        let mut wishes = hub.follow(Topics::WISHES);
        hub.note(Topics::READY);
        hub.note(Topics::READY);
        assert!(tasks.changed(LONG).await, "also what changed before the wait");
        assert!(!tasks.changed(SHORT).await, "once");
        assert!(!wishes.changed(SHORT).await, "nothing of its kind");
        let (told, ()) = tokio::join!(wishes.changed(LONG), async { hub.note(Topics::WISHES | Topics::ENDED) });
        assert!(told);
        assert!(!hub.follow(Topics::ALL).take(), "what was before is no change");
    }

    #[tokio::test]
    async fn while_others_are_not_heard_a_wait_ends_early_and_something_may_have_changed() {
        let hub = ChangeHub::new();
        let mut follower = hub.follow(Topics::NEW);
        let began = Instant::now();
        assert!(follower.changed(LONG).await);
        assert!(began.elapsed() >= DEAF && began.elapsed() < LONG, "{:?}", began.elapsed());
        assert!(follower.changed(SHORT).await);
        hub.set_hears(true);
        assert!(!follower.changed(SHORT).await);
    }

    #[tokio::test]
    async fn whoever_follows_a_store_that_is_gone_does_not_spin() {
        let hub = hub();
        let mut follower = hub.follow(Topics::NEW);
        drop(hub);
        let began = Instant::now();
        assert!(!follower.changed(SHORT).await);
        assert!(began.elapsed() >= SHORT);
    }

    #[test]
    fn topics_travel_as_bits_and_unknown_ones_are_left_out() {
        assert_eq!(Topics::from_bits((Topics::NEW | Topics::WORLD).bits()), Topics::NEW | Topics::WORLD);
        assert_eq!(Topics::from_bits(u8::MAX), Topics::ALL);
        assert!(Topics::NEW.when(false).is_empty());
    }
}
