//! Tasks in a data folder. `BEGIN IMMEDIATE` is the one lock: whoever writes tasks sees all that others wrote before.
//!
//! What happens to a single task is decided by `tasks::machine` and written by `moving`; assignments and claims, where
//! many are looked at for few, are statements of their own.

/// A task's columns: with what may be large, or with `NULL` instead.
macro_rules! columns {
    ($payload:literal, $result:literal) => {
        concat!(
            "id, namespace, queue, domain, role, model, priority, run_after, deadline, key, labels, state, created_at,
             state_since, expert, assignment_reason, candidates, assigned_model, attempts_used, free_requeues,
             leases_lost, cycle, epoch, reason, attempts, ",
            $payload,
            " AS payload, ",
            $result,
            " AS result"
        )
    };
}

mod claiming;
mod commanding;
mod declaring;
mod dispatching;
mod holders;
mod inserting;
mod leasing;
#[cfg(test)]
mod line_tests;
mod moving;
mod reading;
mod reaping;
mod retaining;
mod scheduling;
mod slotting;
mod waking;

pub(super) use waking::Waker;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::{FolderAccess, SqliteStore};
use crate::store::changes::{Changes, Follower, Topics};
use crate::store::filter::CommandBatch;
use crate::store::text::json_text;
use crate::store::{
    CallLife, Claimed, DeclaredRow, Dispatch, Due, Fence, Fired, FreeClaim, Inserted, Lease, QueueCounts, Reapable,
    Reaped, Replaced, Retention, SETTLED, Slot, SlotClaim, SlotClaimAnswer, StoreError, TaskCommand, TaskCount,
    TaskCursor, TaskFilter, TaskPage, Tasks, Unassigned, Work, WorkerReport, WorkerRow,
};
use crate::tasks::{Assignment, Completion, NewTask, QueueKey, Task, TaskId};

/// Tasks that one transaction changes one by one, where nothing asks for more at once.
const BATCH: i64 = 1_000;

impl SqliteStore {
    /// Commits, and tells whoever waits for such changes, here and in other processes.
    pub(super) async fn commit(&self, tx: Transaction<'static, Sqlite>, topics: Topics) -> Result<(), StoreError> {
        tx.commit().await?;
        self.waker.changed(topics);
        Ok(())
    }
}

impl Changes for SqliteStore {
    fn follow(&self, topics: Topics) -> Follower {
        self.waker.follow(&self.reader, topics)
    }
}

#[async_trait]
impl Tasks for SqliteStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(SqliteStore::now(self).into())
    }

    async fn insert_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Inserted>, StoreError> {
        let mut tx = self.write().await?;
        let inserted = inserting::insert(&mut tx, tasks, self.now()).await?;
        if inserted.iter().any(|one| !one.existed) {
            self.commit(tx, Topics::NEW).await?;
        }
        Ok(inserted)
    }

    async fn tasks(&self, filter: &TaskFilter, page: &TaskPage) -> Result<Vec<Task>, StoreError> {
        reading::page(&mut *self.reader.begin().await?, filter, page).await
    }

    async fn task_changes(
        &self,
        filter: &TaskFilter,
        after: Option<TaskCursor>,
        limit: i64,
        brief: bool,
    ) -> Result<Vec<Task>, StoreError> {
        let until = self.now().before(SETTLED);
        reading::changes(&mut *self.reader.begin().await?, filter, after, until, limit, brief).await
    }

    async fn count_tasks(&self, filter: &TaskFilter) -> Result<i64, StoreError> {
        reading::count(&mut *self.reader.begin().await?, filter).await
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
        // In batches: the database is locked while one is carried out.
        let mut done = Vec::new();
        let mut after = 0;
        loop {
            let left = most.saturating_sub(i64::try_from(done.len()).unwrap_or(i64::MAX)).min(BATCH);
            if left <= 0 {
                return Ok(done);
            }
            let mut tx = self.write().await?;
            let batch = commanding::command(&mut tx, filter, command, reason, (after, left), self.now()).await?;
            let CommandBatch { done: of_batch, last } = batch;
            let Some(last) = last else { return Ok(done) };
            after = last;
            if !of_batch.is_empty() {
                self.commit(tx, Topics::TASKS).await?;
            }
            done.extend(of_batch);
        }
    }

    async fn queue_counts(&self) -> Result<Vec<QueueCounts>, StoreError> {
        reading::queue_counts(&mut *self.reader.begin().await?, self.now()).await
    }

    async fn task_counts(&self) -> Result<Vec<TaskCount>, StoreError> {
        reading::task_counts(&mut *self.reader.acquire().await?, self.now()).await
    }

    async fn slots_wanted(&self, queues: &[QueueKey]) -> Result<bool, StoreError> {
        reading::slots_wanted(&mut *self.reader.acquire().await?, queues).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let now = self.now();
        let mut workers = reading::workers(&mut *self.reader.acquire().await?, now).await?;
        workers.extend(self.memory.reports(now, retaining::WORKER_KEPT));
        workers.sort_by(|a, b| a.report.holder.cmp(&b.report.holder));
        Ok(workers)
    }

    async fn declared(&self, kind: &str) -> Result<Vec<DeclaredRow>, StoreError> {
        declaring::living(&mut *self.reader.acquire().await?, kind).await
    }
}

#[async_trait]
impl Dispatch for SqliteStore {
    async fn project_declared(&self, fence: &Fence, row: &DeclaredRow) -> Result<(), StoreError> {
        self.project(fence, row).await
    }

