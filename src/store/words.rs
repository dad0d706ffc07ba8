//! What both databases write alike of a task: its place in the order of its queue, and what goes along with what happens to it.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;

use super::stamp::Stamp;
use super::{Lease, StoreError};
use crate::tasks::retry::{bounded, leases_lost_reason};
use crate::tasks::{Attempt, AttemptClass, Completion, DEFERRING_LOST_LEASES, TaskId, Verdict};

/// Tasks that are tried one by one after the claim of a batch with them was refused.
pub(super) const TRIED: i64 = 50;

/// Says that the database does not let a task be written, which is no other task's concern.
pub(super) fn tell_refused(task: TaskId, why: &str) {
    tracing::warn!(
        task,
        why,
        "the database refuses to change a task: it stays as it is until somebody removes what refuses it"
    );
}

/// The reason, the attempt and the result of an event.
#[derive(Clone, Default)]
pub(super) struct Words {
    pub reason: Option<String>,
    pub attempt: Option<Attempt>,
    pub result: Option<Value>,
}

impl Words {
    pub fn reason(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// Of the end of an execution.
    pub fn of(completion: &Completion) -> Self {
        let (reason, result) = match &completion.verdict {
            Verdict::Completed { result } => (None, Some(result.clone())),
            other => (reason_of(other).map(str::to_owned), None),
        };
        Self { reason, attempt: Some(completion.attempt.clone()), result }
    }

    /// Of a lease that lapsed, or whose holder died: `what` says which. It is the `times`th that the task lost.
    pub fn of_lost_lease(
        expert: String,
        holder: String,
        times: i32,
        what: &str,
        began: Timestamp,
        now: Timestamp,
    ) -> Self {
        let reason = if times >= DEFERRING_LOST_LEASES {
            leases_lost_reason(times)
        } else {
            format!("its worker {holder} {what}")
        };
        let attempt = without_call(expert, holder, began, now, AttemptClass::LeaseLost, format!("its worker {what}"));
        Self { reason: Some(reason), attempt: Some(attempt), result: None }
    }

    /// Of a claim that the database refuses, for good: a trigger of its owner's, mostly. The task goes to a human, so that it does not
    /// hold up the others.
    pub fn of_refused_claim(id: TaskId, expert: &str, lease: &Lease, refusal: &StoreError, now: Timestamp) -> Self {
        let reason = bounded(&format!("the database refuses its claim: {refusal}"));
        tracing::warn!(task = id, reason, "can't claim a task; leaving it to a human");
        let class = AttemptClass::Permanent;
        let attempt = without_call(expert.to_owned(), lease.holder.clone(), now, now, class, reason.clone());
        Self { reason: Some(reason), attempt: Some(attempt), result: None }
    }
}

pub(super) fn reason_of(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Completed { .. } => None,
        Verdict::Retry { reason, .. }
        | Verdict::Requeue { reason, .. }
        | Verdict::Failed { reason }
        | Verdict::DeferredToHuman { reason }
        | Verdict::Cancelled { reason } => Some(reason),
    }
}

fn without_call(
    expert: String,
    holder: String,
    started_at: Timestamp,
    ended_at: Timestamp,
    class: AttemptClass,
    error: String,
) -> Attempt {
    Attempt {
        expert,
        backend: None,
        model: None,
        holder,
        started_at,
        ended_at,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class,
        error: Some(error),
    }
}

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
