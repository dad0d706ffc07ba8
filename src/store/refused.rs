//! Tasks that the database refuses to have claimed, for good: a trigger of its owner's, mostly. One of them must not hold up the others.

use jiff::Timestamp;

use super::{Lease, StoreError};
use crate::tasks::retry::bounded;
use crate::tasks::{Attempt, AttemptClass, TaskId};

/// Tasks that are tried one by one after a batch with them was refused.
pub(super) const TRIED: i64 = 50;

/// What is told of a claim that was refused: the reason for a human, and the attempt that it used.
pub(super) fn told(id: TaskId, expert: &str, lease: &Lease, refusal: &StoreError, now: Timestamp) -> (String, Attempt) {
    let reason = bounded(&format!("the database refuses its claim: {refusal}"));
    tracing::warn!(task = id, reason, "can't claim a task; leaving it to a human");
    let attempt = Attempt {
        expert: expert.to_owned(),
        backend: None,
        model: None,
        holder: lease.holder.clone(),
        started_at: now,
        ended_at: now,
        first_token_at: None,
        prompt_tokens: None,
        completion_tokens: None,
        class: AttemptClass::Permanent,
        error: Some(reason.clone()),
    };
    (reason, attempt)
}
