//! This process' leases, one for each queue: opened, renewed at half of their length, and known to be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{BootInstant, Lease, Served, Store, StoreError},
    tasks::QueueKey,
};

/// A lease and until when it surely holds, on a clock that counts sleep.
#[derive(Debug)]
pub struct HeldLease {
    pub lease: Lease,
    pub queue: QueueKey,
    /// As it was last renewed, and as its queue has it now: milliseconds.
    length: AtomicU64,
    wanted: AtomicU64,
    /// Nanoseconds since boot.
    asked_at: AtomicU64,
    /// When somebody last wanted to claim under it.
    used_at: AtomicU64,
    lost: CancellationToken,
    doubted: AtomicBool,
}

impl HeldLease {
    fn new(lease: Lease, queue: QueueKey, length: Duration, asked_at: BootInstant) -> Self {
        let millis = millis(length);
        Self {
            lease,
            queue,
            length: AtomicU64::new(millis),
            wanted: AtomicU64::new(millis),
            asked_at: AtomicU64::new(nanos(asked_at)),
            used_at: AtomicU64::new(nanos(asked_at)),
            lost: CancellationToken::new(),
            doubted: AtomicBool::new(false),
        }
    }

    /// The database may have a task under it of which nobody here knows: nothing more is claimed under it, and it is closed once what is
    /// known of it is recorded. Then that task is free.
    pub fn doubt(&self) {
        if !self.doubted.swap(true, Ordering::AcqRel) {
            tracing::info!(
                queue = self.queue.name,
                lease = self.lease.id,
                "a lease is closed when its tasks have ended"
            );
        }
    }

    fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// Counted from before it was asked for, with a twentieth to spare for clocks that run at different speeds.
    pub fn holds(&self, now: BootInstant) -> bool {
        let length = self.length();
        !self.lost.is_cancelled() && now.since(self.asked_at()) < length - length / 20
    }

    /// Resolves when it belongs to nobody or to somebody else.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    fn is_due(&self, now: BootInstant) -> bool {
        self.wanted() != self.length() || now.since(self.asked_at()) >= self.length() / 2
    }

    fn length(&self) -> Duration {
        Duration::from_millis(self.length.load(Ordering::Acquire))
    }

    fn wanted(&self) -> Duration {
        Duration::from_millis(self.wanted.load(Ordering::Acquire))
    }

    fn used_at(&self) -> BootInstant {
        BootInstant::from_boot(Duration::from_nanos(self.used_at.load(Ordering::Acquire)))
    }

    fn asked_at(&self) -> BootInstant {
        BootInstant::from_boot(Duration::from_nanos(self.asked_at.load(Ordering::Acquire)))
    }

    /// The time first: a longer length from an older time would claim too much.
    fn renewed(&self, asked_at: BootInstant, length: Duration) {
        self.asked_at.store(nanos(asked_at), Ordering::Release);
        self.length.store(millis(length), Ordering::Release);
    }
}

fn nanos(at: BootInstant) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

/// All leases of a worker.
pub struct Leases {
    store: Arc<dyn Store>,
    holder: String,
    known: Mutex<Known>,
}

/// Whoever has a task under a lease has a share of it.
#[derive(Default)]
struct Known {
    by_queue: HashMap<QueueKey, Arc<HeldLease>>,
    /// Doubted ones: others are opened in their place.
    replaced: Vec<Arc<HeldLease>>,
    /// How often that was. Under the name of one that is open, another would be the same one.
    names: u64,
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Arc<HeldLease>> {
        self.by_queue.values().chain(&self.replaced)
    }

    /// Moves doubted ones aside.
    fn set_aside(&mut self) {
        let before = self.replaced.len();
        self.replaced.extend(self.by_queue.extract_if(|_, held| held.is_doubted()).map(|(_, held)| held));
        if self.replaced.len() > before {
            self.names += 1;
        }
    }
}

impl Leases {
    pub fn new(store: Arc<dyn Store>, holder: String) -> Self {
        Self { store, holder, known: Mutex::default() }
    }

    /// The leases of these queues that hold now; those that are missing are opened. One whose queue has another length now is
    /// renewed with that.
    pub async fn served(&self, queues: &[(QueueKey, Duration)]) -> Result<Vec<Served>, StoreError> {
        let mut served = Vec::with_capacity(queues.len());
        for (queue, length) in queues {
            let known = self.usable(queue);
            let held = match known {
                Some(held) => {
                    held.used_at.store(nanos(BootInstant::now()), Ordering::Release);
                    held.wanted.store(millis(*length), Ordering::Release);
                    held
                }
                None => self.open(queue, *length).await?,
            };
            if held.holds(BootInstant::now()) {
                served.push(Served { queue: queue.clone(), lease: held.lease.clone() });
            }
        }
        Ok(served)
    }

    async fn open(&self, queue: &QueueKey, length: Duration) -> Result<Arc<HeldLease>, StoreError> {
        let asked_at = BootInstant::now();
        let holder = match self.known.lock().names {
            0 => self.holder.clone(),
            others => format!("{}+{others}", self.holder),
        };
        let lease = self.store.open_lease(&holder, queue, length).await?;
        let held = Arc::new(HeldLease::new(lease, queue.clone(), length, asked_at));
        self.known.lock().by_queue.insert(queue.clone(), Arc::clone(&held));
        Ok(held)
    }

