//! The statements of claims. Parameters, for each lane: `$1` namespace, `$2` queue, `$3` model (empty: none), `$4` lease, `$5` and `$6`
//! rank and id after which it is searched, `$9` whether its model is loaded, `$10` holder of the lease. For all: `$7` how long a loaded
//! model goes first, in milliseconds, `$8` how many tasks, `$11` the lease of all lanes, where it is one,
//! `$12` tasks that are stepped over.
//!
//! `lanes`: those of open queues with leases in force. A lane is crowded where experts that are full have tasks in it: only then it is
//! searched expert by expert, so that nobody walks over what can't be claimed. The leases are locked against the reaper, so that it
//! sees all that is claimed under one.
//!
//! `chosen`: what is due first, locked. What needs the loaded model goes before whoever has not waited `$7` milliseconds longer and has
//! no higher priority.

/// The whole of a claim. A place that an expert has in the snapshot may be taken meanwhile: what it then has is known under its lock, and
/// only then its tasks are taken, as far as its places go.
pub(in super::super) const CLAIM: &str = "
WITH lanes AS MATERIALIZED (
    SELECT w.*, EXISTS (SELECT FROM expert_places AS p
        WHERE p.namespace = w.namespace AND p.running >= p.places AND EXISTS (SELECT FROM tasks AS t
            WHERE t.namespace = p.namespace AND t.expert = p.expert AND t.queue = w.queue AND coalesce(t.assigned_model, '') = w.model
                AND t.assignment_reason IS NOT NULL AND t.rank < 4611686018427387904 AND t.state = 'pending')) AS crowded
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $9::boolean[], $10::text[])
        AS w (namespace, queue, model, lease, after_rank, after_id, loaded, holder)
    JOIN leases AS l ON l.id = w.lease AND l.holder = w.holder AND l.namespace = w.namespace AND l.queue = w.queue
        AND l.expires_at > clock_timestamp()
    JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = w.namespace AND q.name = w.queue
        AND q.gone_at IS NULL AND NOT q.suspended AND q.held IS NULL
    FOR KEY SHARE OF l
), found AS MATERIALIZED (
    SELECT t.*, l.namespace, l.loaded FROM lanes AS l CROSS JOIN LATERAL (
        SELECT id, expert, priority, rank FROM tasks
        WHERE namespace = l.namespace AND queue = l.queue AND coalesce(assigned_model, '') = l.model
            AND (rank, id) > (l.after_rank, l.after_id) AND rank < 4611686018427387904
            AND assignment_reason IS NOT NULL AND state = 'pending' AND (deadline IS NULL OR deadline > statement_timestamp())
            AND id <> ALL ($12)
        ORDER BY rank, id LIMIT $8 FOR UPDATE SKIP LOCKED) AS t
    WHERE NOT l.crowded
    UNION ALL
    SELECT t.*, l.namespace, l.loaded FROM lanes AS l
    JOIN expert_places AS p ON p.namespace = l.namespace AND p.running < p.places CROSS JOIN LATERAL (
        SELECT id, expert, priority, rank FROM tasks
        WHERE namespace = l.namespace AND expert = p.expert AND queue = l.queue AND coalesce(assigned_model, '') = l.model
            AND (rank, id) > (l.after_rank, l.after_id) AND rank < 4611686018427387904
            AND assignment_reason IS NOT NULL AND state = 'pending' AND (deadline IS NULL OR deadline > statement_timestamp())
            AND id <> ALL ($12)
        ORDER BY rank, id LIMIT least($8, p.places - p.running) FOR UPDATE SKIP LOCKED) AS t
    WHERE l.crowded
), chosen AS MATERIALIZED (
    SELECT * FROM (SELECT f.id, f.namespace, f.expert, row_number() OVER (ORDER BY
            f.loaded AND f.priority >= h.priority AND f.rank - h.rank <= $7 DESC, f.rank, f.id) AS place
        FROM found AS f, (SELECT rank, priority FROM found ORDER BY rank, id LIMIT 1) AS h) AS sorted
    WHERE place <= $8
), wanted AS MATERIALIZED (
    SELECT namespace, expert, count(*)::integer AS wanted FROM chosen GROUP BY namespace, expert
), locked AS MATERIALIZED (
    SELECT p.namespace, p.expert, w.wanted FROM expert_places AS p
    JOIN wanted AS w ON p.namespace = w.namespace AND p.expert = w.expert
    ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p
), granted AS MATERIALIZED (
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
), claimed AS (
    UPDATE tasks AS t SET state = 'in_progress', claimed_at = clock_timestamp(), epoch = epoch + 1,
        lease = CASE WHEN $11::bigint IS NOT NULL THEN $11 ELSE
            (SELECT l.lease FROM lanes AS l WHERE l.namespace = t.namespace AND l.queue = t.queue LIMIT 1) END
    WHERE id = ANY (ARRAY(SELECT id FROM taken))
    RETURNING id, lease, epoch, namespace, queue, domain, role, payload, priority, deadline, key, labels, expert, assigned_model,
        attempts_used, free_requeues, cycle, attempts, rank
), noted AS (
    INSERT INTO claims SELECT lease, array_agg(id), array_agg(epoch) FROM claimed GROUP BY lease
)
SELECT *, (SELECT of_places FROM short) AS cut, EXISTS (SELECT FROM expert_places AS p
    WHERE p.running >= p.places AND p.namespace IN (SELECT namespace FROM lanes)) AS passed_over
