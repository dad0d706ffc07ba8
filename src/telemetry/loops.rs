//! Which loops are alive. Each loop says for how long it may be silent, and beats; `/livez` names those that are late.
//!
//! Silence is measured in time that this process was awake: a laptop that slept, or a process that was stopped and
//! continued, wakes with every loop as fresh as it was.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::base::tick;

const TICK: Duration = Duration::from_secs(1);
/// More than this between two ticks means that the process did not run.
const LONGEST_TICK: Duration = Duration::from_secs(3);

/// The loops of a process.
#[derive(Clone, Debug, Default)]
pub struct Loops {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    awake: Duration,
    next_id: u64,
    loops: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    may_be_silent: Duration,
    last_beat: Duration,
    died: bool,
}

/// A loop that does not run as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckLoop {
    pub name: String,
    /// For how long it has been silent, counted while this process was awake.
    pub silent: Duration,
    /// How long it may be.
    pub may_be_silent: Duration,
    /// It panicked, and was not started again.
    pub died: bool,
}

impl Loops {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a loop that beats at least once in `may_be_silent`. The loop counts until its [`Beat`] is dropped; one that
    /// is dropped by a panic counts as dead.
    pub fn register(&self, name: impl Into<String>, may_be_silent: Duration) -> Beat {
        let (mut inner, name) = (self.inner.lock(), name.into());
        // One that died was started again.
        inner.loops.retain(|_, entry| !entry.died || entry.name != name);
        let id = inner.next_id;
        inner.next_id += 1;
        let last_beat = inner.awake;
        inner.loops.insert(id, Entry { name, may_be_silent, last_beat, died: false });
        Beat { loops: self.clone(), id }
    }

    /// The loops that are silent for longer than they may be, or died.
    pub fn stuck(&self) -> Vec<StuckLoop> {
        let inner = self.inner.lock();
        inner
            .loops
            .values()
            .map(|entry| StuckLoop {
                name: entry.name.clone(),
                silent: inner.awake.saturating_sub(entry.last_beat),
                may_be_silent: entry.may_be_silent,
                died: entry.died,
            })
            .filter(|stuck| stuck.died || stuck.silent > stuck.may_be_silent)
            .collect()
    }

    /// How many loops are registered.
    pub fn len(&self) -> usize {
        self.inner.lock().loops.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Counts the time awake until `shutdown`; without it no loop is ever late. When the runtime itself hangs, `/livez` does
    /// not answer at all, which says the same.
    pub async fn keep_time(self, shutdown: CancellationToken) {
        let mut last = Instant::now();
        while shutdown.run_until_cancelled(tick(TICK)).await.is_some() {
            let now = Instant::now();
            self.advance(now.saturating_duration_since(last));
            last = now;
        }
    }

    fn advance(&self, elapsed: Duration) {
        self.inner.lock().awake += elapsed.min(LONGEST_TICK);
    }
}

/// A registered loop.
#[derive(Debug)]
pub struct Beat {
    loops: Loops,
    id: u64,
}

impl Beat {
    /// The loop is alive.
    pub fn beat(&self) {
        let mut inner = self.loops.inner.lock();
        let awake = inner.awake;
        if let Some(entry) = inner.loops.get_mut(&self.id) {
            entry.last_beat = awake;
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        let mut inner = self.loops.inner.lock();
        if std::thread::panicking() {
            if let Some(entry) = inner.loops.get_mut(&self.id) {
                entry.died = true;
            }
        } else {
            inner.loops.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn pass(loops: &Loops, whole: u64) {
        for _ in 0..whole {
            loops.advance(seconds(1));
        }
    }

    #[test]
    fn a_silent_loop_is_named_and_a_beating_one_is_not() {
        let loops = Loops::new();
        let prober = loops.register("prober", seconds(10));
        let _sweep = loops.register("sweep", seconds(10));
        pass(&loops, 8);
        prober.beat();
        pass(&loops, 8);
        let stuck = loops.stuck();
        assert_eq!(stuck.len(), 1);
        assert_eq!((stuck[0].name.as_str(), stuck[0].silent), ("sweep", seconds(16)));
    }

    #[test]
    fn a_night_asleep_makes_nobody_late() {
        let loops = Loops::new();
        let _prober = loops.register("prober", seconds(10));
        loops.advance(seconds(8 * 3600));
        assert_eq!(loops.stuck(), []);
    }

    #[test]
    fn a_loop_that_ended_is_forgotten_and_one_that_panicked_is_dead() {
        let loops = Loops::new();
        drop(loops.register("ended", seconds(1)));
        let beat = loops.register("panicked", seconds(1));
        std::thread::spawn(move || {
            let _beat = beat;
            panic!("as the test wants");
        })
        .join()
        .unwrap_err();
        let stuck = loops.stuck();
        assert_eq!(stuck.len(), 1);
        assert!(stuck[0].died && stuck[0].name == "panicked");
    }

    #[tokio::test]
    async fn time_is_kept_until_the_shutdown() {
        let (loops, shutdown) = (Loops::new(), CancellationToken::new());
        let _late = loops.register("late", Duration::ZERO);
        let clock = tokio::spawn(loops.clone().keep_time(shutdown.clone()));
        let deadline = Instant::now() + seconds(10);
        while loops.stuck().is_empty() && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        assert_eq!(loops.stuck().len(), 1);
        shutdown.cancel();
        clock.await.unwrap();
    }
}
