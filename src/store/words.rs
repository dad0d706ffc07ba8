//! What is written along with what happens to a task, in both databases alike.

use jiff::Timestamp;
use serde_json::Value;

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
