//! The columns that live and ended tasks have in common.

/// All but the payload, which lists leave out, and the result, which live tasks don't have.
macro_rules! task_columns {
    (live) => {
        concat!(task_columns!(), ", coalesce(claimed_at, state_since) AS state_since")
    };
    (ended) => {
        concat!(task_columns!(), ", state_since")
    };
    () => {
        "id, namespace, queue, domain, role, model, priority, run_after, deadline, key, labels, state, created_at,
         expert, assignment_reason, assigned_model, attempts_used, free_requeues, leases_lost, cycle, epoch, reason, attempts,
         coalesce((SELECT l.names FROM candidate_lists AS l WHERE l.id = candidates), '[]')::json AS candidates"
    };
}

pub(super) use task_columns;

/// What goes along when a task ends or comes back: all but state, rank, lease and result. In the order of the tables, as rows are
/// read.
macro_rules! moved_columns {
    () => {
        "id, created_at, state_since, epoch, priority, attempts_used, free_requeues, leases_lost, cycle, bytes, namespace, queue,
         domain, role, labels, attempts, payload, run_after, deadline, expert, assignment_reason, candidates, assigned_model, model,
         key, reason"
    };
}

pub(super) use moved_columns;
