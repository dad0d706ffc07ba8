//! Tasks in PostgreSQL.
//!
//! What happens to single tasks is decided by `tasks::machine` and written by [`moving`]. Claims, final ends and assignments, where
//! many tasks are changed at once, are statements of their own that do the same.
//!
//! Locks are taken in one order: the server's row, leases, tasks by id (a claim skips those that are locked), places of experts by key.

/// Runs a function over one transaction, which is committed when it answers, and rolled back when it says that a claim is lost.
macro_rules! transaction {
    ($store:expr, $($what:ident)::+($($arg:expr),*)) => {
        $store.within(async { over($store.write().await?, async |connection| $($what)::+(connection, $($arg),*).await).await }).await
    };
}

/// The same, in a transaction of the leader.
macro_rules! fenced {
    ($store:expr, $fence:expr, $($what:ident)::+($($arg:expr),*)) => {
        $store
            .within(async {
                over($store.write_fenced($fence).await?, async |connection| $($what)::+(connection, $($arg),*).await).await
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
use sqlx::postgres::PgConnection;

pub(super) use self::memory::WorkState;
use super::{PostgresStore, Session};
use crate::store::changes::{Changes, Follower, Topics};
use crate::store::text::json_text;
use crate::store::{
    CallLife, Claimed, Due, FreeClaim, Lease, Reaped, Slot, SlotClaim, SlotClaimAnswer, StoreError, Work, WorkerReport,
};
use crate::tasks::{Completion, QueueKey, TaskId};

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

impl Changes for PostgresStore {
    fn follow(&self, topics: Topics) -> Follower {
        self.work.waker.follow(topics)
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
