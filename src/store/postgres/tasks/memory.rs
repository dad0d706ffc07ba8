//! What a process remembers of tasks, beside the database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::PgPool;

use super::claim::{ClaimProgress, Search};
use super::cursor::Cursors;
use super::scheduling::DueClock;
use super::waking::Waker;
use crate::store::BootInstant;
use crate::store::batch::BatchSize;
use crate::store::changes::{Reported, Topics};
use crate::tasks::TaskId;

pub(in super::super) struct WorkState {
    pub(super) cursors: Arc<Mutex<Cursors>>,
    pub(super) waker: Waker,
    pub(super) reported: Reported,
    pub(super) due: Arc<DueClock>,
    /// Tasks that one transaction changes for a command.
    pub(super) commanded: BatchSize,
    /// Tasks that one transaction takes back from lapsed leases.
    pub(super) reaped: BatchSize,
    /// Ended tasks that one statement looks through for what is past its time, and where the next one goes on.
    pub(super) retained: BatchSize,
    pub(super) retained_until: Mutex<HashMap<&'static str, (Timestamp, TaskId)>>,
    /// The last claim got all that it asked for: there is more.
    busy: AtomicBool,
    /// Tasks whose rows the database does not let anybody change, and since when that is known.
    stepped_over: Mutex<HashMap<TaskId, BootInstant>>,
}

/// A task is stepped over for so long before it is tried again.
const STEPPED_OVER: Duration = Duration::from_secs(60);

impl WorkState {
    /// `pool`: of connections that listen and notify.
    pub fn new(pool: PgPool, schema: &str) -> Self {
        let (cursors, due) = (Arc::<Mutex<Cursors>>::default(), Arc::<DueClock>::default());
        let (forgotten, clock) = (cursors.clone(), due.clone());
        let forget = move || {
            forgotten.lock().unwrap_or_else(PoisonError::into_inner).forget();
            clock.hurry();
        };
        Self {
            cursors,
            waker: Waker::new(pool, schema.to_owned(), forget),
            reported: Reported::default(),
            due,
            commanded: BatchSize::new(1_000),
            reaped: BatchSize::new(2_000),
            retained: BatchSize::new(10_000),
            retained_until: Mutex::default(),
            busy: AtomicBool::new(false),
            stepped_over: Mutex::default(),
        }
    }

    pub(super) fn begin(&self, searches: &mut [Search<'_>], now: BootInstant) {
        let cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        for search in searches {
            search.after = cursors.begin(&search.lane, now);
        }
    }

    pub(super) fn claimed(&self, searches: &[Search<'_>], seen: &ClaimProgress, began: BootInstant) {
        let mut cursors = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        for (search, last) in searches.iter().zip(&seen.last) {
            cursors.claimed(&search.lane, search.after, *last, seen.passed_over, began);
        }
    }

    pub(super) fn stepped_over(&self) -> Vec<TaskId> {
        let mut known = self.stepped_over.lock().unwrap_or_else(PoisonError::into_inner);
        let now = BootInstant::now();
        known.retain(|_, since| now.since(*since) < STEPPED_OVER);
        known.keys().copied().collect()
    }

    pub(super) fn step_over(&self, task: TaskId) {
        self.stepped_over.lock().unwrap_or_else(PoisonError::into_inner).insert(task, BootInstant::now());
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    pub(super) fn note_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Such changes were committed.
    pub fn changed(&self, topics: Topics) {
        self.waker.changed(topics);
    }
}
