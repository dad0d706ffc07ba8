//! What only the leader does to tasks: assignments, and the runs of schedules.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::types::Json;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::commanding::choose;
use super::moving::happen;
use super::{BATCH, SqliteStore, inserting, reaping};
use crate::store::changes::Topics;
use crate::store::filter::TaskPart;
use crate::store::stamp::Stamp;
use crate::store::words::Words;
use crate::store::{Dispatch, Fence, Fired, Reapable, Reaped, Replaced, Retention, StoreError, Unassigned};
use crate::tasks::machine::TaskEvent;
use crate::tasks::{Assignment, NewTask, TaskId};

/// Notes a run; false when it is noted already.
async fn first_time(tx: &mut SqliteConnection, schedule: &str, run: Timestamp) -> Result<bool, StoreError> {
    let noted = sqlx::query("INSERT INTO schedule_runs (schedule, run_at) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(schedule)
        .bind(Stamp::from(run))
        .execute(tx)
        .await?;
    Ok(noted.rows_affected() == 1)
}

/// The tasks of a run, unless it was fired before; and the first batch of what it replaces.
async fn fire(
    tx: &mut SqliteConnection,
    schedule: &str,
    run: Timestamp,
    tasks: &[NewTask],
    replaces: Option<&Replaced>,
    now: Stamp,
) -> Result<Fired, StoreError> {
    if !first_time(tx, schedule, run).await? {
        return Ok(Fired::Before);
    }
    let inserted = inserting::insert(tx, tasks, now).await?;
    let first = inserted.iter().filter(|one| !one.existed).map(|one| one.id).min();
    let (Some(replaces), Some(first)) = (replaces, first) else { return Ok(Fired::Now { replaced: true }) };
    sqlx::query("UPDATE schedule_runs SET replaces_below = ?3 WHERE schedule = ?1 AND run_at = ?2")
        .bind(schedule)
        .bind(Stamp::from(run))
        .bind(first)
        .execute(&mut *tx)
        .await?;
    Ok(Fired::Now { replaced: replace(tx, schedule, run, replaces, now).await? })
}

/// Cancels a batch of what was there before the run's own tasks; true when there is no more.
async fn replace(
    tx: &mut SqliteConnection,
    schedule: &str,
    run: Timestamp,
    replaces: &Replaced,
    now: Stamp,
) -> Result<bool, StoreError> {
    let below: Option<i64> = sqlx::query_scalar(
        "SELECT replaces_below FROM schedule_runs WHERE schedule = ?1 AND run_at = ?2 AND replaces_below IS NOT NULL",
    )
    .bind(schedule)
    .bind(Stamp::from(run))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(below) = below else { return Ok(true) };
    let older = |query: &mut QueryBuilder<Sqlite>| {
        query.push(" AND id < ").push_bind(below);
    };
    let ids = choose(tx, (TaskPart::Live, "true"), &replaces.filter, (0, BATCH), older).await?;
    let any = !ids.is_empty();
    for id in ids {
        happen(tx, id, TaskEvent::Cancel, Words::reason(&replaces.reason), now).await?;
    }
    if !any {
        sqlx::query("UPDATE schedule_runs SET replaces_below = NULL WHERE schedule = ?1 AND run_at = ?2")
            .bind(schedule)
            .bind(Stamp::from(run))
            .execute(tx)
            .await?;
    }
    Ok(!any)
}

#[async_trait]
impl Dispatch for SqliteStore {
    async fn unassigned(&self, after: TaskId, most: i64) -> Result<Vec<Unassigned>, StoreError> {
        let waiting = sqlx::query_as(
            "SELECT id, namespace, queue, domain, role, model, expert FROM tasks
             WHERE state = 'pending' AND assignment_reason IS NULL AND id > ? ORDER BY id LIMIT ?",
        );
        Ok(waiting.bind(after).bind(most.max(0)).fetch_all(&self.reader).await?)
    }

    async fn assign(&self, fence: &Fence, assignments: &[Assignment]) -> Result<u64, StoreError> {
        let mut assigned = 0;
        for batch in assignments.chunks(usize::try_from(BATCH).unwrap_or(1)) {
            let mut tx = self.write_fenced(fence).await?;
            let mut of_batch = 0;
            // An expert that was named meanwhile is not overruled.
            for Assignment { task, expert, model, reason, candidates } in batch {
                of_batch += sqlx::query(
                    "UPDATE tasks SET expert = ?2, assigned_model = ?3, assignment_reason = ?4, candidates = ?5
                     WHERE id = ?1 AND state = 'pending' AND assignment_reason IS NULL AND coalesce(expert, ?2) = ?2",
                )
                .bind(task)
                .bind(expert)
                .bind(model)
                .bind(reason)
                .bind(Json(&**candidates))
                .execute(&mut *tx)
                .await?
                .rows_affected();
            }
            if of_batch > 0 {
                self.commit(tx, Topics::READY).await?;
            }
            assigned += of_batch;
        }
        Ok(assigned)
    }

    async fn reap_of(&self, fence: &Fence, reapable: &Reapable) -> Result<Reaped, StoreError> {
        let mut all = Reaped::default();
        loop {
            let mut tx = self.write_fenced(fence).await?;
            let (reaped, more) = reaping::reap(&mut tx, reapable, self.now()).await?;
            if reaped != Reaped::default() {
                self.commit(tx, Topics::TASKS).await?;
            }
            all += reaped;
            if !more {
                return Ok(all);
            }
        }
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        reaping::next_lapse(&mut *self.reader.acquire().await?, self.now()).await
    }

    async fn retain(&self, fence: &Fence, retention: &[Retention]) -> Result<u64, StoreError> {
        self.drop_old(fence, retention).await
    }

    async fn fire(
        &self,
        fence: &Fence,
        schedule: &str,
        run: Timestamp,
        tasks: &[NewTask],
        replaces: Option<&Replaced>,
    ) -> Result<Fired, StoreError> {
        let mut tx = self.write_fenced(fence).await?;
        let fired = fire(&mut tx, schedule, run, tasks, replaces, self.now()).await?;
        if fired != Fired::Before {
            let topics = Topics::NEW.when(!tasks.is_empty()) | Topics::ENDED.when(replaces.is_some());
            self.commit(tx, topics).await?;
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
        let mut tx = self.write_fenced(fence).await?;
        let replaced = replace(&mut tx, schedule, run, replaces, self.now()).await?;
        self.commit(tx, Topics::ENDED).await?;
        Ok(replaced)
    }

    async fn last_runs(&self) -> Result<Vec<(String, Timestamp, bool)>, StoreError> {
        // The bare column is that of the row with the maximum.
        let runs: Vec<(String, Stamp, bool)> = sqlx::query_as(
            "SELECT schedule, max(run_at), replaces_below IS NOT NULL FROM schedule_runs GROUP BY schedule ORDER BY schedule",
        )
        .fetch_all(&self.reader)
        .await?;
        Ok(runs.into_iter().map(|(schedule, run, replaces)| (schedule, run.into(), replaces)).collect())
    }
}
