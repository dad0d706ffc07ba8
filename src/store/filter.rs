//! Which tasks, as conditions of a statement. Only what is asked for is in it, so that the planner sees which index fits.

use sqlx::types::Json;
use sqlx::{Database, Postgres, QueryBuilder, Sqlite};

use super::stamp::Stamp;
use super::text::{json_text, text};
use super::{TaskCommand, TaskFilter};
use crate::tasks::{TaskId, TaskState, machine::TaskEvent};

/// Live or ended: each has its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskPart {
    Live,
    Ended,
}

impl TaskPart {
    pub const fn table(self) -> &'static str {
        match self {
            Self::Live => "tasks",
            Self::Ended => "finished_tasks",
        }
    }

    /// The parts that may have tasks in these states.
    pub fn of(states: &[TaskState]) -> impl Iterator<Item = Self> {
        let may_have =
            |part: &Self| states.is_empty() || states.iter().any(|state| state.is_terminal() == (*part == Self::Ended));
        [Self::Live, Self::Ended].into_iter().filter(may_have)
    }
}

/// What the two databases write differently.
pub(super) trait Dialect: Database + Sized {
    /// Since when a live task is in its state.
    const LIVE_SINCE: &str;

    fn push_text(query: &mut QueryBuilder<Self>, text: String);
    fn push_stamp(query: &mut QueryBuilder<Self>, stamp: Stamp);
    fn push_ids(query: &mut QueryBuilder<Self>, ids: &[TaskId]);
    fn push_states(query: &mut QueryBuilder<Self>, states: &[TaskState]);
    /// The labels that a task must have, as a JSON object.
    fn push_labels(query: &mut QueryBuilder<Self>, labels: String);
}

impl Dialect for Postgres {
    const LIVE_SINCE: &str = "coalesce(claimed_at, state_since)";

    fn push_text(query: &mut QueryBuilder<Self>, text: String) {
        query.push_bind(text);
    }

    fn push_stamp(query: &mut QueryBuilder<Self>, stamp: Stamp) {
        query.push_bind(stamp);
    }

    fn push_ids(query: &mut QueryBuilder<Self>, ids: &[TaskId]) {
        query.push(" AND id = ANY (").push_bind(ids.to_vec()).push(")");
    }

    fn push_states(query: &mut QueryBuilder<Self>, states: &[TaskState]) {
        let states: Vec<&'static str> = states.iter().map(|state| state.as_str()).collect();
        query.push(" AND state = ANY (").push_bind(states).push(")");
    }

    fn push_labels(query: &mut QueryBuilder<Self>, labels: String) {
        query.push(" AND labels::jsonb @> ").push_bind(labels).push("::jsonb");
    }
}

impl Dialect for Sqlite {
    const LIVE_SINCE: &str = "state_since";

    fn push_text(query: &mut QueryBuilder<Self>, text: String) {
        query.push_bind(text);
    }

    fn push_stamp(query: &mut QueryBuilder<Self>, stamp: Stamp) {
        query.push_bind(stamp);
    }

    fn push_ids(query: &mut QueryBuilder<Self>, ids: &[TaskId]) {
        query.push(" AND id IN (SELECT value FROM json_each(").push_bind(Json(ids.to_vec())).push("))");
    }

    fn push_states(query: &mut QueryBuilder<Self>, states: &[TaskState]) {
        query.push(" AND state IN (SELECT value FROM json_each(").push_bind(Json(states.to_vec())).push("))");
    }

    fn push_labels(query: &mut QueryBuilder<Self>, labels: String) {
        query
            .push(" AND NOT EXISTS (SELECT 1 FROM json_each(")
            .push_bind(labels)
            .push(") AS want WHERE NOT EXISTS (SELECT 1 FROM json_each(labels) AS has WHERE has.key = want.key AND has.value = want.value))");
    }
}

/// Adds the conditions of a filter, after a `WHERE true` over the table of `part`.
pub(super) fn push_filter<DB: Dialect>(query: &mut QueryBuilder<DB>, filter: &TaskFilter, part: TaskPart) {
    let TaskFilter {
        ids,
        namespace,
        queue,
        states,
        domain,
        role,
        expert,
        unassigned,
        key,
        labels,
        since,
        until,
        created_before,
    } = filter;
    for (column, wanted) in [
        ("namespace", namespace),
        ("queue", queue),
        ("domain", domain),
        ("role", role),
        ("expert", expert),
        ("key", key),
    ] {
        if let Some(wanted) = wanted {
            query.push(" AND ").push(column).push(" = ");
            DB::push_text(query, text(wanted).into_owned());
        }
    }
    if !ids.is_empty() {
        DB::push_ids(query, ids);
    }
    if !states.is_empty() {
        DB::push_states(query, states);
    }
    match unassigned {
        Some(true) => _ = query.push(" AND expert IS NULL"),
        Some(false) => _ = query.push(" AND expert IS NOT NULL"),
        None => {}
    }
    if !labels.is_empty() {
        DB::push_labels(query, json_text(labels));
    }
    let state_since = if part == TaskPart::Live { DB::LIVE_SINCE } else { "state_since" };
    for (column, order, wanted) in
        [(state_since, " >= ", since), (state_since, " < ", until), ("created_at", " < ", created_before)]
    {
        if let Some(wanted) = wanted {
            query.push(" AND ").push(column).push(order);
            DB::push_stamp(query, Stamp::from(*wanted));
        }
    }
}

impl TaskCommand {
    /// What happens to a task, where tasks are that it can happen to, and a condition for them.
    pub(super) const fn applies_to(&self) -> (TaskEvent, TaskPart, &'static str) {
        match self {
            Self::Cancel => (TaskEvent::Cancel, TaskPart::Live, "true"),
            Self::Retry => (TaskEvent::Retry, TaskPart::Ended, "true"),
            Self::Resume => (TaskEvent::Resume, TaskPart::Live, "state = 'deferred_to_human'"),
            Self::Reassign { .. } => (TaskEvent::Reassign, TaskPart::Live, "state IN ('pending', 'deferred_to_human')"),
            Self::Close => (TaskEvent::Close, TaskPart::Live, "state = 'deferred_to_human'"),
            Self::Purge => (TaskEvent::Purge, TaskPart::Ended, "true"),
        }
    }
}

/// What one transaction of a command did.
pub(super) struct CommandBatch {
    pub done: Vec<TaskId>,
    /// The highest id that was looked at; `None`: there was nothing more.
    pub last: Option<TaskId>,
}