    async fn sweep_declared(
        &self,
        fence: &Fence,
        kind: &str,
        complete: &[String],
    ) -> Result<Vec<DeclaredRow>, StoreError> {
        self.sweep(fence, kind, complete).await
    }

    async fn unassigned(&self, after: TaskId, most: i64) -> Result<Vec<Unassigned>, StoreError> {
        dispatching::unassigned(&mut *self.reader.acquire().await?, after, most).await
    }

    async fn assign(&self, fence: &Fence, assignments: &[Assignment]) -> Result<u64, StoreError> {
        let mut assigned = 0;
        for batch in assignments.chunks(usize::try_from(BATCH).unwrap_or(1)) {
            let mut tx = self.write_fenced(fence).await?;
            let of_batch = dispatching::assign(&mut tx, batch).await?;
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
        let fired = dispatching::fire(&mut tx, schedule, run, tasks, replaces, self.now()).await?;
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
        let replaced = dispatching::replace(&mut tx, schedule, run, replaces, self.now()).await?;
        self.commit(tx, Topics::ENDED).await?;
        Ok(replaced)
    }

    async fn last_runs(&self) -> Result<Vec<(String, Timestamp, bool)>, StoreError> {
        dispatching::last_runs(&mut *self.reader.acquire().await?).await
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn open_lease(&self, holder: &str, queue: &QueueKey, lease: Duration) -> Result<Lease, StoreError> {
        let mut tx = self.write().await?;
        let opened = leasing::open(&mut tx, holder, queue, self.now().after(lease)).await?;
        tx.commit().await?;
        Ok(opened)
    }

    async fn renew_leases(&self, leases: &[(Lease, Duration)]) -> Result<Vec<Lease>, StoreError> {
        let mut tx = self.write().await?;
        let lost = leasing::renew(&mut tx, leases, self.now()).await?;
        tx.commit().await?;
        Ok(lost)
    }

    async fn close_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut tx = self.write().await?;
        let freed = leasing::close(&mut tx, lease, self.now()).await?;
        self.commit(tx, Topics::TASKS.when(freed)).await
    }

    async fn due(&self, queues: &[QueueKey]) -> Result<Due, StoreError> {
        self.look_for_due(queues).await
    }

    async fn claim_free(&self, claim: &FreeClaim) -> Result<Vec<Claimed>, StoreError> {
        let mut tx = self.write().await?;
        let claimed = claiming::claim_free(&mut tx, claim, self.now()).await?;
        // Also where nothing was claimed: tasks that can't be may have gone to a human.
        self.commit(tx, Topics::STARTED.when(!claimed.is_empty())).await?;
        Ok(claimed)
    }

    async fn claim_slots(&self, claim: &SlotClaim) -> Result<SlotClaimAnswer, StoreError> {
        let mut tx = self.write().await?;
        let answer = slotting::claim_slots(&mut tx, claim, self.now()).await?;
        self.commit(tx, Topics::STARTED.when(!answer.given.is_empty())).await?;
        Ok(answer)
    }

    async fn claim_next(&self, slot: &Slot, claim: &SlotClaim, life: CallLife) -> Result<Option<Claimed>, StoreError> {
        let mut tx = self.write().await?;
        let claimed = slotting::claim_next(&mut tx, slot, claim, life, self.now()).await?;
        self.commit(tx, Topics::STARTED.when(claimed.is_some())).await?;
        Ok(claimed)
    }

    async fn hand_over(&self, task: TaskId, epoch: i64, lease: Duration) -> Result<Lease, StoreError> {
        let mut tx = self.write().await?;
        let lease = leasing::hand_over(&mut tx, task, epoch, self.now().after(lease)).await?;
        tx.commit().await?;
        Ok(lease)
    }

    async fn complete(&self, completions: &[Completion]) -> Result<Vec<bool>, StoreError> {
        let mut tx = self.write().await?;
        let changed = moving::complete(&mut tx, completions, self.now()).await?;
        if changed.contains(&true) {
            let back = completions.iter().any(|one| !one.verdict.is_final());
            self.commit(tx, Topics::ENDED | (Topics::NEW | Topics::READY).when(back)).await?;
        }
        Ok(changed)
    }

    async fn lost_claims(&self, claims: &[(TaskId, i64)]) -> Result<Vec<TaskId>, StoreError> {
        moving::lost(&mut *self.reader.acquire().await?, claims).await
    }

    async fn report_worker(&self, report: &WorkerReport) -> Result<(), StoreError> {
        if self.hold == FolderAccess::Lock {
            self.memory.report(report, self.now());
            self.waker.changed(Topics::REPORTS.when(self.reported.is_news(report)));
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO workers (holder, report, reported_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (holder) DO UPDATE SET report = ?2, reported_at = ?3",
        )
        .bind(&report.holder)
        .bind(json_text(report))
        .bind(self.now())
        .execute(&self.writer)
        .await?;
        self.waker.changed(Topics::REPORTS.when(self.reported.is_news(report)));
        Ok(())
    }

    async fn worker_left(&self, holder: &str) -> Result<(), StoreError> {
        self.memory.forget_report(holder);
        let mut tx = self.write().await?;
        sqlx::query("DELETE FROM workers WHERE holder = ?").bind(holder).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM holders WHERE holder = ?").bind(holder).execute(&mut *tx).await?;
        self.reported.forget(holder);
        self.commit(tx, Topics::REPORTS).await
    }
}
