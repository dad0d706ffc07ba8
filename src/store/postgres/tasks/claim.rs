//! The claim of tasks: one statement, which the transaction that takes a slot runs within itself.
//!
//! Order of locks: the server's row, tasks (those that somebody else has locked are skipped), places of experts by key. Whoever
//! ends or takes back tasks locks tasks by id and then places: so nobody waits in a circle.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{FromRow, Row};

use super::columns::own_columns;
use super::cursor::{Lane, Place};
use crate::store::postgres::PostgresStore;
use crate::store::task_rows::TaskRecord;
use crate::store::{BootInstant, Claimed, FreeClaim, Lease, Served, SlotClaim, StoreError};
use crate::tasks::Task;

/// How often a claim tries again because the experts of what it found had fewer places than there were tasks.
const ROUNDS: usize = 3;

/// The whole of a claim: lanes of open queues with leases in force; in each the first tasks that are due and whose experts have
/// places; of all these the first `$8`, counted into the experts' places as far as these go.
///
/// What needs the loaded model goes first, before whoever has not waited `$7` milliseconds longer and has no higher
/// priority. The leases are locked against the reaper, so that it sees all that is claimed under one. A place that an expert has in
/// the snapshot may be taken meanwhile: what it then has is known under its lock, and only then tasks are counted for each expert.
macro_rules! claim {
    ($model:literal, $chosen:literal) => {
        concat!(
            "WITH lanes AS MATERIALIZED (
                SELECT w.* FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                    $9::boolean[], $10::text[]) AS w (namespace, queue, model, lease, after_rank, after_id, loaded, holder)
                JOIN leases AS l ON l.id = w.lease AND l.holder = w.holder AND l.namespace = w.namespace
                    AND l.queue = w.queue AND l.expires_at > clock_timestamp()
                JOIN declared AS q ON q.kind = 'TaskQueue' AND q.namespace = w.namespace AND q.name = w.queue
                    AND q.gone_at IS NULL AND NOT q.suspended AND q.held IS NULL
                FOR KEY SHARE OF l
            ), found AS MATERIALIZED (
                SELECT t.*, l.loaded FROM lanes AS l CROSS JOIN LATERAL (
                    SELECT id, namespace, expert, priority, rank FROM tasks
                    WHERE state = 'pending' AND assignment_reason IS NOT NULL
                        AND namespace = l.namespace AND queue = l.queue AND ",
            $model,
            " AND (rank, id) > (l.after_rank, l.after_id)
                        AND (run_after IS NULL OR run_after <= statement_timestamp())
                        AND (deadline IS NULL OR deadline > statement_timestamp())
                        AND expert <> ALL (ARRAY(SELECT p.expert FROM expert_places AS p
                            WHERE p.namespace = l.namespace AND p.running >= p.places))
                    ORDER BY rank, id LIMIT $8 FOR UPDATE SKIP LOCKED) AS t
            ), chosen AS MATERIALIZED (
                ",
            $chosen,
            "
            ), locked AS MATERIALIZED (
                SELECT p.namespace, p.expert, w.wanted FROM expert_places AS p
                JOIN (SELECT namespace, expert, count(*)::integer AS wanted FROM chosen GROUP BY 1, 2) AS w
                    ON p.namespace = w.namespace AND p.expert = w.expert
                ORDER BY p.namespace, p.expert FOR NO KEY UPDATE OF p
            ), granted AS MATERIALIZED (
                UPDATE expert_places AS p SET granted = greatest(least(l.wanted, p.places - p.running), 0),
                    running = p.running + greatest(least(l.wanted, p.places - p.running), 0)
                FROM locked AS l WHERE p.namespace = l.namespace AND p.expert = l.expert
                RETURNING p.namespace, p.expert, p.granted
            ), short AS MATERIALIZED (
                SELECT (SELECT count(*) FROM chosen) > (SELECT coalesce(sum(granted), 0) FROM granted) AS of_places
            ), taken AS MATERIALIZED (
                SELECT id FROM chosen WHERE NOT (SELECT of_places FROM short)
                UNION ALL SELECT c.id FROM (
                    SELECT id, namespace, expert, row_number() OVER (PARTITION BY namespace, expert ORDER BY place, id) AS nth
                    FROM chosen WHERE (SELECT of_places FROM short)
                ) AS c JOIN granted AS g ON g.namespace = c.namespace AND g.expert = c.expert WHERE c.nth <= g.granted
            )
            UPDATE tasks AS t SET state = 'in_progress', state_since = clock_timestamp(), epoch = epoch + 1,
                lease = CASE WHEN $11::bigint IS NOT NULL THEN $11 ELSE
                    (SELECT l.lease FROM lanes AS l WHERE l.namespace = t.namespace AND l.queue = t.queue LIMIT 1) END
            WHERE id = ANY (ARRAY(SELECT id FROM taken))
            RETURNING t.rank, t.payload, NULL::json AS result, '[]'::json AS candidates, (SELECT of_places FROM short) AS cut, EXISTS (
                SELECT FROM expert_places AS p
                WHERE p.running >= p.places AND p.namespace IN (SELECT namespace FROM lanes)) AS passed_over, ",
            own_columns!("t.")
        )
    };
}

