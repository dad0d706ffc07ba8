//! What both databases do with tasks alike.

use sqlx::types::Json;

use super::stamp::Stamp;
use crate::tasks::Attempt;

/// How much longer one must have waited to count as one priority higher, in milliseconds.
const AGEING_MILLIS: i64 = 600_000;
/// Attempts that a task remembers.
pub(super) const ATTEMPTS_KEPT: usize = 20;

/// The rank of a task that is not due yet is this and the milliseconds of its time since 1970: above every rank of one that is due.
pub(super) const SCHEDULED: i64 = 1 << 62;

/// Where a task stands that became pending at `since`: the lowest goes first. Being due counts as becoming pending.
///
/// It never changes while the task waits to be claimed, so ageing costs nothing.
pub(super) fn rank(since: Stamp, run_after: Option<Stamp>, priority: i32, now: Stamp) -> i64 {
    match run_after {
        Some(at) if at > now => SCHEDULED + at.millis(),
        Some(at) => since.max(at).millis() - i64::from(priority) * AGEING_MILLIS,
        None => since.millis() - i64::from(priority) * AGEING_MILLIS,
    }
}

/// With one attempt more, and no more than are kept.
pub(super) fn with_attempt(mut attempts: Vec<Attempt>, attempt: Attempt) -> Json<Vec<Attempt>> {
    attempts.push(attempt);
    let excess = attempts.len().saturating_sub(ATTEMPTS_KEPT);
    attempts.drain(..excess);
    Json(attempts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Stamp {
        jiff::Timestamp::from_second(second).expect("a time").into()
    }

    #[test]
    fn whoever_waited_ten_minutes_longer_counts_as_one_priority_higher() {
        for (earlier, low, later, high, first) in [
            (1_000, 0, 1_001, 0, true),
            (1_000, 0, 1_001, 1, false),
            (1_000, 0, 1_599, 1, false),
            (1_000, 0, 1_601, 1, true),
            (1_000, -100, 1_000, 100, false),
        ] {
            let now = second(5_000);
            let (old, new) = (rank(second(earlier), None, low, now), rank(second(later), None, high, now));
            assert_eq!(old < new, first, "{earlier} {low} before {later} {high}");
            let due = rank(second(1), Some(second(later)), high, now);
            assert_eq!(due, new, "being due counts as becoming pending");
        }
    }

    #[test]
    fn what_is_not_due_stands_behind_all_that_is_in_the_order_of_its_time() {
        let at = |run_after, priority, now| rank(second(1_000), Some(second(run_after)), priority, second(now));
        let far = rank(jiff::Timestamp::MAX.into(), None, -100, second(1_000));
        assert!(at(2_001, 100, 2_000) > far, "whatever its priority");
        assert!(at(2_001, 0, 2_000) < at(2_002, 100, 2_000));
        assert!(at(2_000, 0, 2_000) < SCHEDULED, "due to the second");
        assert!(rank(second(0), Some(jiff::Timestamp::MAX.into()), 0, second(1_000)) < i64::MAX);
    }
}
