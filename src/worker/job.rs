//! Claims in hand: what may stop each of them, and why it was stopped.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::leases::HeldLease;
use crate::{
    calls::{CallStopped, HeldSlot},
    store::{BootInstant, Claimed},
    tasks::{ClaimedTask, TaskId},
};

/// A claim in hand.
#[derive(Debug)]
pub struct ClaimedJob {
    pub task: ClaimedTask,
    pub lease: Arc<HeldLease>,
    token: CancellationToken,
    why: OnceLock<CallStopped>,
}

impl ClaimedJob {
    pub fn stop(&self, why: CallStopped) {
        // The first reason counts.
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// Resolves once it is to be stopped.
    pub async fn stopped(&self) -> CallStopped {
        tokio::select! {
            () = self.token.cancelled() => {}
            () = self.lease.lost().cancelled() => self.stop(CallStopped::LeaseLost),
        }
        self.why.get().copied().unwrap_or(CallStopped::LeaseLost)
    }

    /// Whether a call may begin, or go on: asked before it is sent and at each token.
    pub fn may_run(&self, slot: Option<&HeldSlot>, now: BootInstant) -> Result<(), CallStopped> {
        if let Some(why) = self.why.get() {
            return Err(*why);
        }
        if !self.lease.holds(now) {
            return Err(CallStopped::LeaseLost);
        }
        slot.map_or(Ok(()), |slot| slot.may_run(now))
    }
}

/// All claims in hand, by task.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<Mutex<HashMap<TaskId, Arc<ClaimedJob>>>>);

impl Jobs {
    pub fn add(&self, claimed: Claimed, lease: Arc<HeldLease>) -> Arc<ClaimedJob> {
        let job =
            Arc::new(ClaimedJob { task: claimed.task, lease, token: CancellationToken::new(), why: OnceLock::new() });
        self.0.lock().insert(job.task.id, Arc::clone(&job));
        job
    }

    /// Only this very claim: the task may have been claimed anew.
    pub fn remove(&self, job: &Arc<ClaimedJob>) {
        let mut jobs = self.0.lock();
        if jobs.get(&job.task.id).is_some_and(|known| Arc::ptr_eq(known, job)) {
            jobs.remove(&job.task.id);
        }
    }

    pub fn all(&self) -> Vec<Arc<ClaimedJob>> {
        self.0.lock().values().cloned().collect()
    }
}
