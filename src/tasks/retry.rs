//! What comes after an execution: tried again when and how often, or somebody else's turn.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::api::number_of;

use super::{Attempt, AttemptClass, ClaimedTask, Task, Verdict};

/// Longest wait after the backend was down or full: it may be back at any moment, and asking costs little.
const LONGEST_FREE_WAIT: Duration = Duration::from_secs(30);
/// A task under which servers failed so often may be what makes them fail: from then on that uses attempts.
const SUSPICIOUS_FAILURES: usize = 5;
/// A reason, or an error in an attempt, has at most so many characters.
pub const LONGEST_REASON: usize = 2_000;

/// `retry` of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub max_attempts: i32,
    /// Before the second attempt; doubled for each further one.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff: Duration::from_secs(10), max_backoff: Duration::from_secs(600) }
    }
}

/// How an execution ended, as its worker saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    Ok {
        result: Value,
    },
    /// May go better next time.
    Retryable {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The backend was down, full or rate-limited: not the task's fault.
    Unavailable {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The backend failed under it, by whose fault nobody knows: see [`server_failed`].
    ServerFailed {
        why: String,
    },
    /// Will never go well.
    Permanent {
        why: String,
    },
    /// Somebody cancelled it.
    Cancelled {
        why: String,
    },
    /// The worker drains, or never began it.
    GivenBack {
        why: &'static str,
    },
    /// The lease lapsed meanwhile: the completion will change nothing.
    LeaseLost,
}

impl Ended {
    pub const fn class(&self) -> AttemptClass {
        match self {
            Self::Ok { .. } => AttemptClass::Ok,
            Self::Retryable { .. } => AttemptClass::Retryable,
            Self::Unavailable { .. } => AttemptClass::Unavailable,
            Self::ServerFailed { .. } => AttemptClass::ServerFailed,
            Self::Permanent { .. } => AttemptClass::Permanent,
            Self::Cancelled { .. } | Self::GivenBack { .. } => AttemptClass::Cancelled,
            Self::LeaseLost => AttemptClass::LeaseLost,
        }
    }

    /// For `Attempt.error`, bounded.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Ok { .. } => None,
            Self::Retryable { why, .. }
            | Self::Unavailable { why, .. }
            | Self::ServerFailed { why }
            | Self::Permanent { why }
            | Self::Cancelled { why } => Some(bounded(why)),
            Self::GivenBack { why } => Some((*why).to_owned()),
            Self::LeaseLost => Some("its worker lost the lease".into()),
        }
    }
}

/// What was tried before, of a task as it was claimed.
#[derive(Clone, Copy, Debug)]
pub struct TriedTask<'a> {
    pub attempts_used: i32,
    pub free_requeues: i32,
    pub deadline: Option<Timestamp>,
    pub attempts: &'a [Attempt],
}

impl<'a> From<&'a ClaimedTask> for TriedTask<'a> {
    fn from(task: &'a ClaimedTask) -> Self {
        let ClaimedTask { attempts_used, free_requeues, deadline, attempts, .. } = task;
        Self { attempts_used: *attempts_used, free_requeues: *free_requeues, deadline: *deadline, attempts }
    }
}

impl<'a> From<&'a Task> for TriedTask<'a> {
    fn from(task: &'a Task) -> Self {
        let Task { attempts_used, free_requeues, deadline, attempts, .. } = task;
        Self { attempts_used: *attempts_used, free_requeues: *free_requeues, deadline: *deadline, attempts }
    }
}

/// A server's failure uses no attempt of the task under which it failed, until that has happened under one and the same task
/// again and again: a task that breaks servers must end with a human.
pub fn server_failed<'a>(task: impl Into<TriedTask<'a>>, why: String) -> Ended {
    let task = task.into();
    // Attempts are those of all cycles, requeues of this one.
    let failures = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::ServerFailed).count();
    let failures = failures.min(usize::try_from(task.free_requeues).unwrap_or(0));
    if failures < SUSPICIOUS_FAILURES {
        return Ended::ServerFailed { why };
    }
    let why = format!("{why} (servers failed {failures} times under this task before, so it may be the cause)");
    Ended::Retryable { why, retry_after: None }
}

