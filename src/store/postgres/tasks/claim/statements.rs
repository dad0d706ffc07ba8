//! The statements of claims. Parameters, for each lane: `$1` namespace, `$2` queue, `$3` model, `$4` lease, `$5` and `$6` rank and id after
//! which it is searched, `$9` whether its model is loaded, `$10` holder of the lease. For all: `$7` how long a loaded model goes first, in
//! milliseconds, `$8` how many tasks, `$11` the lease of all lanes, where it is one.

/// The first tasks of each lane that are due and whose experts have places, locked.
macro_rules! due {
    ($columns:literal, $model:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM lanes AS l CROSS JOIN LATERAL (
                    SELECT id, expert, priority, rank FROM tasks
                    WHERE state = 'pending' AND assignment_reason IS NOT NULL
                        AND namespace = l.namespace AND queue = l.queue AND ",
            $model,
            " AND (rank, id) > (l.after_rank, l.after_id)
                        AND rank < 4611686018427387904
                        AND (deadline IS NULL OR deadline > statement_timestamp())
                        AND expert <> ALL (ARRAY(SELECT p.expert FROM expert_places AS p
                            WHERE p.namespace = l.namespace AND p.running >= p.places))
                    ORDER BY rank, id LIMIT $8 FOR UPDATE SKIP LOCKED) AS t"
        )
    };
}

/// Lanes of open queues with leases in force, and of what is due in them the first `$8`, by expert.
///
/// What needs the loaded model goes first, before whoever has not waited `$7` milliseconds longer and has no higher
/// priority. The leases are locked against the reaper, so that it sees all that is claimed under one.
macro_rules! choose {
    ($($chosen:expr),+) => {
        concat!(
            "WITH lanes AS MATERIALIZED (
                SELECT w.* FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                    $9::boolean[], $10::text[]) AS w (namespace, queue, model, lease, after_rank, after_id, loaded, holder)
                JOIN leases AS l ON l.id = w.lease AND l.holder = w.holder AND l.namespace = w.namespace
                    AND l.queue = w.queue AND l.expires_at > clock_timestamp()
                JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = w.namespace AND q.name = w.queue
                    AND q.gone_at IS NULL AND NOT q.suspended AND q.held IS NULL
                FOR KEY SHARE OF l
            ), ",
            $($chosen,)+
            "), wanted AS MATERIALIZED (
                SELECT namespace, expert, count(*)::integer AS wanted FROM chosen GROUP BY namespace, expert
            ), locked AS MATERIALIZED (
                SELECT p.namespace, p.expert, w.wanted FROM expert_places AS p
                JOIN wanted AS w ON p.namespace = w.namespace AND p.expert = w.expert
                ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p
            ), "
        )
    };
}

macro_rules! take {
    ($taken:literal, $cut:literal) => {
        concat!(
            "UPDATE tasks AS t SET state = 'in_progress', state_since = clock_timestamp(), epoch = epoch + 1,
                lease = CASE WHEN $11::bigint IS NOT NULL THEN $11 ELSE
                    (SELECT l.lease FROM lanes AS l WHERE l.namespace = t.namespace AND l.queue = t.queue LIMIT 1) END
            WHERE id = ANY (ARRAY(",
            $taken,
            "))
            RETURNING id, epoch, namespace, queue, domain, role, payload, priority, deadline, key, labels, expert, assigned_model,
                attempts_used, free_requeues, cycle, attempts, rank, ",
            $cut,
            " AS cut, EXISTS (
                    SELECT FROM expert_places AS p
                    WHERE p.running >= p.places AND p.namespace IN (SELECT namespace FROM lanes)) AS passed_over"
        )
    };
}

/// The whole of a claim. A place that an expert has in the snapshot may be taken meanwhile: what it then has is known under its
/// lock, and only then its tasks are taken, as far as its places go.
macro_rules! claim {
    ($($chosen:expr),+) => {
        concat!(
            choose!($($chosen),+),
            "granted AS MATERIALIZED (
                UPDATE expert_places AS p SET granted = greatest(least(l.wanted, p.places - p.running), 0),
                    running = p.running + greatest(least(l.wanted, p.places - p.running), 0)
                FROM locked AS l WHERE p.namespace = l.namespace AND p.expert = l.expert
                RETURNING p.namespace, p.expert, p.granted
            ), short AS MATERIALIZED (
                SELECT (SELECT coalesce(sum(wanted), 0) FROM wanted) > (SELECT coalesce(sum(granted), 0) FROM granted) AS of_places
            ), taken AS MATERIALIZED (
                SELECT id FROM chosen WHERE NOT (SELECT of_places FROM short)
                UNION ALL SELECT c.id FROM (
                    SELECT id, namespace, expert, row_number() OVER (PARTITION BY namespace, expert ORDER BY place, id) AS nth
                    FROM chosen WHERE (SELECT of_places FROM short)
                ) AS c JOIN granted AS g ON g.namespace = c.namespace AND g.expert = c.expert WHERE c.nth <= g.granted
            ) ",
            take!("SELECT id FROM taken", "(SELECT of_places FROM short)")
        )
    };
}

/// The same where all that was chosen has places in the snapshot, or nothing: tasks are taken first, and the places, which others
/// wait for, are locked at the very end (nothing refers to `counted`, so it runs last). Where one was taken meanwhile, the table's
/// constraint refuses the whole.
macro_rules! eager_claim {
    ($($chosen:expr),+) => {
        concat!(
            choose!($($chosen),+),
            "enough AS MATERIALIZED (
                SELECT (SELECT count(*) FROM wanted) = (SELECT count(*) FROM wanted AS w
                    JOIN expert_places AS p ON p.namespace = w.namespace AND p.expert = w.expert
                    WHERE p.running + w.wanted <= p.places) AS places
            ), counted AS (
                UPDATE expert_places AS p SET running = p.running + l.wanted,
                    granted = CASE WHEN p.running + l.wanted <= p.places THEN l.wanted ELSE -1 END
                FROM locked AS l
                WHERE p.namespace = l.namespace AND p.expert = l.expert AND (SELECT places FROM enough)
            ) ",
            take!("SELECT id FROM chosen WHERE (SELECT places FROM enough)", "false")
        )
    };
}

macro_rules! free {
    ($claim:ident) => {
        $claim!(
            "chosen AS MATERIALIZED (",
            due!("t.id, l.namespace, t.expert, t.rank AS place", "assigned_model IS NULL"),
            " ORDER BY t.rank, t.id LIMIT $8"
        )
    };
}

pub(super) const FREE: &str = free!(claim);
pub(super) const EAGER: &str = free!(eager_claim);
pub(super) const SLOTTED: &str = claim!(
    "found AS MATERIALIZED (",
    due!("t.*, l.namespace, l.loaded", "assigned_model = l.model"),
    "), chosen AS MATERIALIZED (
        SELECT * FROM (SELECT f.id, f.namespace, f.expert, row_number() OVER (ORDER BY
                f.loaded AND f.priority >= h.priority AND f.rank - h.rank <= $7 DESC, f.rank, f.id) AS place
            FROM found AS f, (SELECT rank, priority FROM found ORDER BY rank, id LIMIT 1) AS h) AS sorted
        WHERE place <= $8"
);
