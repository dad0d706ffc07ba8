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
use sqlx::{Sqlite, Transaction};

use super::{FolderAccess, SqliteStore};
use crate::store::changes::{Changes, Follower, Topics};
use crate::store::text::json_text;
use crate::store::{
    CallLife, Claimed, Due, FreeClaim, Lease, Slot, SlotClaim, SlotClaimAnswer, StoreError, Work, WorkerReport,
};
use crate::tasks::{Completion, QueueKey, TaskId};

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