FROM claimed";

/// Of a claim the part that chooses and locks, with the lease that each would belong to.
pub(super) fn choose() -> String {
    let (choose, _) = CLAIM.split_once("), wanted AS MATERIALIZED").unwrap_or((CLAIM, ""));
    format!("{choose}) SELECT id, expert, $11::bigint FROM chosen ORDER BY place")
}

/// The same for tasks that take no slot, where all that was chosen has places in the snapshot, or nothing: tasks are taken first, and the
/// places, which others wait for, are locked at the very end (nothing refers to `counted`, and of such parts the first one runs last).
/// Where one was taken meanwhile, the table's constraint refuses the whole.
pub(in super::super) const CLAIM_EAGERLY: &str = "
WITH lanes AS MATERIALIZED (
    SELECT w.*, EXISTS (SELECT FROM expert_places AS p
        WHERE p.namespace = w.namespace AND p.running >= p.places AND EXISTS (SELECT FROM tasks AS t
            WHERE t.namespace = p.namespace AND t.expert = p.expert AND t.queue = w.queue AND coalesce(t.assigned_model, '') = w.model
                AND t.assignment_reason IS NOT NULL AND t.rank < 4611686018427387904 AND t.state = 'pending')) AS crowded
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $9::boolean[], $10::text[])
        AS w (namespace, queue, model, lease, after_rank, after_id, loaded, holder)
    JOIN leases AS l ON l.id = w.lease AND l.holder = w.holder AND l.namespace = w.namespace AND l.queue = w.queue
        AND l.expires_at > clock_timestamp()
    JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = w.namespace AND q.name = w.queue
        AND q.gone_at IS NULL AND NOT q.suspended AND q.held IS NULL
    FOR KEY SHARE OF l
), chosen AS MATERIALIZED (
    SELECT t.id, l.namespace, t.expert FROM lanes AS l CROSS JOIN LATERAL (
        SELECT id, expert, rank FROM tasks
        WHERE namespace = l.namespace AND queue = l.queue AND coalesce(assigned_model, '') = l.model
            AND (rank, id) > (l.after_rank, l.after_id) AND rank < 4611686018427387904
            AND assignment_reason IS NOT NULL AND state = 'pending' AND (deadline IS NULL OR deadline > statement_timestamp())
            AND id <> ALL ($12)
        ORDER BY rank, id LIMIT $8 FOR UPDATE SKIP LOCKED) AS t
    WHERE NOT (SELECT bool_or(crowded) FROM lanes) AND $7::bigint IS NOT NULL ORDER BY t.rank, t.id LIMIT $8
), wanted AS MATERIALIZED (
    SELECT namespace, expert, count(*)::integer AS wanted FROM chosen GROUP BY namespace, expert
), locked AS MATERIALIZED (
    SELECT p.namespace, p.expert, w.wanted FROM expert_places AS p
    JOIN wanted AS w ON p.namespace = w.namespace AND p.expert = w.expert
    ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p
), enough AS MATERIALIZED (
    SELECT (SELECT count(*) FROM wanted) = (SELECT count(*) FROM wanted AS w
        JOIN expert_places AS p ON p.namespace = w.namespace AND p.expert = w.expert
        WHERE p.running + w.wanted <= p.places) AS places
), counted AS (
    UPDATE expert_places AS p SET running = p.running + l.wanted,
        granted = CASE WHEN p.running + l.wanted <= p.places THEN l.wanted ELSE -1 END
    FROM locked AS l
    WHERE p.namespace = l.namespace AND p.expert = l.expert AND (SELECT places FROM enough)
), claimed AS (
    UPDATE tasks AS t SET state = 'in_progress', claimed_at = clock_timestamp(), epoch = epoch + 1,
        lease = CASE WHEN $11::bigint IS NOT NULL THEN $11 ELSE
            (SELECT l.lease FROM lanes AS l WHERE l.namespace = t.namespace AND l.queue = t.queue LIMIT 1) END
    WHERE id = ANY (ARRAY(SELECT id FROM chosen WHERE (SELECT places FROM enough)))
    RETURNING id, lease, epoch, namespace, queue, domain, role, payload, priority, deadline, key, labels, expert, assigned_model,
        attempts_used, free_requeues, cycle, attempts, rank
), noted AS (
    INSERT INTO claims SELECT lease, array_agg(id), array_agg(epoch) FROM claimed GROUP BY lease
)
SELECT *, false AS cut, EXISTS (SELECT FROM expert_places AS p
    WHERE p.running >= p.places AND p.namespace IN (SELECT namespace FROM lanes)) AS passed_over
FROM claimed";
