//! What only the leader does to tasks: assignments, and the runs of schedules.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;
use sqlx::{Postgres, QueryBuilder};

use super::commanding::{choose, let_happen};
use super::{inserting, over, places, reaping, retaining};
use crate::store::changes::Topics;
use crate::store::filter::TaskPart;
use crate::store::postgres::PostgresStore;
use crate::store::stamp::Stamp;
use crate::store::text::json_text;
use crate::store::text::text;
use crate::store::{Dispatch, Fence, Fired, Reapable, Reaped, Replaced, Retention, StoreError, Unassigned};
use crate::tasks::machine::TaskEvent;
use crate::tasks::{Assignment, NewTask, TaskId};

/// Assignments that one transaction writes.
const BATCH: usize = 10_000;
/// Batches of one pass of the reaper.
const REAPED_BATCHES: usize = 50;

pub(super) const UNASSIGNED: &str = "SELECT id, namespace, queue, domain, role, model, expert FROM tasks
    WHERE state = 'pending' AND assignment_reason IS NULL AND id > $1 ORDER BY id LIMIT $2";

/// What is said of an assignment, apart from the task: few are different.
type Said<'a> = (&'a str, Option<&'a str>, &'a str, &'a [String]);

/// Only what is still unassigned is written; an expert that was named meanwhile is not overruled. The condition is such that tasks
/// are found by id, and not by the index of unassigned ones, of which there may be more than the planner thinks. What is said is
/// looked up by its number in the arrays: joined, the planner would go over all that is said for each task.
async fn write(connection: &mut PgConnection, batch: &[&Assignment]) -> Result<u64, StoreError> {
    let mut numbers = HashMap::new();
    let mut different: Vec<Said<'_>> = Vec::new();
    let mut which = Vec::with_capacity(batch.len());
    for Assignment { task: _, expert, model, reason, candidates } in batch {
        // Tasks of one kind share a list: so two are told apart by where they are, which costs less than what they say.
        let list = candidates.as_ptr().addr();
        which.push(*numbers.entry((expert.as_str(), model.as_deref(), *reason, list)).or_insert_with(|| {
            different.push((expert.as_str(), model.as_deref(), reason, candidates));
            i32::try_from(different.len()).unwrap_or(i32::MAX)
        }));
    }
    let lists = candidate_lists(connection, different.iter().map(|said| said.3)).await?;
    let written: Vec<(String, String, i64)> = sqlx::query_as(ASSIGN)
        .bind(batch.iter().map(|one| one.task).collect::<Vec<_>>())
        .bind(which)
        .bind(different.iter().map(|said| text(said.0)).collect::<Vec<_>>())
        .bind(different.iter().map(|said| said.1.map(text)).collect::<Vec<_>>())
        .bind(different.iter().map(|said| text(said.2)).collect::<Vec<_>>())
        .bind(lists)
        .fetch_all(&mut *connection)
        .await?;
    let count = written.iter().map(|(_, _, count)| count.unsigned_abs()).sum();
    let experts = written.into_iter().map(|(namespace, expert, _)| (namespace, expert));
    places::none_for_unknown(connection, experts).await?;
    Ok(count)
}

pub(super) const ASSIGN: &str = "WITH written AS (
        UPDATE tasks AS t SET expert = ($3::text[])[w.number], assigned_model = ($4::text[])[w.number],
            assignment_reason = ($5::text[])[w.number], candidates = ($6::integer[])[w.number]
        FROM unnest($1::bigint[], $2::integer[]) AS w (id, number)
        WHERE t.id = w.id AND t.state = 'pending' AND coalesce(t.assignment_reason, '') = ''
            AND coalesce(t.expert, ($3::text[])[w.number]) = ($3::text[])[w.number]
        RETURNING t.namespace, t.expert)
     SELECT namespace, expert, count(*) FROM written GROUP BY namespace, expert";

