//! How many tasks there are, from the counts that triggers of both databases keep: reading them costs the same however many tasks wait.

use std::collections::BTreeMap;

use sqlx::FromRow;

use super::stamp::Stamp;
use super::{ExpertLoad, QueueCounts, TaskCount, WaitingGroup};
use crate::tasks::TaskState;

/// Ended tasks count for a day, to the ten minutes: microseconds.
pub(super) const COUNTED: i64 = 24 * 3_600 * 1_000_000;

/// Since when the oldest tasks of a queue wait.
#[derive(FromRow)]
pub(super) struct OldestRecord {
    pub namespace: String,
    pub queue: String,
    pub pending: Option<Stamp>,
    pub deferred: Option<Stamp>,
}

/// By queue.
pub(super) fn by_queue(counts: &[TaskCount], oldest: Vec<OldestRecord>) -> Vec<QueueCounts> {
    let mut queues: BTreeMap<(&str, &str), QueueCounts> = BTreeMap::new();
    for one in counts {
        let row =
            queues.entry((&one.namespace, &one.queue)).or_insert_with(|| QueueCounts::none(&one.namespace, &one.queue));
        match one.state {
            TaskState::Pending => {
                row.pending += one.count;
                row.unassigned += if one.is_assigned { 0 } else { one.count };
            }
            TaskState::InProgress => row.in_progress += one.count,
            TaskState::DeferredToHuman => row.deferred_to_human += one.count,
            TaskState::Completed => row.completed += one.count,
            TaskState::Failed => row.failed += one.count,
            TaskState::Cancelled => {}
        }
    }
    let mut rows: Vec<QueueCounts> = queues.into_values().collect();
    for OldestRecord { namespace, queue, pending, deferred } in oldest {
        if let Some(row) = rows.iter_mut().find(|row| row.namespace == namespace && row.queue == queue) {
            row.oldest_pending = pending.map(Into::into);
            row.oldest_deferred = deferred.map(Into::into);
        }
    }
    rows
}

/// Pending ones by what they could be waiting for.
pub(super) fn waiting(counts: Vec<TaskCount>) -> Vec<WaitingGroup> {
    let mut groups = BTreeMap::new();
    for one in counts.into_iter().filter(|one| one.state == TaskState::Pending) {
        let TaskCount { namespace, queue, domain, role, expert, model, is_due, count, .. } = one;
        *groups.entry((namespace, queue, domain, role, expert, model, is_due)).or_default() += count;
    }
    let group = |((namespace, queue, domain, role, expert, model, due), count)| WaitingGroup {
        namespace,
        queue,
        domain,
        role,
        expert,
        model,
        due,
        count,
    };
    groups.into_iter().map(group).collect()
}

/// By expert.
pub(super) fn by_expert(counts: Vec<TaskCount>) -> Vec<ExpertLoad> {
    let mut loads: BTreeMap<(String, String), ExpertLoad> = BTreeMap::new();
    for TaskCount { namespace, expert, state, count, .. } in counts {
        let (Some(expert), true) = (expert, matches!(state, TaskState::Pending | TaskState::InProgress)) else {
            continue;
        };
        let none = || ExpertLoad { namespace: namespace.clone(), expert: expert.clone(), ..ExpertLoad::default() };
        let load = loads.entry((namespace.clone(), expert.clone())).or_insert_with(none);
        match state {
            TaskState::InProgress => load.in_progress += count,
            _ => load.pending += count,
        }
    }
    loads.into_values().collect()
}
