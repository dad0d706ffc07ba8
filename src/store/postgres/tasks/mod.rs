//! Tasks in PostgreSQL.
//!
//! What happens to single tasks is decided by `tasks::machine` and written by [`moving`]. Claims, final ends and assignments, where
//! many tasks are changed at once, are statements of their own that do the same.
//!
//! Locks are taken in one order: the server's row, leases, tasks by id (a claim skips those that are locked), places of experts by key.

/// Runs a function over one transaction, which is committed when it answers, and rolled back when it says that a claim is lost.
macro_rules! transaction {
    ($store:expr, $room:ident :: $what:ident($($arg:expr),*)) => {
        $store.within(async { over($store.write().await?, async |connection| $room::$what(connection, $($arg),*).await).await }).await
    };
}

/// The same, in a transaction of the leader.
macro_rules! fenced {
    ($store:expr, $fence:expr, $room:ident :: $what:ident($($arg:expr),*)) => {
        $store
            .within(async {
                over($store.write_fenced($fence).await?, async |connection| $room::$what(connection, $($arg),*).await).await
            })
            .await
    };
}

mod assigning;
mod claim;
mod commanding;
mod cursor;
mod declaring;
mod ending;
mod holders;
mod inserting;
mod leasing;
mod memory;
mod moving;
mod places;
mod reading;
mod reaping;
mod retaining;
mod scheduling;
mod slots;
mod waking;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::postgres::PgConnection;

pub(super) use self::memory::WorkState;
use super::{PostgresStore, Session};
use crate::store::changes::{Changes, Follower, Topics};
use crate::store::filter::CommandBatch;
use crate::store::stamp::Stamp;
use crate::store::text::json_text;
use crate::store::{
    CallLife, Claimed, DeclaredRow, Dispatch, Due, Fence, Fired, FreeClaim, Inserted, Lease, QueueCounts, Reapable,
    Reaped, Replaced, Retention, Slot, SlotClaim, SlotClaimAnswer, StoreError, TaskCommand, TaskCount, TaskCursor,
    TaskFilter, TaskPage, Tasks, Unassigned, Work, WorkerReport, WorkerRow,
};
use crate::tasks::{Assignment, Completion, NewTask, QueueKey, Task, TaskId};

async fn over<T>(
    mut session: Session,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match work(session.connection()).await {
        Ok(answer) => {
            session.commit().await?;
            Ok(answer)
        }
        Err(fenced @ StoreError::Fenced(_)) => {
            session.roll_back().await?;
            Err(fenced)
        }
        Err(error) => Err(error),
    }
}

impl PostgresStore {
    /// Adds what a batch of the reaper did, and tells whoever waits for that.
    fn note_reaped(&self, all: &mut Reaped, batch: Reaped) {
        self.work.changed(Topics::TASKS.when(batch != Reaped::default()));
        *all += batch;
    }
}

/// The statements that run again and again, by what they are for: tests look at their plans.
pub fn periodic_statements() -> Vec<(&'static str, String)> {
    let [first_changes, changes] = reading::statements_of_changes();
    let past = retaining::page_of_past("finished_failed");
    [
        ("claim", claim::CLAIM),
        ("claim eagerly", claim::CLAIM_EAGERLY),
        ("move what is due", scheduling::MOVE),
        ("look for what is due", scheduling::DUE),
        ("look for what takes a slot", reading::SLOTS_WANTED),
        ("look for what lapses next", reaping::NEXT_LAPSE),
        ("fail what is past its deadline", reaping::EXPIRED),
        ("take lapsed leases", reaping::LAPSED),
        ("take a dead process' leases", reaping::HELD),
        ("find what was claimed under leases", reaping::LOST),
        ("forget claims of what ended", leasing::FORGET_CLAIMS),
        ("count tasks", reading::COUNTS),
        ("sum up counts", reading::SUM_UP),
        ("find the oldest of each queue", reading::OLDEST),
        ("recount places", places::OFF),
        ("find what nobody has", assigning::UNASSIGNED),
        ("assign", assigning::ASSIGN),
        ("follow an expert", declaring::FOLLOW),
        ("find what is past its time", past.as_str()),
        ("read changes", first_changes.as_str()),
        ("read on from a change", changes.as_str()),
    ]
    .map(|(what, statement)| (what, statement.to_owned()))
    .into()
}