/// The number of each list; none for an empty one. What is new is noted.
async fn candidate_lists(
    connection: &mut PgConnection,
    lists: impl Iterator<Item = &[String]>,
) -> Result<Vec<Option<i32>>, StoreError> {
    let names: Vec<Option<String>> = lists.map(|names| (!names.is_empty()).then(|| json_text(&names))).collect();
    let distinct: Vec<&str> = names.iter().flatten().map(String::as_str).collect::<BTreeSet<_>>().into_iter().collect();
    // Only the leader assigns, two batches at once: who finds a list that the other is noting waits for its commit, so the second
    // statement sees them all. In order of names, so that neither waits for the other in a circle.
    sqlx::query(
        "INSERT INTO candidate_lists (names) SELECT w.names FROM unnest($1::text[]) AS w (names)
         WHERE NOT EXISTS (SELECT FROM candidate_lists AS l WHERE md5(l.names) = md5(w.names))
         ON CONFLICT (md5(names)) DO NOTHING",
    )
    .bind(&distinct)
    .execute(&mut *connection)
    .await?;
    let known: Vec<(String, i32, bool)> = sqlx::query_as(
        "SELECT names, id, used_at < clock_timestamp() - interval '1 day' FROM candidate_lists
         WHERE md5(names) = ANY (ARRAY(SELECT md5(unnest($1::text[]))))",
    )
    .bind(&distinct)
    .fetch_all(&mut *connection)
    .await?;
    // Those that are in use are not purged; to the day is enough.
    let stale: Vec<i32> = known.iter().filter(|(_, _, stale)| *stale).map(|(_, id, _)| *id).collect();
    if !stale.is_empty() {
        sqlx::query(
            "UPDATE candidate_lists SET used_at = clock_timestamp() WHERE id = ANY (ARRAY(
                SELECT id FROM candidate_lists WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED))",
        )
        .bind(stale)
        .execute(connection)
        .await?;
    }
    let known: HashMap<String, i32> = known.into_iter().map(|(names, id, _)| (names, id)).collect();
    Ok(names.iter().map(|names| names.as_ref().and_then(|names| known.get(names)).copied()).collect())
}

/// The tasks of a run, unless it was fired before; and the first batch of what it replaces.
async fn fire(
    connection: &mut PgConnection,
    schedule: &str,
    run: Timestamp,
    tasks: &[NewTask],
    replaces: Option<&Replaced>,
    most: i64,
) -> Result<Fired, StoreError> {
    if !first_time(connection, schedule, run).await? {
        return Ok(Fired::Before);
    }
    let inserted = inserting::insert(connection, tasks).await?;
    let first = inserted.iter().filter(|one| !one.existed).map(|one| one.id).min();
    let (Some(replaces), Some(first)) = (replaces, first) else { return Ok(Fired::Now { replaced: true }) };
    sqlx::query("UPDATE schedule_runs SET replaces_below = $3 WHERE schedule = $1 AND run_at = $2")
        .bind(schedule)
        .bind(Stamp::from(run))
        .bind(first)
        .execute(&mut *connection)
        .await?;
    Ok(Fired::Now { replaced: replace(connection, schedule, run, replaces, most).await? })
}

/// Cancels a batch of what was there before the run's own tasks; true when there is no more.
async fn replace(
    connection: &mut PgConnection,
    schedule: &str,
    run: Timestamp,
    replaces: &Replaced,
    most: i64,
) -> Result<bool, StoreError> {
    let below: Option<i64> = sqlx::query_scalar(
        "SELECT replaces_below FROM schedule_runs WHERE schedule = $1 AND run_at = $2 AND replaces_below IS NOT NULL",
    )
    .bind(schedule)
    .bind(Stamp::from(run))
    .fetch_optional(&mut *connection)
    .await?;
    let Some(below) = below else { return Ok(true) };
    let older = |query: &mut QueryBuilder<Postgres>| {
        query.push(" AND id < ").push_bind(below);
    };
    let ids = choose(connection, (TaskPart::Live, "true"), &replaces.filter, (0, most), older).await?;
    if !ids.is_empty() {
        let_happen(connection, ids, TaskEvent::Cancel, &replaces.reason).await?;
        return Ok(false);
    }
    sqlx::query("UPDATE schedule_runs SET replaces_below = NULL WHERE schedule = $1 AND run_at = $2")
        .bind(schedule)
        .bind(Stamp::from(run))
        .execute(connection)
        .await?;
    Ok(true)
}

