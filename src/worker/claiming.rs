//! Rounds of claiming: as many tasks as there is room for, at the servers that may be asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    call::SPARE,
    core::{Core, WorkerPlace},
    lane::SlotLane,
    stats::ServerRoom,
    webhooks,
    world::PoolView,
};
use crate::{
    store::{Admission, BootInstant, FreeClaim, Served, ServerNow, SlotClaim, SlotWait, StoreError},
    tasks::route::{self, Route},
};

/// Webhooks' tasks in one statement.
const MOST_FREE: i32 = 64;

/// What a round found.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClaimRound {
    pub claimed: usize,
    pub round: ServerRoom,
    /// Tasks are due.
    pub waits: bool,
    /// In how long the next task is due that is not yet.
    pub next_due: Option<Duration>,
}

/// Tells that tasks wait for slots which interactive calls have: of those, tasks get their share.
#[derive(Debug, Default)]
pub struct BatchWait {
    told_at: Option<Instant>,
}

impl BatchWait {
    /// Once a second while it `waits`; once more when it waits no longer.
    pub async fn tell(&mut self, core: &Core, waits: bool) {
        const OFTEN: Duration = Duration::from_secs(1);
        if self.told_at.is_some_and(|at| waits && at.elapsed() < OFTEN) || (self.told_at.is_none() && !waits) {
            return;
        }
        let waiting = async {
            let servers = if waits { core.store.servers().await? } else { Vec::new() };
            let world = core.world();
            let ours = |url: &str| world.backends.iter().any(|backend| backend.row.server_url == url);
            let is_shared = |now: &&ServerNow| now.interactive > 0 && now.row.admission != Admission::Closed;
            let waits: Vec<SlotWait> = servers
                .iter()
                .filter(is_shared)
                .filter(|now| ours(&now.row.url))
                .map(|now| SlotWait::of_tasks(&now.row.url))
                .collect();
            if !waits.is_empty() || self.told_at.is_some() {
                core.store.wait_for_slots(&core.holder, &waits).await?;
            }
            Ok::<_, StoreError>(!waits.is_empty())
        };
        match waiting.await {
            Ok(told) => self.told_at = told.then(Instant::now),
            Err(error) => tracing::debug!(%error, "nobody is told that tasks wait"),
        }
    }
}

/// One round. Nothing is claimed under a lease that may have lapsed. Unless the last one found something (`busy`), it begins with a
/// look whether there is anything.
pub async fn round(core: &Arc<Core>, busy: bool) -> Result<ClaimRound, StoreError> {
    settle(core).await?;
    let world = core.world();
    let open = world.open_queues();
    if open.is_empty() || core.places.free() == 0 {
        return Ok(ClaimRound::default());
    }
    let mut found = ClaimRound { waits: true, ..ClaimRound::default() };
    if !busy {
        let queues: Vec<_> = open.iter().map(|(queue, _)| queue.clone()).collect();
        let due = core.store.due(&queues).await?;
        (found.waits, found.next_due) = (due.now, due.next);
        if !due.now {
            return Ok(found);
        }
    }
    let queues = core.leases.served(&open).await?;
    if queues.is_empty() {
        return Ok(found);
    }
    if world.has_webhooks() {
        found.claimed += free(core, &queues).await?;
    }
    let servers = world.servers(&*core.store, |url| core.targets.contact(url).is_waiting()).await?;
    found.round.servers_short = servers.iter().any(|server| !server.ready || server.free == 0);
    for route in route::routes(&servers) {
        if core.places.free() == 0 {
            break;
        }
        found.claimed += at(core, &world, &queues, route).await?;
    }
    Ok(found)
}

/// Frees what claims without an answer may have left behind: tasks by closing their lease, which no late claim survives; then slots.
async fn settle(core: &Core) -> Result<(), StoreError> {
    if core.leases.settle().await? {
        core.slots.doubt();
    }
    give_back_unknown_slots(core).await
}

/// Not while this worker claims.
pub async fn give_back_unknown_slots(core: &Core) -> Result<(), StoreError> {
    let servers: Vec<String> = core.world().backends.iter().map(|backend| backend.row.server_url.clone()).collect();
    core.slots.give_back_unknown(&core.holder, &servers, core.timings.linger).await
}

async fn free(core: &Arc<Core>, queues: &[Served]) -> Result<usize, StoreError> {
    let most = core.places.free().min(MOST_FREE);
    if most == 0 {
        return Ok(0);
    }
    let claimed = core.store.claim_free(&FreeClaim { queues: queues.to_vec(), most }).await;
    let claimed = claimed.inspect_err(|_| core.leases.doubt(queues))?;
    let many = claimed.len();
    for one in claimed {
        let place = WorkerPlace::take(core);
        if let Some(job) = core.take_on(one) {
            tokio::spawn(webhooks::run(Arc::clone(core), job, place));
        }
    }
    Ok(many)
}

/// Slots of one server, each with a task.
async fn at(core: &Arc<Core>, world: &PoolView, queues: &[Served], route: Route) -> Result<usize, StoreError> {
    let backend = world.backends.iter().find(|b| b.row.namespace == route.namespace && b.row.name == route.backend);
    let Some(backend) = backend else { return Ok(0) };
    let target = match core.targets.of(backend).await {
        Ok(target) => target,
        Err(why) => {
            tracing::warn!(backend = route.backend, why, "a backend can't be called");
            return Ok(0);
        }
    };
    let room = if target.contact.is_doubtful() { 1 } else { core.places.free() };
    let asked = route.models.iter().filter(|asked| !target.lacks(&asked.model));
    let models: Vec<_> = asked.map(|asked| (route.namespace.clone(), asked.alias.clone())).collect();
    if models.is_empty() {
        return Ok(0);
    }
    let claim = SlotClaim {
        queues: queues.to_vec(),
        holder: core.holder.clone(),
        server_url: route.url.clone(),
        models,
        loaded: target.loaded_alias().await.map(|alias| (route.namespace.clone(), alias)),
        affinity: core.timings.affinity,
        most: i32::try_from(route.free).unwrap_or(i32::MAX).min(room),
        slot_lease: core.timings.slot_lease,
        call_within: world.longest_call() + SPARE,
    };
    let asked_at = BootInstant::now();
    let answer = core.store.claim_slots(&claim).await.inspect_err(|_| {
        core.leases.doubt(queues);
        core.slots.doubt();
    });
    let given = answer?.given;
    let many = given.len();
    if many > 0 {
        target.contact.tried();
    }
    for (slot, claimed) in given {
        let place = WorkerPlace::take(core);
        let slot = core.slots.add(slot, asked_at, claim.call_within);
        let lane = SlotLane {
            core: Arc::clone(core),
            slot,
            target: Arc::clone(&target),
            route: route.clone(),
            claim: claim.clone(),
            began: Instant::now(),
        };
        match core.take_on(claimed) {
            Some(job) => drop(tokio::spawn(lane.run(place, job))),
            None => core.slots.release(&lane.slot, Duration::ZERO).await,
        }
    }
    Ok(many)
}
