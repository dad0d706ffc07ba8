//! Starts the watches of all kinds, and for one term the loops of all controllers.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    api::Kind,
    store::{StoreError, Term},
    telemetry::Beat,
};

use super::{
    Parts,
    caller::Callers,
    causes::watch_causes,
    container_health_check::ContainerChecks,
    declared::{ControlPlane, Declared, Declares, Feeds, heed_touches, seal_secrets, watch_gates},
    driver::{Controller, Drive, KindObject, drive},
    expert::Experts,
    feed::Feed,
    notifier::Notifiers,
    shared::Wishes,
    supervise::Supervisor,
    task_queue::TaskQueues,
    task_schedule::{ScheduleRuns, TaskSchedules, watch_clock},
    worker_pool::WorkerPools,
};

/// Loops that have nothing to do for longer than this are stuck.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Besides every change, what is gone is looked for this often.
pub const SWEEP: Duration = Duration::from_secs(300);
/// Deletions that come together are answered together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Starts the watches of all kinds, for good.
pub fn watches(parts: &Parts, shutdown: &CancellationToken) -> Feeds {
    Feeds {
        backends: watch(parts, Kind::LLMBackend, shutdown),
        agents: watch(parts, Kind::HostAgent, shutdown),
        experts: watch(parts, Kind::Expert, shutdown),
        queues: watch(parts, Kind::TaskQueue, shutdown),
        pools: watch(parts, Kind::WorkerPool, shutdown),
        schedules: watch(parts, Kind::TaskSchedule, shutdown),
        checks: watch(parts, Kind::ContainerHealthCheck, shutdown),
        callers: watch(parts, Kind::Caller, shutdown),
        notifiers: watch(parts, Kind::Notifier, shutdown),
    }
}

fn watch<K: KindObject>(parts: &Parts, kind: Kind, shutdown: &CancellationToken) -> Feed<K> {
    let beat = parts.loops.register(format!("watch {kind}"), SILENCE);
    Feed::start(Arc::clone(&parts.platform), kind, &parts.metrics, beat, shutdown.clone())
}

/// Starts loops of a term.
pub struct TermLoops<'a> {
    pub supervisor: &'a mut Supervisor,
    pub world: Arc<ControlPlane>,
    pub term: Term,
}

impl TermLoops<'_> {
    /// Everything about the projected kinds.
    pub async fn declared(&mut self) {
        let world = Arc::clone(&self.world);
        let feeds = &world.feeds;
        // A new leader must not close gates for not having looked yet.
        world.read_backends().await;
        let runs = ScheduleRuns::default();
        self.projected(Experts(Arc::clone(&world)), &feeds.experts);
        self.projected(TaskQueues(Arc::clone(&world)), &feeds.queues);
        self.projected(WorkerPools::new(Arc::clone(&world)), &feeds.pools);
        let schedules = TaskSchedules { world: Arc::clone(&world), runs: runs.clone() };
        self.projected(schedules, &feeds.schedules);
        let checks = ContainerChecks::new(Arc::clone(&world), self.term.clone());
        self.projected(checks, &feeds.checks);
        self.projected(Callers(Arc::clone(&world)), &feeds.callers);
        self.projected(Notifiers::new(Arc::clone(&world)), &feeds.notifiers);
        self.run("causes", watch_causes);
        self.run("load projections", |world, term, _| async move { world.book.load(term.ended()).await });
        self.run("heed touches", |world, _, _| heed_touches(world));
        self.run("heed wishes", |world, _, _| heed_wishes(world.shared.wishes.clone(), world));
        self.run("gates", watch_gates);
        self.run("sealing", seal_secrets);
        self.run("schedules", move |world, term, beat| watch_clock(world, runs.clone(), term, beat));
    }

    fn run<F>(&mut self, name: &'static str, start: impl Fn(Arc<ControlPlane>, Term, Beat) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (world, term) = (Arc::clone(&self.world), self.term.clone());
        self.supervisor
            .run(name, move || start(Arc::clone(&world), term.clone(), world.parts.loops.register(name, SILENCE)));
    }

    fn projected<D: Declares>(&mut self, kind: D, feed: &Feed<D::Object>) {
        self.kind(Arc::new(Declared { kind, world: Arc::clone(&self.world) }), feed);
        let (world, term, feed) = (Arc::clone(&self.world), self.term.clone(), feed.clone());
        self.supervisor
            .run(format!("sweep {}", D::KIND), move || sweeps(Arc::clone(&world), term.clone(), feed.clone(), D::KIND));
    }

    /// The controller of a kind.
    pub fn kind<C: Controller>(&mut self, controller: Arc<C>, feed: &Feed<C::Object>) {
        let (world, term, objects) = (Arc::clone(&self.world), self.term.clone(), feed.clone());
        let name = format!("reconcile {}", C::KIND);
        self.supervisor.run(name.clone(), move || {
            let with = Drive {
                platform: Arc::clone(&world.parts.platform),
                metrics: world.parts.metrics.clone(),
                term: term.clone(),
                beat: world.parts.loops.register(name.as_str(), SILENCE),
                triggers: world.triggers.clone(),
            };
            drive(Arc::clone(&controller), objects.clone(), with)
        });
        let (platform, feed) = (Arc::clone(&self.world.parts.platform), feed.clone());
        self.supervisor.run("tell undecodable", move || feed.clone().tell_undecodable(Arc::clone(&platform)));
    }
}

/// A request of a person concerns everything at once: each object is looked at.
async fn heed_wishes(mut wishes: Wishes, world: Arc<ControlPlane>) {
    while wishes.changed().await {
        world.trigger_everything();
    }
}

/// Deletion is by sweep: what a complete listing lacks is gone. Deleting a resource never deletes tasks.
async fn sweeps<K: KindObject>(world: Arc<ControlPlane>, term: Term, feed: Feed<K>, kind: Kind) {
    let mut listings = feed.listings.clone();
    let mut touches = feed.touches();
    let mut periodic = tokio::time::interval(SWEEP);
    let mut whole = true;
    loop {
        if feed.is_complete() && world.book.is_loaded() && term.still_leads() {
            let rows = world.book.rows(kind.as_str());
            let uids = feed.uids(rows.iter().map(|row| (row.uid.as_str(), row.namespace.as_str())));
            if whole || rows.iter().any(|row| !uids.contains(&row.uid)) {
                let swept = world.book.sweep(term.fence(), kind.as_str(), &uids).await;
                told(kind, swept.map(|gone| gone.into_iter().map(|row| (row.namespace, row.name)).collect()));
            }
        }
        whole = tokio::select! {
            _ = periodic.tick() => true,
            changed = listings.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            _ = touches.recv() => false,
        };
        tokio::time::sleep(TOGETHER).await;
        touches = feed.touches();
    }
}

/// Logs what a sweep found.
pub fn told(kind: Kind, swept: Result<Vec<(String, String)>, StoreError>) {
    let kind = kind.as_str();
    match swept {
        Ok(gone) => {
            for (namespace, name) in gone {
                tracing::info!(kind, namespace, name, "resource is deleted");
            }
        }
        Err(error) => tracing::warn!(kind, %error, "could not check for deleted resources; will retry"),
    }
}
