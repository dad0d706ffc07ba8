//! A filter as conditions. Only what is asked for is in the statement, so that the planner sees which index fits.

use sqlx::{Postgres, QueryBuilder};

use crate::store::TaskFilter;
use crate::store::stamp::Stamp;
use crate::store::text::{json_text, text};
use crate::tasks::TaskState;

/// Adds the conditions of a filter, after a `WHERE true`.
pub(super) fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &TaskFilter) {
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
        (" AND namespace = ", namespace),
        (" AND queue = ", queue),
        (" AND domain = ", domain),
        (" AND role = ", role),
        (" AND expert = ", expert),
        (" AND key = ", key),
    ] {
        if let Some(wanted) = wanted {
            query.push(column).push_bind(text(wanted).into_owned());
        }
    }
    if !ids.is_empty() {
        query.push(" AND id = ANY (").push_bind(ids.clone()).push(")");
    }
    if !states.is_empty() {
        let states: Vec<&'static str> = states.iter().map(|state| TaskState::as_str(*state)).collect();
        query.push(" AND state = ANY (").push_bind(states).push(")");
    }
    match unassigned {
        Some(true) => _ = query.push(" AND expert IS NULL"),
        Some(false) => _ = query.push(" AND expert IS NOT NULL"),
        None => {}
    }
    if !labels.is_empty() {
        query.push(" AND labels::jsonb @> ").push_bind(json_text(labels)).push("::jsonb");
    }
    if let Some(since) = since {
        query.push(" AND state_since >= ").push_bind(Stamp::from(*since));
    }
    if let Some(until) = until {
        query.push(" AND state_since < ").push_bind(Stamp::from(*until));
    }
    if let Some(before) = created_before {
        query.push(" AND created_at < ").push_bind(Stamp::from(*before));
    }
}