    fn usable(&self, queue: &QueueKey) -> Option<Arc<HeldLease>> {
        let mut known = self.known.lock();
        known.set_aside();
        known.by_queue.get(queue).filter(|held| !held.lost.is_cancelled()).cloned()
    }

    /// Those that are open now for the same queues.
    pub fn current(&self, served: &[Served]) -> Vec<Served> {
        let now = BootInstant::now();
        let current = |served: &Served| {
            let held = self.usable(&served.queue).filter(|held| held.holds(now))?;
            Some(Served { queue: held.queue.clone(), lease: held.lease.clone() })
        };
        served.iter().filter_map(current).collect()
    }

    /// The one that a claim names.
    pub fn of(&self, lease: &Lease) -> Option<Arc<HeldLease>> {
        self.known.lock().all().find(|held| held.lease.id == lease.id).cloned()
    }

    /// A claim under these was not answered: see [`HeldLease::doubt`].
    pub fn doubt(&self, served: &[Served]) {
        for held in served.iter().filter_map(|served| self.of(&served.lease)) {
            held.doubt();
        }
    }

    /// Closes doubted ones of which nobody has a task any more. Returns whether there were any.
    pub async fn settle(&self) -> Result<bool, StoreError> {
        let settled: Vec<Arc<HeldLease>> = {
            let mut known = self.known.lock();
            known.set_aside();
            known.replaced.iter().filter(|held| Arc::strong_count(held) == 1).cloned().collect()
        };
        for held in &settled {
            self.store.close_lease(&held.lease).await?;
            held.lost.cancel();
            self.known.lock().replaced.retain(|other| !Arc::ptr_eq(other, held));
        }
        Ok(!settled.is_empty())
    }

    /// Closes those under which nothing is claimed and nobody wanted to for so long. Not while this worker claims.
    pub async fn rest(&self, idle: Duration) {
        let now = BootInstant::now();
        // The only one who knows of it is the list.
        let goes = |held: &Arc<HeldLease>| Arc::strong_count(held) == 1 && now.since(held.used_at()) >= idle;
        let gone: Vec<_> = self.known.lock().by_queue.extract_if(|_, held| goes(held)).map(|(_, held)| held).collect();
        self.end(gone).await;
    }

    /// Renews those of which half is over.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let asked_at = BootInstant::now();
        let due: Vec<Arc<HeldLease>> = self
            .known
            .lock()
            .all()
            .filter(|held| !held.lost.is_cancelled() && held.is_due(asked_at))
            .cloned()
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let leases: Vec<_> = due.iter().map(|held| (held.lease.clone(), held.wanted())).collect();
        let lost = self.store.renew_leases(&leases).await?;
        for (held, (_, length)) in due.into_iter().zip(&leases) {
            if lost.iter().any(|lease| lease.id == held.lease.id) {
                tracing::warn!(
                    queue = held.queue.name,
                    lease = held.lease.id,
                    "a lease was lost: its calls are aborted"
                );
                held.lost.cancel();
            } else {
                held.renewed(asked_at, *length);
            }
        }
        Ok(())
    }

    /// Ends those of queues that are served no longer and have no calls, or all.
    pub async fn close(&self, goes: impl Fn(&HeldLease) -> bool) {
        let gone: Vec<Arc<HeldLease>> = {
            let mut known = self.known.lock();
            let mut gone: Vec<_> = known.by_queue.extract_if(|_, held| goes(held)).map(|(_, held)| held).collect();
            gone.extend(known.replaced.extract_if(.., |held| goes(held)));
            gone
        };
        self.end(gone).await;
    }

    async fn end(&self, leases: Vec<Arc<HeldLease>>) {
        for held in leases {
            held.lost.cancel();
            if let Err(error) = self.store.close_lease(&held.lease).await {
                tracing::debug!(%error, queue = held.queue.name, "a lease lapses by itself");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_for_less_than_its_length_from_when_it_was_asked_for() {
        let at = |second| BootInstant::from_boot(Duration::from_secs(second));
        let queue = QueueKey { namespace: "default".into(), name: "q".into() };
        let lease = Lease { id: 1, holder: "h".into() };
        let held = HeldLease::new(lease, queue, Duration::from_secs(90), at(1_000));
        let cases = [
            (1_000, true, false),
            (1_044, true, false),
            (1_045, true, true),
            (1_085, true, true),
            (1_086, false, true),
        ];
        for (second, holds, due) in cases {
            assert_eq!((held.holds(at(second)), held.is_due(at(second))), (holds, due), "at {second}");
        }
        held.renewed(at(1_060), Duration::from_secs(90));
        assert!(held.holds(at(1_145)) && !held.holds(at(1_146)));
        held.wanted.store(10_000, Ordering::Release);
        assert!(held.is_due(at(1_061)), "its queue has another length now");
        held.renewed(at(1_061), Duration::from_secs(10));
        assert!(held.holds(at(1_070)) && !held.holds(at(1_071)) && !held.is_due(at(1_062)));
        held.lost.cancel();
        assert!(!held.holds(at(1_061)));
    }
}