/// Notes a run; false when it is noted already.
async fn first_time(connection: &mut PgConnection, schedule: &str, run: Timestamp) -> Result<bool, StoreError> {
    let noted = sqlx::query("INSERT INTO schedule_runs (schedule, run_at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(schedule)
        .bind(Stamp::from(run))
        .execute(connection)
        .await?;
    Ok(noted.rows_affected() == 1)
}

#[async_trait]
impl Dispatch for PostgresStore {
    async fn unassigned(&self, after: TaskId, most: i64) -> Result<Vec<Unassigned>, StoreError> {
        self.fetch(sqlx::query_as(UNASSIGNED).bind(after).bind(most.max(0))).await
    }

    async fn assign(&self, fence: &Fence, assignments: &[Assignment]) -> Result<u64, StoreError> {
        let mut sorted: Vec<&Assignment> = assignments.iter().collect();
        sorted.sort_by_key(|one| one.task);
        let mut assigned = 0;
        for batch in sorted.chunks(BATCH) {
            assigned += self
                .within(async {
                    let mut session = self.write_fenced(fence).await?;
                    let assigned = write(session.connection(), batch).await?;
                    session.commit().await?;
                    Ok(assigned)
                })
                .await?;
        }
        if assigned > 0 {
            self.work.changed(Topics::READY);
        }
        Ok(assigned)
    }

    async fn reap_of(&self, fence: &Fence, reapable: &Reapable) -> Result<Reaped, StoreError> {
        let mut all = Reaped::default();
        for _ in 0..REAPED_BATCHES {
            let whose = reaping::Whose::Lapsed(reapable);
            let batch = self.work.reaped.run(async |rows| fenced!(self, fence, reaping::reap(whose, rows)));
            let (reaped, more) = batch.await?;
            self.note_reaped(&mut all, reaped);
            if !more {
                break;
            }
        }
        Ok(all)
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        reaping::next_lapse(self).await
    }

    async fn retain(&self, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError> {
        retaining::retain(self, fence, retention).await
    }

    async fn fire(
        &self,
        fence: &Fence,
        schedule: &str,
        run: Timestamp,
        tasks: &[NewTask],
        replaces: Option<&Replaced>,
    ) -> Result<Fired, StoreError> {
        let rows = self.work.commanded.rows();
        let fired = fenced!(self, fence, fire(schedule, run, tasks, replaces, rows))?;
        if fired != Fired::Before {
            self.work.changed(Topics::NEW.when(!tasks.is_empty()) | Topics::ENDED.when(replaces.is_some()));
        }
        Ok(fired)
    }

    async fn replace_more(
        &self,
        fence: &Fence,
        schedule: &str,
        run: Timestamp,
        replaces: &Replaced,
    ) -> Result<bool, StoreError> {
        let batch = self.work.commanded.run(async |rows| fenced!(self, fence, replace(schedule, run, replaces, rows)));
        let replaced = batch.await?;
        self.work.changed(Topics::ENDED);
        Ok(replaced)
    }

    async fn last_runs(&self) -> Result<Vec<(String, Timestamp, bool)>, StoreError> {
        let last = sqlx::query_as(
            "SELECT DISTINCT ON (schedule) schedule, run_at, replaces_below IS NOT NULL FROM schedule_runs
             ORDER BY schedule, run_at DESC",
        );
        let runs: Vec<(String, Stamp, bool)> = self.fetch(last).await?;
        Ok(runs.into_iter().map(|(schedule, run, replaces)| (schedule, run.into(), replaces)).collect())
    }
}