/// Batches of one pass of the reaper.
const REAPED_BATCHES: usize = 50;

impl Changes for PostgresStore {
    fn follow(&self, topics: Topics) -> Follower {
        self.work.waker.follow(topics)
    }
}

#[async_trait]
impl Tasks for PostgresStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        let now: Vec<(Stamp,)> = self.fetch(sqlx::query_as("SELECT clock_timestamp()")).await?;
        let (now,) = now.into_iter().next().ok_or_else(|| StoreError::Broken("no time".to_owned()))?;
        Ok(now.into())
    }

    async fn insert_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError> {
        let inserted = transaction!(self, inserting::insert(tasks))?;
        if inserted.iter().any(|one| !one.existed) {
            self.work.changed(Topics::NEW);
        }
        Ok(inserted)
    }

    async fn tasks(&self, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError> {
        reading::page(self, filter, page).await
    }

    async fn task_changes(
        &self,
        filter: &TaskFilter,
        after: Option<TaskCursor>,
        limit: i64,
        brief: bool,
    ) -> Result<Vec<Task>, StoreError> {
        reading::changes(self, filter, after, limit, brief).await
    }

    async fn count_tasks(&self, filter: &TaskFilter) -> Result<i64, StoreError> {
        reading::count(self, filter).await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        let filter = TaskFilter { ids: vec![id], ..TaskFilter::default() };
        let page = TaskPage { limit: 1, ..TaskPage::default() };
        Ok(self.tasks(&filter, &page).await?.pop())
    }

    async fn command_tasks(
        &self,
        filter: &TaskFilter,
        command: &TaskCommand,
        reason: &str,
        most: i64,
    ) -> Result<Vec<TaskId>, StoreError> {
        let (mut done, mut after) = (Vec::new(), 0);
        loop {
            let left = most.saturating_sub(i64::try_from(done.len()).unwrap_or(i64::MAX));
            if left <= 0 {
                return Ok(done);
            }
            let batch = self.work.commanded.run(async |rows| {
                transaction!(self, commanding::command(filter, command, reason, (after, rows.min(left))))
            });
            let CommandBatch { done: of_batch, last } = batch.await?;
            let Some(last) = last else { return Ok(done) };
            self.work.changed(Topics::TASKS.when(!of_batch.is_empty()));
            done.extend(of_batch);
            after = last;
        }
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>, StoreError> {
        reading::queue_counts(self).await
    }

    async fn task_counts(&self) -> Result<Vec<TaskCount>, StoreError> {
        reading::task_counts(self).await
    }

    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError> {
        reading::slots_wanted(self, queues).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        reading::workers(self).await
    }

    async fn declared(&self, kind: &str) -> Result<Vec<DeclaredRow>, StoreError> {
        declaring::living(self, kind).await
    }
}

#[async_trait]
impl Dispatch for PostgresStore {
    async fn project_declared(&self, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError> {
        declaring::project(self, fence, row).await
    }

    async fn sweep_declared(
        &self,
        fence: &Fence,
        kind: &str,
        complete: &[String],
    ) -> Result<Vec<DeclaredRow>, StoreError> {
        declaring::sweep(self, fence, kind, complete).await
    }

    async fn unassigned(&self, after: TaskId, most: i64) -> Result<Vec<Unassigned>, StoreError> {
        assigning::unassigned(self, after, most).await
    }

    async fn assign(&self, fence: &Fence, assignments: &[Assignment]) -> Result<u64, StoreError> {
        let assigned = assigning::assign(self, fence, assignments).await?;
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
        let fired = fenced!(self, fence, assigning::fire(schedule, run, tasks, replaces, rows))?;
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
        let batch = self
            .work
            .commanded
            .run(async |rows| fenced!(self, fence, assigning::replace(schedule, run, replaces, rows)));
        let replaced = batch.await?;
        self.work.changed(Topics::ENDED);
        Ok(replaced)
    }

    async fn last_runs(&self) -> Result<Vec<(String, Timestamp, bool)>, StoreError> {
        assigning::last_runs(self).await
    }
}

#[async_trait]
impl Work for PostgresStore {
    async fn open_lease(&self, holder: &str, queue: &QueueKey, lease: Duration) -> Result<Lease, StoreError> {
        transaction!(self, leasing::open(holder, queue, lease))
    }

    async fn renew_leases(&self, leases: &[(Lease, Duration)]) -> Result<Vec<Lease>, StoreError> {
        transaction!(self, leasing::renew(leases))
    }

    async fn close_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let freed = transaction!(self, leasing::close(lease))?;
        self.work.changed(Topics::TASKS.when(freed));
        Ok(())
    }

    async fn due(&self, queues: &[QueueKey]) -> Result<Due, StoreError> {
        scheduling::due(self, queues).await
    }

    async fn claim_free(&self, claim: &FreeClaim) -> Result<Vec<Claimed>, StoreError> {
        let claimed = claim::free(self, claim).await?;
        self.work.changed(Topics::STARTED.when(!claimed.is_empty()));
        Ok(claimed)
    }

    async fn claim_slots(&self, claim: &SlotClaim) -> Result<SlotClaimAnswer, StoreError> {
        let answer = slots::claim(self, claim).await?;
        self.work.changed(Topics::STARTED.when(!answer.given.is_empty()));
        Ok(answer)
    }

    async fn claim_next(&self, slot: &Slot, claim: &SlotClaim, life: CallLife) -> Result<Option<Claimed>, StoreError> {
        let claimed = slots::next(self, slot, claim, life).await?;
        self.work.changed(Topics::STARTED.when(claimed.is_some()));
        Ok(claimed)
    }

    async fn hand_over(&self, task: TaskId, epoch: i64, lease: Duration) -> Result<Lease, StoreError> {
        transaction!(self, leasing::hand_over(task, epoch, lease))
    }

    async fn complete(&self, completions: &[Completion]) -> Result<Vec<bool>, StoreError> {
        let changed = if completions.iter().all(|one| one.verdict.is_final()) {
            self.within(async {
                let mut session = self.session().await?;
                let changed = ending::complete(session.connection(), completions).await?;
                session.end();
                Ok(changed)
            })
            .await?
        } else {
            transaction!(self, ending::complete(completions))?
        };
        if changed.contains(&true) {
            let back = completions.iter().any(|one| !one.verdict.is_final());
            self.work.changed(Topics::ENDED | (Topics::NEW | Topics::READY).when(back));
        }
        Ok(changed)
    }

    async fn lost_claims(&self, claims: &[(TaskId, i64)]) -> Result<Vec<TaskId>, StoreError> {
        transaction!(self, ending::lost(claims))
    }

    async fn report_worker(&self, report: &WorkerReport) -> Result<(), StoreError> {
        let insert = sqlx::query(
            "INSERT INTO workers (holder, report, reported_at) VALUES ($1, $2::jsonb, clock_timestamp())
             ON CONFLICT (holder) DO UPDATE SET report = excluded.report, reported_at = excluded.reported_at",
        )
        .bind(&report.holder)
        .bind(json_text(report));
        self.execute(insert).await?;
        self.work.changed(Topics::REPORTS.when(self.work.reported.is_news(report)));
        Ok(())
    }

    async fn worker_left(&self, holder: &str) -> Result<(), StoreError> {
        self.execute(sqlx::query("DELETE FROM workers WHERE holder = $1").bind(holder)).await?;
        self.execute(sqlx::query("DELETE FROM holders WHERE holder = $1").bind(holder)).await?;
        self.work.reported.forget(holder);
        self.work.changed(Topics::REPORTS);
        Ok(())
    }
}
