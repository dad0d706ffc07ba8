//! Starts all controllers: watches at once and for good, everything that acts for one term of leadership at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Kind, LLMBackend},
    platform::Secrets,
    store::{BackendRow, LeadState, Observation, StoreError, Term},
};

use super::{
    Parts,
    declared::{ControlPlane, Feeds},
    dispatch,
    driver::Triggers,
    feed::Feed,
    host_agent, llm_backend,
    shared::{AgentRegistry, Shared, SlotWatch, Wake, Wishes},
    supervise::Supervisor,
    work::{self, SILENCE, SWEEP, TermLoops},
};

/// Last probes and canaries are rows too; what they found is written at most this often.
const OBSERVATIONS: Duration = Duration::from_secs(10);
/// The same where only their times are others.
const OBSERVATION_TIMES: Duration = Duration::from_secs(30);
/// The journal is kept this long.
const JOURNAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Runs until `shutdown`. Followers keep warm watches and ask no server anything.
pub async fn run(parts: Parts, mut lead: watch::Receiver<LeadState>, shutdown: CancellationToken) {
    let beat = |name: &str| parts.loops.register(name, SILENCE);
    let feeds = work::watches(&parts, &shutdown);
    let wake = Wake::default();
    tokio::spawn(wake.clone().watch(shutdown.clone()));
    let following = beat("lead");
    loop {
        let term = lead.borrow_and_update().term().cloned();
        if let Some(term) = term {
            parts.metrics.process.leading(Some(term.fence().epoch));
            let serving = serve(&parts, &feeds, wake.clone(), &term, &shutdown);
            tokio::pin!(serving);
            loop {
                tokio::select! {
                    () = &mut serving => break,
                    () = tokio::time::sleep(Duration::from_secs(5)) => following.beat(),
                }
            }
            parts.metrics.process.leading(None);
            parts.metrics.backends.forget_all();
            parts.metrics.causes.forget_all();
            parts.metrics.containers.forget_all();
            parts.metrics.tasks.forget_all();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = lead.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(5)) => following.beat(),
        }
    }
}

/// One term: everything here ends with it.
async fn serve(parts: &Parts, feeds: &Feeds, wake: Wake, term: &Term, shutdown: &CancellationToken) {
    let Feeds { backends, agents, .. } = feeds;
    let ended = term.ended().child_token();
    let _stop = ended.clone().drop_guard();
    let beat = |name: &str| parts.loops.register(name, SILENCE);
    let triggers = Triggers::default();
    let shared = Shared {
        agents: AgentRegistry::default(),
        secrets: Secrets::new(Arc::clone(&parts.platform)),
        slots: SlotWatch::default(),
        limits: dispatch::limits_of_last_leader(parts).await,
        wake,
        wishes: Wishes::start(Arc::clone(&parts.store), beat("wishes"), ended.clone()).await,
    };
    tokio::spawn(shared.slots.clone().watch(Arc::clone(&parts.store), beat("slots"), ended.clone()));
    let backend_controller = Arc::new(llm_backend::Backends::new(
        parts.clone(),
        shared.clone(),
        backends.clone(),
        agents.clone(),
        triggers.clone(),
    ));
    let agent_controller = Arc::new(host_agent::HostAgents::new(
        parts.clone(),
        shared.clone(),
        Arc::clone(&backend_controller),
        backends.clone(),
        triggers.clone(),
    ));
    let mut supervisor = Supervisor::default();
    let (of, feed, during) = (parts.clone(), backends.clone(), term.clone());
    supervisor.run("sweep LLMBackend", move || sweep(of.clone(), feed.clone(), during.clone()));
    let (of, controller, during) = (parts.clone(), Arc::clone(&backend_controller), term.clone());
    supervisor
        .run("record observations", move || record_observations(of.clone(), Arc::clone(&controller), during.clone()));
    let (slots, controller, trigger) = (shared.slots.clone(), Arc::clone(&backend_controller), triggers.clone());
    supervisor.run("heed work", move || {
        let (slots, controller, trigger) = (slots.clone(), Arc::clone(&controller), trigger.clone());
        async move { heed_work(&slots, &controller, &trigger).await }
    });
    dispatch::start(&mut supervisor, parts, &shared, term, triggers.clone());
    let world = Arc::new(ControlPlane::new(parts.clone(), shared, feeds.clone(), triggers));
    let mut start = TermLoops { supervisor: &mut supervisor, world, term: term.clone() };
    start.kind(backend_controller, backends);
    start.kind(agent_controller, agents);
    start.declared().await;
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = term.ended().cancelled() => {}
    }
    supervisor.stop().await;
}

/// Passes are rare while nothing changes: a server whose open calls, evidence or demand changed is judged at once.
async fn heed_work(slots: &SlotWatch, backends: &llm_backend::Backends, triggers: &Triggers) {
    loop {
        for url in slots.changed().await {
            backends.of_server(&url).iter().for_each(|backend| triggers.one(Kind::LLMBackend, backend));
        }
    }
}

/// Deletion is by sweep: what a complete listing lacks is gone.
async fn sweep(parts: Parts, backends: Feed<LLMBackend>, term: Term) {
    let mut listings = backends.listings.clone();
    let mut periodic = tokio::time::interval(SWEEP);
    loop {
        if backends.is_complete() && term.still_leads() {
            let swept = sweep_once(&parts, &backends, &term).await;
            work::told(
                Kind::LLMBackend,
                swept.map(|gone| gone.into_iter().map(|row| (row.namespace, row.name)).collect()),
            );
            if let Err(error) = parts.store.prune_journal(Timestamp::now() - JOURNAL).await {
                tracing::warn!(%error, "could not delete old events; will retry");
            }
        }
        tokio::select! {
            _ = periodic.tick() => {}
            changed = listings.changed() => if changed.is_err() { return },
        }
    }
}

async fn sweep_once(parts: &Parts, backends: &Feed<LLMBackend>, term: &Term) -> Result<Vec<BackendRow>, StoreError> {
    let rows = parts.store.backends().await?;
    let uids = backends.uids(rows.iter().map(|row| (row.uid.as_str(), row.namespace.as_str())));
    parts.store.sweep_backends(term.fence(), &uids).await
}

async fn record_observations(parts: Parts, backends: Arc<llm_backend::Backends>, term: Term) {
    let mut written: HashMap<String, (Observation, Instant)> = HashMap::new();
    loop {
        tokio::time::sleep(OBSERVATIONS).await;
        let differs = |uid: &String, seen: &Observation| {
            written.get(uid).is_none_or(|(before, at)| {
                before != seen && (found(before) != found(seen) || at.elapsed() >= OBSERVATION_TIMES)
            })
        };
        let new: Vec<_> = backends.observations().into_iter().filter(|(uid, seen)| differs(uid, seen)).collect();
        if new.is_empty() {
            continue;
        }
        // In one transaction: a thousand backends must not cost a thousand flushes to disk.
        match parts.store.record_observations(term.fence(), &new).await {
            Ok(()) => written.extend(new.into_iter().map(|(uid, seen)| (uid, (seen, Instant::now())))),
            Err(error) => tracing::debug!(%error, "could not write the last probes; will retry"),
        }
    }
}

/// What was found, whenever and however fast.
fn found(seen: &Observation) -> (Option<&str>, Option<&str>) {
    (seen.probe_verdict.as_deref(), seen.canary_verdict.as_deref())
}
