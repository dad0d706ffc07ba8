//! Starts all controllers: watches at once and for good, everything that acts for one term of leadership at a time.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{HostAgent, LLMBackend},
    platform::Secrets,
    store::{LeadState, Term},
};

use super::{
    Parts,
    declared::Feeds,
    dispatch,
    driver::{Drive, drive},
    feed::Feed,
    host_agent, llm_backend,
    shared::{Agents, Key, Shared, SlotWatch, Wake, Wishes},
    work::{self, Watches},
};

/// Loops that have nothing to do for longer than this are stuck.
const SILENCE: Duration = Duration::from_secs(60);
/// Besides every complete listing, what is gone is looked for this often.
const SWEEP: Duration = Duration::from_secs(300);
/// Last probes and canaries are rows too; each is written at most this often.
const OBSERVATIONS: Duration = Duration::from_secs(10);
/// The journal is kept this long.
const JOURNAL: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Runs until `shutdown`. Followers keep warm watches and ask no server anything.
pub async fn run(parts: Parts, mut lead: watch::Receiver<LeadState>, shutdown: CancellationToken) {
    let beat = |name: &str| parts.loops.register(name, SILENCE);
    let backends = Feed::<LLMBackend>::start(
        Arc::clone(&parts.platform),
        "LLMBackend",
        beat("watch LLMBackend"),
        shutdown.clone(),
    );
    let agents =
        Feed::<HostAgent>::start(Arc::clone(&parts.platform), "HostAgent", beat("watch HostAgent"), shutdown.clone());
    let Watches { experts, queues, pools, schedules, checks } = Watches::start(&parts, &shutdown);
    let feeds = Feeds { backends, agents, experts, queues, pools, schedules, checks };
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
    let (backend_trigger, backend_queue) = mpsc::unbounded_channel();
    let (agent_trigger, agent_queue) = mpsc::unbounded_channel();
    let shared = Shared {
        agents: Agents::default(),
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
        backend_trigger.clone(),
        agent_trigger.clone(),
    ));
    let agent_controller = Arc::new(host_agent::Agents::new(
        parts.clone(),
        shared.clone(),
        Arc::clone(&backend_controller),
        backends.clone(),
        agent_trigger.clone(),
        backend_trigger.clone(),
    ));
    let driver = |name: &str| Drive {
        platform: Arc::clone(&parts.platform),
        metrics: parts.metrics.clone(),
        term: term.clone(),
        beat: beat(name),
    };
    let mut loops: Vec<futures::future::BoxFuture<'_, ()>> = vec![
        Box::pin(drive(
            Arc::clone(&backend_controller),
            backends.clone(),
            backend_queue,
            driver("reconcile LLMBackend"),
        )),
        Box::pin(drive(agent_controller, agents.clone(), agent_queue, driver("reconcile HostAgent"))),
        Box::pin(sweep(parts, backends, term)),
        Box::pin(record_observations(parts, &backend_controller, term)),
        Box::pin(dispatch::run(parts, &shared, term, backend_trigger.clone())),
        Box::pin(heed_work(&shared.slots, &backend_controller, backend_trigger.clone())),
        Box::pin(heed_wishes(shared.wishes.clone(), backends, agents, backend_trigger, agent_trigger)),
    ];
    loops.extend(work::loops(parts, &shared, feeds.clone(), term).await);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = term.ended().cancelled() => {}
        _ = join_all(loops) => {}
    }
}

/// Passes are rare while nothing changes: a server whose open calls, evidence or demand changed is judged at once.
async fn heed_work(
    slots: &SlotWatch,
    backends: &llm_backend::Backends,
    trigger: mpsc::UnboundedSender<ObjectRef<LLMBackend>>,
) {
    loop {
        for url in slots.changed().await {
            // No receiver: the term is over.
            backends.of_server(&url).into_iter().for_each(|backend| drop(trigger.send(backend)));
        }
    }
}

/// A wish of a person concerns everything at once: each object is looked at.
async fn heed_wishes(
    mut wishes: Wishes,
    backends: &Feed<LLMBackend>,
    agents: &Feed<HostAgent>,
    backend_trigger: mpsc::UnboundedSender<ObjectRef<LLMBackend>>,
    agent_trigger: mpsc::UnboundedSender<ObjectRef<HostAgent>>,
) {
    while wishes.changed().await {
        for object in backends.objects.state() {
            let _ = backend_trigger.send(ObjectRef::from_obj(&*object));
        }
        for object in agents.objects.state() {
            let _ = agent_trigger.send(ObjectRef::from_obj(&*object));
        }
    }
    std::future::pending().await
}

/// Deletion is by sweep: what a complete listing lacks is gone.
async fn sweep(parts: &Parts, backends: &Feed<LLMBackend>, term: &Term) {
    let mut listings = backends.listings.clone();
    let mut periodic = tokio::time::interval(SWEEP);
    loop {
        if backends.is_complete() && term.still_leads() {
            let uids: Vec<String> = backends.objects.state().iter().filter_map(|b| b.uid()).collect();
            match parts.store.sweep_backends(term.fence(), &uids).await {
                Ok(gone) => {
                    for row in gone {
                        let key = Key::new(row.namespace, row.name);
                        tracing::info!(backend = %key, "gone: it gives no new slots");
                    }
                }
                Err(error) => tracing::warn!(%error, "what is gone was not looked for"),
            }
            if let Err(error) = parts.store.prune_journal(Timestamp::now() - JOURNAL).await {
                tracing::warn!(%error, "old events not dropped");
            }
        }
        tokio::select! {
            _ = periodic.tick() => {}
            changed = listings.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

async fn record_observations(parts: &Parts, backends: &llm_backend::Backends, term: &Term) {
    let mut written = std::collections::HashMap::new();
    loop {
        tokio::time::sleep(OBSERVATIONS).await;
        let seen = backends.observations();
        let new: Vec<_> = seen.into_iter().filter(|(uid, o)| written.get(uid) != Some(o)).collect();
        if new.is_empty() {
            continue;
        }
        // In one transaction: a thousand backends must not cost a thousand flushes to disk.
        match parts.store.record_observations(term.fence(), &new).await {
            Ok(()) => written.extend(new),
            Err(error) => tracing::debug!(%error, "last probes not written"),
        }
    }
}
