//! When an object whose pass failed is looked at again: each object by itself.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;

use super::error::{Class, StepError};
use crate::tasks::retry::doubled;

/// After the first failure; doubled with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// For what only a person can mend.
const LONGEST: Duration = Duration::from_secs(300);
/// For what may pass at any moment, such as a database that is away.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// For a status that is refused: a CRD that is updated must be noticed soon.
const LONGEST_STATUS: Duration = Duration::from_secs(60);

/// The failing objects of one kind.
pub struct Backoffs<K>(Mutex<HashMap<K, Backoff>>);

struct Backoff {
    failures: i32,
    until: Instant,
    generation: Option<i64>,
    /// It was looked at before `until`, because something asked for that.
    early: bool,
    said: String,
}

impl<K> Default for Backoffs<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Backoffs<K> {
    /// How long a pass over this object must still wait; `None`: it may begin. A changed spec is looked at at once, and any
    /// other trigger once in each wait: a failure that triggers itself must not become a hot loop.
    pub fn wait(&self, object: &K, generation: Option<i64>, now: Instant) -> Option<Duration> {
        let mut all = self.0.lock();
        let known = all.get_mut(object)?;
        if now >= known.until || known.generation != generation {
            known.early = false;
            return None;
        }
        if !known.early {
            known.early = true;
            return None;
        }
        Some(known.until - now)
    }

    /// A pass failed. Returns the wait before the next one, and whether the same was not said of this object before.
    pub fn failed(&self, object: K, generation: Option<i64>, error: &StepError, now: Instant) -> (Duration, bool) {
        let most = match error {
            StepError::Status(_) if error.class() == Class::Tell => LONGEST_STATUS,
            error if error.class() == Class::Tell => LONGEST,
            _ => LONGEST_RETRY,
        };
        let new = || Backoff { failures: 0, until: now, generation, early: false, said: String::new() };
        let mut all = self.0.lock();
        let known = all.entry(object).or_insert_with(new);
        known.failures = known.failures.saturating_add(1);
        let wait = doubled(FIRST, most, known.failures).mul_f64(rand::rng().random_range(0.75..=1.25));
        (known.until, known.generation) = (now + wait, generation);
        let said = error.to_string();
        let is_new = known.said != said;
        known.said = said;
        (wait, is_new)
    }

    /// A pass succeeded, or the object is gone.
    pub fn forget(&self, object: &K) {
        self.0.lock().remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;

    fn panicked() -> StepError {
        StepError::Panic { step: "observe", message: "no".into() }
    }

    /// The seconds at which passes begin, if something asks for one each second.
    fn passes(error: &StepError, seconds: u64) -> Vec<u64> {
        let (backoffs, start) = (Backoffs::<&str>::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        (0..seconds)
            .filter(|second| {
                let begins = backoffs.wait(&"a", Some(1), at(*second)).is_none();
                if begins {
                    backoffs.failed("a", Some(1), error, at(*second));
                }
                begins
            })
            .collect()
    }

    #[test]
    fn waits_double_and_a_trigger_runs_a_failing_object_at_most_once_in_each() {
        let told = passes(&panicked(), 3_600);
        assert!((20..45).contains(&told.len()), "{} passes an hour although something asks each second", told.len());
        let away = passes(&StepError::Store(StoreError::Unavailable("away".into())), 600);
        let longest = away.windows(2).map(|two| two[1] - two[0]).max();
        assert!(longest.is_some_and(|seconds| seconds <= 20), "{longest:?}: a database that is back is used soon");
    }

    #[test]
    fn a_changed_spec_is_looked_at_at_once_and_success_forgets() {
        let (backoffs, now) = (Backoffs::<&str>::default(), Instant::now());
        for _ in 0..8 {
            backoffs.failed("a", Some(1), &panicked(), now);
        }
        assert_eq!(backoffs.wait(&"a", Some(1), now), None, "the first trigger");
        assert!(backoffs.wait(&"a", Some(1), now).is_some(), "the second");
        assert_eq!(backoffs.wait(&"a", Some(2), now), None, "another generation");
        assert_eq!(backoffs.wait(&"b", Some(1), now), None, "another object");
        backoffs.forget(&"a");
        let (wait, is_new) = backoffs.failed("a", Some(1), &panicked(), now);
        assert!(wait <= FIRST.mul_f64(1.25) && is_new);
        assert!(!backoffs.failed("a", Some(1), &panicked(), now).1, "the same again");
    }
}
