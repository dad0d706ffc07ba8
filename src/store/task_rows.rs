//! Tasks as both databases give them, and what both do with them alike.

use std::collections::BTreeMap;

use sqlx::FromRow;
use sqlx::types::Json;

use super::stamp::Stamp;
use super::{DeclaredRow, StoreError, Unassigned};
use crate::tasks::{Attempt, ClaimedTask, Payload, QueueKey, Task, TaskState};

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

/// A row of either table; the one of live tasks has no result.
#[derive(FromRow)]
pub(super) struct TaskRecord {
    pub id: i64,
    pub namespace: String,
    pub queue: String,
    pub domain: String,
    pub role: String,
    /// `NULL` where it was not asked for.
    pub payload: Option<Json<Payload>>,
    pub model: Option<String>,
    pub priority: i32,
    pub run_after: Option<Stamp>,
    pub deadline: Option<Stamp>,
    pub key: Option<String>,
    pub labels: Json<BTreeMap<String, String>>,
    pub state: String,
    pub created_at: Stamp,
    pub state_since: Stamp,
    pub expert: Option<String>,
    pub assignment_reason: Option<String>,
    pub candidates: Json<Vec<String>>,
    pub assigned_model: Option<String>,
    pub attempts_used: i32,
    pub free_requeues: i32,
    pub leases_lost: i32,
    pub cycle: i32,
    pub epoch: i64,
    pub reason: Option<String>,
    pub attempts: Json<Vec<Attempt>>,
    pub result: Option<Json<serde_json::Value>>,
}

impl TryFrom<TaskRecord> for Task {
    type Error = StoreError;

    fn try_from(record: TaskRecord) -> Result<Self, StoreError> {
        let TaskRecord {
            id,
            namespace,
            queue,
            domain,
            role,
            payload,
            model,
            priority,
            run_after,
            deadline,
            key,
            labels,
            state,
            created_at,
            state_since,
            expert,
            assignment_reason,
            candidates,
            assigned_model,
            attempts_used,
            free_requeues,
            leases_lost,
            cycle,
            epoch,
            reason,
            attempts,
            result,
        } = record;
        let state = TaskState::parse(&state)
            .ok_or_else(|| StoreError::Broken(format!("task {id} has the unknown state {state:?}")))?;
        Ok(Self {
            id,
            namespace,
            queue,
            domain,
            role,
            payload: payload.map(|Json(payload)| payload).unwrap_or_default(),
            model,
            priority,
            run_after: run_after.map(Into::into),
            deadline: deadline.map(Into::into),
            key,
            labels: labels.0,
            state,
            created_at: created_at.into(),
            state_since: state_since.into(),
            expert,
            assignment_reason,
            candidates: candidates.0,
            assigned_model,
            attempts_used,
            free_requeues,
            leases_lost,
            cycle,
            epoch,
            reason,
            attempts: attempts.0,
            result: result.map(|Json(result)| result),
        })
    }
}

/// A row of what a claim gives.
#[derive(FromRow)]
pub(super) struct ClaimedRecord {
    id: i64,
    epoch: i64,
    namespace: String,
    queue: String,
    domain: String,
    role: String,
    payload: Json<Payload>,
    priority: i32,
    deadline: Option<Stamp>,
    key: Option<String>,
    labels: Json<BTreeMap<String, String>>,
    expert: String,
    assigned_model: Option<String>,
    attempts_used: i32,
    free_requeues: i32,
    cycle: i32,
    attempts: Json<Vec<Attempt>>,
}

impl From<ClaimedRecord> for ClaimedTask {
    fn from(record: ClaimedRecord) -> Self {
        let ClaimedRecord {
            id,
            epoch,
            namespace,
            queue,
            domain,
            role,
            payload,
            priority,
            deadline,
            key,
            labels,
            expert,
            assigned_model,
            attempts_used,
            free_requeues,
            cycle,
            attempts,
        } = record;
        Self {
            id,
            epoch,
            namespace,
            queue,
            domain,
            role,
            payload: payload.0,
            priority,
            deadline: deadline.map(Into::into),
            key,
            labels: labels.0,
            expert,
            assigned_model,
            attempts_used,
            free_requeues,
            cycle,
            attempts: attempts.0,
        }
    }
}

/// With one attempt more, and no more than are kept.
pub(super) fn with_attempt(mut attempts: Vec<Attempt>, attempt: Attempt) -> Json<Vec<Attempt>> {
    attempts.push(attempt);
    let excess = attempts.len().saturating_sub(ATTEMPTS_KEPT);
    attempts.drain(..excess);
    Json(attempts)
}

#[derive(FromRow)]
pub(super) struct DeclaredRecord {
    uid: String,
    kind: String,
    namespace: String,
    name: String,
    generation: i64,
    labels: Json<BTreeMap<String, String>>,
    spec: serde_json::Value,
    suspended: bool,
    held: Option<String>,
}

impl From<DeclaredRecord> for DeclaredRow {
    fn from(record: DeclaredRecord) -> Self {
        let DeclaredRecord { uid, kind, namespace, name, generation, labels, spec, suspended, held } = record;
        Self { uid, kind, namespace, name, generation, labels: labels.0, spec, suspended, held }
    }
}

#[derive(FromRow)]
pub(super) struct UnassignedRecord {
    id: i64,
    namespace: String,
    queue: String,
    domain: String,
    role: String,
    model: Option<String>,
    expert: Option<String>,
}

impl From<UnassignedRecord> for Unassigned {
    fn from(record: UnassignedRecord) -> Self {
        let UnassignedRecord { id, namespace, queue, domain, role, model, expert } = record;
        Self { id, queue: QueueKey { namespace, name: queue }, domain, role, model, expert }
    }
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