const FREE: &str = claim!(
    "assigned_model IS NULL",
    "SELECT id, namespace, expert, rank AS place FROM found ORDER BY rank, id LIMIT $8"
);
const SLOTTED: &str = claim!(
    "assigned_model = l.model",
    "SELECT * FROM (SELECT f.id, f.namespace, f.expert, row_number() OVER (ORDER BY
            f.loaded AND f.priority >= h.priority AND f.rank - h.rank <= $7 DESC, f.rank, f.id) AS place
        FROM found AS f, (SELECT rank, priority FROM found ORDER BY rank, id LIMIT 1) AS h) AS sorted
    WHERE place <= $8"
);

/// A lane, as one claim searches it.
pub(super) struct Search<'a> {
    pub lane: Lane,
    lease: &'a Lease,
    pub after: Place,
    loaded: bool,
}

/// What was claimed, and what the next claim needs to know.
#[derive(Default)]
pub(super) struct Catch {
    pub claimed: Vec<Claimed>,
    pub seen: Seen,
    /// Of what it found, experts had no places for some.
    cut: bool,
}

#[derive(Default)]
pub(super) struct Seen {
    /// For each search, the last place that it claimed.
    pub last: Vec<Option<Place>>,
    /// It left tasks behind for which their experts had no place.
    pub passed_over: bool,
}

/// The lanes of tasks that take no slot.
fn free_lanes(queues: &[Served]) -> Vec<Search<'_>> {
    queues.iter().map(|served| search(served, None, false)).collect()
}

/// The lanes of what a server may be asked for.
pub(super) fn slotted_lanes(claim: &SlotClaim) -> Vec<Search<'_>> {
    let asked = |served: &Served, model: &(String, String)| served.queue.namespace == model.0;
    claim
        .queues
        .iter()
        .flat_map(|served| claim.models.iter().map(move |model| (served, model)))
        .filter(|(served, model)| asked(served, model))
        .map(|(served, model)| search(served, Some(&model.1), claim.loaded.as_ref() == Some(model)))
        .collect()
}

fn search<'a>(served: &'a Served, model: Option<&String>, loaded: bool) -> Search<'a> {
    let lane =
        Lane { namespace: served.queue.namespace.clone(), queue: served.queue.name.clone(), model: model.cloned() };
    Search { lane, lease: &served.lease, after: Place::FIRST, loaded }
}

pub(super) async fn free(store: &PostgresStore, claim: &FreeClaim) -> Result<Vec<Claimed>, StoreError> {
    let mut searches = free_lanes(&claim.queues);
    let began = BootInstant::now();
    store.work.begin(&mut searches, began);
    let catch = store
        .within(async {
            let mut session = store.session().await?;
            let catch = rounds(session.connection(), FREE, &searches, Duration::ZERO, i64::from(claim.most)).await?;
            session.end();
            Ok(catch)
        })
        .await?;
    store.work.claimed(&searches, &catch.seen, began);
    Ok(catch.claimed)
}

