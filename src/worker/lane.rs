//! A slot in hand and the calls that are made in it, one after the other. While one runs, the next task is claimed into the same
//! slot, so that the server does not wait for the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    call::{Called, SPARE, TaskCall, TaskCallEnd},
    core::{Core, WorkerPlace},
    job::ClaimedJob,
};
use crate::{
    calls::{CallTarget, HeldSlot},
    store::{BootInstant, SlotClaim, StoreError, Topics},
    tasks::route::Route,
};

/// Between two looks for the next task while nothing says that there is one.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The longest time between two looks: a task may be due by then.
const LOOK_SELDOM: Duration = Duration::from_secs(2);
/// How long the end of a task is awaited that may free its expert's place.
const RECORD: Duration = Duration::from_secs(1);

/// A slot with what it is for.
pub struct SlotLane {
    pub core: Arc<Core>,
    pub slot: Arc<HeldSlot>,
    pub target: Arc<CallTarget>,
    pub route: Route,
    /// As it was when the slot was taken: asked for again with one task.
    pub claim: SlotClaim,
    pub began: Instant,
}

impl SlotLane {
    /// Makes calls until there are no more tasks for this slot, then gives it back.
    pub async fn run(self, place: WorkerPlace, first: Arc<ClaimedJob>) {
        let lane = Arc::new(self);
        let mut next = Some(first);
        let mut linger = Duration::ZERO;
        let mut line = lane.core.store.follow(Topics::SLOTS);
        while let Some(job) = next.take() {
            let (called, looking) = lane.call(&job).await;
            let usable = !called.lingers && !called.servers_trouble && lane.is_ours();
            if called.lingers {
                linger = lane.core.timings.linger;
            }
            let recorded = match called.end {
                TaskCallEnd::Ended(ended) => Some(lane.core.end(&job, called.run, ended)),
                TaskCallEnd::Stopped(why) => {
                    lane.core.stopped(&job, called.run, why);
                    None
                }
            };
            let found = match looking {
                Some(looking) => looking.end().await,
                None => None,
            };
            let usable = usable && !(found.is_some() && line.take() && lane.makes_way().await);
            next = match found {
                Some(found) if usable => Some(found),
                Some(found) => {
                    lane.core.give_back(&found);
                    None
                }
                None if usable && lane.may_go_on() => lane.following(recorded).await,
                None => None,
            };
        }
        lane.core.slots.release(&lane.slot, linger).await;
        // Only now: whoever looks for room finds the slot free.
        drop(place);
    }

    /// Somebody waits for the answer of a call to this server: what was claimed meanwhile goes after it.
    async fn makes_way(&self) -> bool {
        let waits = self.core.store.interactive_waits().await.unwrap_or_default();
        waits.iter().any(|(url, calls)| *url == self.route.url && *calls > 0)
    }

    /// What is claimed for it may be begun.
    fn is_ours(&self) -> bool {
        !self.core.draining.is_cancelled() && !self.slot.lost().is_cancelled()
    }

    /// More may be claimed for it.
    fn may_go_on(&self) -> bool {
        self.is_ours() && !self.core.places.is_over() && self.began.elapsed() < self.core.timings.keep_slot
    }

    async fn call(self: &Arc<Self>, job: &Arc<ClaimedJob>) -> (Called, Option<Looking>) {
        let alias = job.task.assigned_model.as_deref().unwrap_or_default();
        let asked = self.route.models.iter().find(|asked| asked.alias == alias);
        let model = asked.map_or(alias, |asked| asked.model.as_str());
        self.target.called(alias);
        let quick = self.target.usual_call().is_some_and(|usual| usual < self.core.timings.prefetch_below);
        let looking = (quick && self.may_go_on()).then(|| Looking::begin(self));
        let call = TaskCall { core: &self.core, job, slot: &self.slot, target: &self.target, model };
        (call.run().await, looking)
    }

    /// The next task once this one has ended. Its expert's place is free when its end is recorded.
    async fn following(&self, recorded: Option<oneshot::Receiver<bool>>) -> Option<Arc<ClaimedJob>> {
        let now = BootInstant::now();
        if let Some(job) = self.claim(now).await {
            return Some(job);
        }
        // It does not matter whether it was: the claim tells.
        let _ = tokio::time::timeout(RECORD, recorded?).await;
        self.claim(BootInstant::now()).await
    }

    /// One task for this slot, in which a call runs until `busy_until` at most: it must end in its time, then the next one
    /// in its own.
    async fn claim(&self, busy_until: BootInstant) -> Option<Arc<ClaimedJob>> {
        let asked_at = BootInstant::now();
        let loaded = self.target.loaded_alias().await.map(|alias| (self.target.namespace.clone(), alias));
        let call_within = busy_until.since(asked_at) + self.core.world().longest_call() + SPARE;
        let queues = self.core.leases.current(&self.claim.queues);
        if queues.is_empty() {
            return None;
        }
        let claim = SlotClaim { queues, most: 1, call_within, loaded, ..self.claim.clone() };
        let life = self.slot.life();
        match self.core.store.claim_next(&self.slot.slot, &claim, life).await {
            Ok(Some(claimed)) => {
                self.slot.moved(asked_at, call_within, claim.slot_lease);
                self.slot.recorded(asked_at, life);
                self.core.take_on(claimed)
            }
            Ok(None) => None,
            Err(StoreError::Fenced(_)) => {
                self.slot.lost().cancel();
                None
            }
            Err(error) => {
                tracing::debug!(server = self.slot.slot.server_url, %error, "no next task");
                self.core.leases.doubt(&claim.queues);
                None
            }
        }
    }
}

/// Looks for the next task beside a call. What the database gives is never dropped on the way.
struct Looking {
    enough: CancellationToken,
    found: tokio::task::JoinHandle<Option<Arc<ClaimedJob>>>,
}

impl Looking {
    fn begin(lane: &Arc<SlotLane>) -> Self {
        let enough = CancellationToken::new();
        let found = tokio::spawn(look(Arc::clone(lane), enough.clone()));
        Self { enough, found }
    }

    async fn end(self) -> Option<Arc<ClaimedJob>> {
        self.enough.cancel();
        self.found.await.ok().flatten()
    }
}

async fn look(lane: Arc<SlotLane>, enough: CancellationToken) -> Option<Arc<ClaimedJob>> {
    let mut changes = lane.core.store.follow(Topics::READY | Topics::ENDED);
    let busy_until = BootInstant::now() + lane.core.world().longest_call();
    let job = loop {
        if let Some(job) = lane.claim(busy_until).await {
            break job;
        }
        let more = async {
            tokio::time::sleep(LOOK_AGAIN).await;
            changes.changed(LOOK_SELDOM).await
        };
        enough.run_until_cancelled(more).await?;
        if !lane.may_go_on() {
            return None;
        }
    };
    let kept = async {
        tokio::select! {
            () = tokio::time::sleep(lane.core.timings.prefetch_for) => {}
            _ = job.stopped() => {}
        }
    };
    if enough.run_until_cancelled(kept).await.is_none() {
        return Some(job);
    }
    // This call takes longer than they usually do: others may be free for the task.
    lane.core.give_back(&job);
    None
}
