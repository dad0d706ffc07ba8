//! The columns that live and ended tasks have in common.

/// All but the payload, which lists leave out, the result, which live tasks don't have, and the candidates, which are looked up.
macro_rules! own_columns {
    ($of:literal) => {
        concat!(
            $of,
            "id, ",
            $of,
            "namespace, ",
            $of,
            "queue, ",
            $of,
            "domain, ",
            $of,
            "role, ",
            $of,
            "model, ",
            $of,
            "priority, ",
            $of,
            "run_after, ",
            $of,
            "deadline, ",
            $of,
            "key, ",
            $of,
            "labels, ",
            $of,
            "state, ",
            $of,
            "created_at, ",
            $of,
            "state_since, ",
            $of,
            "expert, ",
            $of,
            "assignment_reason, ",
            $of,
            "assigned_model, ",
            $of,
            "attempts_used, ",
            $of,
            "free_requeues, ",
            $of,
            "leases_lost, ",
            $of,
            "cycle, ",
            $of,
            "epoch, ",
            $of,
            "reason, ",
            $of,
            "attempts"
        )
    };
}

pub(super) use own_columns;

/// The same with the candidates.
macro_rules! task_columns {
    ($of:literal) => {
        concat!(
            $crate::store::postgres::tasks::columns::own_columns!($of),
            ", coalesce((SELECT l.names FROM candidate_lists AS l WHERE l.id = ",
            $of,
            "candidates), '[]')::json AS candidates"
        )
    };
}

pub(super) use task_columns;

/// What goes along when a task ends or comes back: all but state, rank, lease and result.
macro_rules! moved_columns {
    () => {
        "id, namespace, queue, domain, role, payload, model, priority, run_after, deadline, key, labels, created_at,
         state_since, expert, assignment_reason, candidates, assigned_model, attempts_used, free_requeues, leases_lost,
         cycle, epoch, reason, attempts"
    };
}

pub(super) use moved_columns;