/// Claims tasks that take a slot, within a transaction that has locked the server's row.
pub(super) async fn slotted(
    connection: &mut PgConnection,
    searches: &[Search<'_>],
    affinity: Duration,
    most: i64,
) -> Result<Catch, StoreError> {
    rounds(connection, SLOTTED, searches, affinity, most).await
}

async fn rounds(
    connection: &mut PgConnection,
    statement: &'static str,
    searches: &[Search<'_>],
    affinity: Duration,
    most: i64,
) -> Result<Catch, StoreError> {
    let mut whole = Catch { seen: Seen { last: vec![None; searches.len()], passed_over: false }, ..Catch::default() };
    for round in 0..ROUNDS {
        let left = most - i64::try_from(whole.claimed.len()).unwrap_or(i64::MAX);
        if left < 1 || searches.is_empty() {
            break;
        }
        whole.cut = false;
        let claimed = whole.claimed.len();
        run(connection, statement, searches, affinity, left, &mut whole).await?;
        if whole.claimed.len() == claimed {
            // It may have found only what belongs to experts that were filled up meanwhile: once more, without them.
            whole.cut = any_full(connection, searches).await? && round == 0;
        }
        whole.seen.passed_over |= whole.cut;
        if !whole.cut {
            break;
        }
    }
    Ok(whole)
}

/// Whether any expert that could have been passed over has no place.
async fn any_full(connection: &mut PgConnection, searches: &[Search<'_>]) -> Result<bool, StoreError> {
    let full = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM expert_places WHERE running >= places AND namespace = ANY ($1))",
    );
    let namespaces = searches.iter().map(|search| search.lane.namespace.as_str()).collect::<Vec<_>>();
    Ok(full.bind(namespaces).fetch_one(connection).await?)
}

/// The lease of all searches, if it is one: then it need not be found for each task.
fn one_lease(searches: &[Search<'_>]) -> Option<i64> {
    let first = searches.first()?.lease.id;
    searches.iter().all(|search| search.lease.id == first).then_some(first)
}

async fn run(
    connection: &mut PgConnection,
    statement: &'static str,
    searches: &[Search<'_>],
    affinity: Duration,
    most: i64,
    whole: &mut Catch,
) -> Result<(), StoreError> {
    let window = i64::try_from(affinity.as_millis()).unwrap_or(i64::MAX);
    let rows = sqlx::query(statement)
        .bind(searches.iter().map(|search| search.lane.namespace.as_str()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lane.queue.as_str()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lane.model.as_deref()).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lease.id).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.after.rank).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.after.id).collect::<Vec<_>>())
        .bind(window)
        .bind(most)
        .bind(searches.iter().map(|search| search.loaded).collect::<Vec<_>>())
        .bind(searches.iter().map(|search| search.lease.holder.as_str()).collect::<Vec<_>>())
        .bind(one_lease(searches))
        .fetch_all(connection)
        .await?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        whole.cut |= row.try_get::<bool, _>("cut")?;
        whole.seen.passed_over |= row.try_get::<bool, _>("passed_over")?;
        let task: Task = TaskRecord::from_row(row)?.try_into()?;
        let place = Place { rank: row.try_get("rank")?, id: task.id };
        let searched = searches.iter().position(|search| search.lane.has(&task)).ok_or_else(|| {
            StoreError::Broken(format!("task {} was claimed, of a lane that the claim did not name", task.id))
        })?;
        whole.seen.last[searched] = whole.seen.last[searched].max(Some(place));
        claimed.push((place, Claimed { task, lease: searches[searched].lease.clone() }));
    }
    claimed.sort_by_key(|(place, _)| *place);
    whole.claimed.extend(claimed.into_iter().map(|(_, claimed)| claimed));
    Ok(())
}