/// Decides over a task. `chance` is between 0 and 1 and spreads what failed together.
pub fn verdict<'a>(
    task: impl Into<TriedTask<'a>>,
    policy: &RetryPolicy,
    ended: Ended,
    now: Timestamp,
    chance: f64,
) -> Verdict {
    let task = task.into();
    match ended {
        Ended::Ok { result } => Verdict::Completed { result },
        Ended::Permanent { why } => Verdict::Failed { reason: bounded(&why) },
        Ended::Cancelled { why } => Verdict::Cancelled { reason: bounded(&why) },
        Ended::GivenBack { why } => Verdict::Requeue { after: Duration::ZERO, reason: why.to_owned() },
        Ended::LeaseLost => Verdict::Requeue { after: Duration::ZERO, reason: "its worker lost the lease".into() },
        Ended::Unavailable { why, retry_after } => unavailable(task, policy, &why, retry_after, now, chance),
        Ended::ServerFailed { why } => unavailable(task, policy, &why, None, now, chance),
        Ended::Retryable { why, retry_after } => retryable(task, policy, &why, retry_after, now, chance),
    }
}

/// The wait before the attempt that follows `used` ones: doubled each time, bounded, and of that a random part of one half.
pub fn backoff(base: Duration, most: Duration, used: i32, chance: f64) -> Duration {
    doubled(base, most, used).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// `base` after the first attempt, doubled with each further one of those `used`, bounded.
pub fn doubled(base: Duration, most: Duration, used: i32) -> Duration {
    let doublings = used.saturating_sub(1).clamp(0, 30).unsigned_abs();
    base.saturating_mul(1 << doublings).min(most)
}

/// What a human is told who gets a task because its workers were lost with it.
pub fn leases_lost_reason(leases_lost: i32) -> String {
    format!(
        "its worker was lost {} while it had this task, which may be the cause: read the workers' logs, then \
         `ostler tasks resume`, `reassign` or `close`",
        number_of(leases_lost, "time")
    )
}

fn retryable(
    task: TriedTask<'_>,
    policy: &RetryPolicy,
    why: &str,
    retry_after: Option<Duration>,
    now: Timestamp,
    chance: f64,
) -> Verdict {
    let used = task.attempts_used.saturating_add(1);
    if used >= policy.max_attempts {
        return Verdict::DeferredToHuman { reason: evidence(task, used, policy.max_attempts, why) };
    }
    let after = backoff(policy.backoff, policy.max_backoff, used, chance).max(retry_after.unwrap_or_default());
    match left(task, now) {
        Some(left) if left <= after => Verdict::Failed {
            reason: bounded(&format!("its deadline comes before another attempt would (attempt {used} failed: {why})")),
        },
        _ => Verdict::Retry { after, reason: bounded(why) },
    }
}

fn unavailable(
    task: TriedTask<'_>,
    policy: &RetryPolicy,
    why: &str,
    retry_after: Option<Duration>,
    now: Timestamp,
    chance: f64,
) -> Verdict {
    let most = policy.max_backoff.min(LONGEST_FREE_WAIT);
    let times = task.free_requeues.saturating_add(1);
    let after =
        backoff(policy.backoff.min(Duration::from_secs(1)), most, times, chance).max(retry_after.unwrap_or_default());
    match left(task, now) {
        Some(left) if left.is_zero() => {
            Verdict::Failed { reason: bounded(&format!("its deadline passed while its backend was away: {why}")) }
        }
        // The backend may be back before the deadline: a last try is worth the shorter wait.
        Some(left) => Verdict::Requeue { after: after.min(left / 2), reason: bounded(why) },
        None => Verdict::Requeue { after, reason: bounded(why) },
    }
}

/// Time until the deadline, zero when it has passed.
fn left(task: TriedTask<'_>, now: Timestamp) -> Option<Duration> {
    let left = task.deadline?.duration_since(now).max(SignedDuration::ZERO);
    Some(Duration::try_from(left).unwrap_or_default())
}

/// What was tried, each different error with how often it came, the newest last and whole.
fn evidence(task: TriedTask<'_>, used: i32, most: i32, last: &str) -> String {
    let mut before: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let counted = task.attempts.iter().filter(|a| a.class == AttemptClass::Retryable);
    let earlier = usize::try_from(used.saturating_sub(1)).unwrap_or(0);
    for attempt in counted.rev().take(earlier) {
        *before.entry((place(attempt), attempt.error.as_deref().unwrap_or("no word"))).or_default() += 1;
    }
    let mut text = format!("{used} of {} failed; the last: {}", number_of(most, "attempt"), shortened(last, 1_000));
    for ((place, error), times) in before {
        text.push_str(&format!("; {times}× before on {place}: {}", shortened(error, 200)));
    }
    bounded(&text)
}

fn place(attempt: &Attempt) -> &str {
    attempt.backend.as_deref().unwrap_or(&attempt.expert)
}

/// At most [`LONGEST_REASON`] characters.
pub fn bounded(text: &str) -> String {
    shortened(text, LONGEST_REASON)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}
