//! What this process can't do now: for status, and for whether it is ready.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;

/// Who does not try any more has no trouble any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(20);
/// A first failure is what happens when a database is restarted.
const TOLD_FROM: u32 = 2;

/// By what was attempted. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    /// So that what goes well costs nothing.
    many: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Known {
    since: Timestamp,
    last: Instant,
    times: u32,
    message: String,
    vital: bool,
}

/// Something that failed more than once in a row, and lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedFailure {
    /// What was attempted.
    pub what: Vec<String>,
    pub since: Timestamp,
    pub message: String,
    /// Without it nothing gets done.
    pub vital: bool,
}

impl std::fmt::Display for RepeatedFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (can't {})", self.message, self.what.join(", "))
    }
}

impl Troubles {
    /// It failed once more.
    pub fn failed(&self, what: &str, message: String, vital: bool) {
        let mut known = self.known.lock();
        let new =
            || Known { since: Timestamp::now(), last: Instant::now(), times: 0, message: String::new(), vital: false };
        let entry = known.entry(what.to_owned()).or_insert_with(new);
        if entry.last.elapsed() >= FORGOTTEN_AFTER {
            *entry = new();
        }
        (entry.last, entry.message, entry.vital) = (Instant::now(), message, vital);
        entry.times = entry.times.saturating_add(1);
        self.many.store(known.len(), Ordering::Release);
    }

    /// It went well.
    pub fn over(&self, what: &str) {
        if self.many.load(Ordering::Acquire) > 0 {
            let mut known = self.known.lock();
            known.remove(what);
            self.many.store(known.len(), Ordering::Release);
        }
    }

    /// What fails for one reason is one, the vital ones first.
    pub fn all(&self) -> Vec<RepeatedFailure> {
        let mut all: Vec<RepeatedFailure> = Vec::new();
        for (what, known) in &*self.known.lock() {
            if known.times < TOLD_FROM || known.last.elapsed() >= FORGOTTEN_AFTER {
                continue;
            }
            match all.iter_mut().find(|trouble| trouble.message == known.message && trouble.vital == known.vital) {
                Some(trouble) => {
                    trouble.what.push(what.clone());
                    trouble.since = trouble.since.min(known.since);
                }
                None => all.push(RepeatedFailure {
                    what: vec![what.clone()],
                    since: known.since,
                    message: known.message.clone(),
                    vital: known.vital,
                }),
            }
        }
        all.sort_by_key(|trouble| !trouble.vital);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_twice_is_told_until_it_goes_well_and_one_reason_is_told_once() {
        let troubles = Troubles::default();
        troubles.failed("record results", "the disk is full".into(), true);
        assert_eq!(troubles.all(), [], "once is no trouble");
        for _ in 0..2 {
            troubles.failed("record results", "the disk is full".into(), true);
            troubles.failed("take tasks", "the disk is full".into(), true);
            troubles.failed("drop old tasks", "no answer".into(), false);
        }
        let all = troubles.all();
        assert_eq!(all.iter().map(|one| one.what.len()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(all[0].to_string(), "the disk is full (can't record results, take tasks)");
        troubles.over("record results");
        troubles.over("take tasks");
        assert!(troubles.all().iter().all(|one| !one.vital));
    }
}
