//! Starts the watches of all kinds, and what concerns containers, experts, queues, pools and schedules, for one term.

use std::{sync::Arc, time::Duration};

use kube::{Resource, runtime::reflector::ObjectRef};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{store::Term, telemetry::Beat};

use super::{
    Parts,
    container_health_check::ContainerChecks,
    declared::{
        ControlPlane, Declared, Declares, Feeds, ProjectionCache, Triggers, heed_touches, seal_secrets, watch_gates,
    },
    driver::{Drive, Triggered, drive, triggers},
    expert::Experts,
    feed::Feed,
    shared::{Shared, Wishes},
    supervise::Supervisor,
    task_queue::TaskQueues,
    task_schedule::{ScheduleRuns, TaskSchedules, watch_clock},
    worker_pool::WorkerPools,
};

/// Loops that have nothing to do for longer than this are stuck.
const SILENCE: Duration = Duration::from_secs(60);
/// Besides every change, what is gone is looked for this often.
const SWEEP: Duration = Duration::from_secs(300);
/// Deletions that come together are answered together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Starts the watches of all kinds, for good.
pub fn watches(parts: &Parts, shutdown: &CancellationToken) -> Feeds {
    Feeds {
        backends: watch(parts, "LLMBackend", "watch LLMBackend", shutdown),
        agents: watch(parts, "HostAgent", "watch HostAgent", shutdown),
        experts: watch(parts, "Expert", "watch Expert", shutdown),
        queues: watch(parts, "TaskQueue", "watch TaskQueue", shutdown),
        pools: watch(parts, "WorkerPool", "watch WorkerPool", shutdown),
        schedules: watch(parts, "TaskSchedule", "watch TaskSchedule", shutdown),
        checks: watch(parts, "ContainerHealthCheck", "watch ContainerHealthCheck", shutdown),
    }
}

fn watch<K>(parts: &Parts, kind: &'static str, name: &str, shutdown: &CancellationToken) -> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    let beat = parts.loops.register(name, SILENCE);
    Feed::start(Arc::clone(&parts.platform), kind, &parts.metrics, beat, shutdown.clone())
}

/// Starts everything about these kinds that runs for a term.
pub async fn start(supervisor: &mut Supervisor, parts: &Parts, shared: &Shared, feeds: Feeds, term: &Term) {
    let (experts, expert_queue) = triggers();
    let (queues, queue_queue) = triggers();
    let (pools, pool_queue) = triggers();
    let (schedules, schedule_queue) = triggers();
    let (checks, check_queue) = triggers();
    let asks = Triggers { experts, queues, pools, schedules, checks };
    let world = Arc::new(ControlPlane::new(parts.clone(), shared.clone(), feeds.clone(), asks));
    // A new leader must not close gates for not having looked yet.
    world.read_backends().await;
    let runs = ScheduleRuns::default();
    let mut run = Run { supervisor, world: Arc::clone(&world), term: term.clone() };
    run.kind(Experts(Arc::clone(&world)), &feeds.experts, expert_queue, "reconcile Expert");
    run.kind(TaskQueues(Arc::clone(&world)), &feeds.queues, queue_queue, "reconcile TaskQueue");
    run.kind(WorkerPools::new(Arc::clone(&world)), &feeds.pools, pool_queue, "reconcile WorkerPool");
    let of_schedules = TaskSchedules { world: Arc::clone(&world), runs: runs.clone() };
    run.kind(of_schedules, &feeds.schedules, schedule_queue, "reconcile TaskSchedule");
    let of_checks = ContainerChecks::new(Arc::clone(&world), term.clone());
    run.kind(of_checks, &feeds.checks, check_queue, "reconcile ContainerHealthCheck");
    run.sweep(&feeds.experts, "Expert");
    run.sweep(&feeds.queues, "TaskQueue");
    run.sweep(&feeds.pools, "WorkerPool");
    run.sweep(&feeds.schedules, "TaskSchedule");
    run.sweep(&feeds.checks, "ContainerHealthCheck");
    run.tell_undecodable(&feeds.backends);
    run.tell_undecodable(&feeds.agents);
    run.tell_undecodable(&feeds.experts);
    run.tell_undecodable(&feeds.queues);
    run.tell_undecodable(&feeds.pools);
    run.tell_undecodable(&feeds.schedules);
    run.tell_undecodable(&feeds.checks);
    let (of, during) = (world.book.clone(), term.clone());
    supervisor.run("load projections", move || load(of.clone(), during.clone()));
    let of = Arc::clone(&world);
    supervisor.run("heed touches", move || heed_touches(Arc::clone(&of)));
    let (of, wishes) = (Arc::clone(&world), shared.wishes.clone());
    supervisor.run("heed wishes", move || heed_wishes(wishes.clone(), Arc::clone(&of)));
    let (of, during) = (Arc::clone(&world), term.clone());
    supervisor.run("gates", move || watch_gates(Arc::clone(&of), during.clone(), beat(&of, "gates")));
    let (of, during) = (Arc::clone(&world), term.clone());
    supervisor.run("sealing", move || seal_secrets(Arc::clone(&of), during.clone(), beat(&of, "sealing")));
    let during = term.clone();
    supervisor.run("schedules", move || {
        watch_clock(Arc::clone(&world), runs.clone(), during.clone(), beat(&world, "schedules"))
    });
}

fn beat(world: &ControlPlane, name: &str) -> Beat {
    world.parts.loops.register(name, SILENCE)
}

async fn load(book: ProjectionCache, term: Term) {
    book.load(term.ended()).await;
}

/// A wish of a person concerns everything at once: each object is looked at.
async fn heed_wishes(mut wishes: Wishes, world: Arc<ControlPlane>) {
    while wishes.changed().await {
        world.triggers.all(&world.feeds);
    }
}

struct Run<'a> {
    supervisor: &'a mut Supervisor,
    world: Arc<ControlPlane>,
    term: Term,
}

impl Run<'_> {
    fn kind<D: Declares>(&mut self, kind: D, feed: &Feed<D::Object>, asked: Triggered<D::Object>, name: &'static str)
    where
        ObjectRef<D::Object>: Eq + std::hash::Hash,
    {
        let controller = Arc::new(Declared { kind, world: Arc::clone(&self.world) });
        let (world, term, feed) = (Arc::clone(&self.world), self.term.clone(), feed.clone());
        self.supervisor.run(name, move || {
            let with = Drive {
                platform: Arc::clone(&world.parts.platform),
                metrics: world.parts.metrics.clone(),
                term: term.clone(),
                beat: beat(&world, name),
            };
            drive(Arc::clone(&controller), feed.clone(), asked.clone(), with)
        });
    }

    fn tell_undecodable<K>(&mut self, feed: &Feed<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
    {
        let (platform, feed) = (Arc::clone(&self.world.parts.platform), feed.clone());
        self.supervisor.run("tell undecodable", move || feed.clone().tell_undecodable(Arc::clone(&platform)));
    }

    fn sweep<K>(&mut self, feed: &Feed<K>, kind: &'static str)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
        ObjectRef<K>: Eq + std::hash::Hash,
    {
        let (world, term, feed) = (Arc::clone(&self.world), self.term.clone(), feed.clone());
        self.supervisor.run("sweep", move || sweeps(Arc::clone(&world), term.clone(), feed.clone(), kind));
    }
}

/// Deletion is by sweep: what a complete listing lacks is gone. Deleting a resource never deletes tasks.
async fn sweeps<K>(world: Arc<ControlPlane>, term: Term, feed: Feed<K>, kind: &'static str)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
    ObjectRef<K>: Eq + std::hash::Hash,
{
    let mut listings = feed.listings.clone();
    let mut touches = feed.touches();
    let mut periodic = tokio::time::interval(SWEEP);
    let mut whole = true;
    loop {
        if feed.is_complete() && world.book.is_loaded() && term.still_leads() {
            let rows = world.book.rows(kind);
            let uids = feed.uids(rows.iter().map(|row| (row.uid.as_str(), row.namespace.as_str())));
            let lacks = rows.iter().any(|row| !uids.contains(&row.uid));
            if whole || lacks {
                sweep(&world, &term, kind, &uids).await;
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

async fn sweep(world: &ControlPlane, term: &Term, kind: &str, uids: &[String]) {
    match world.book.sweep(term.fence(), kind, uids).await {
        Ok(gone) => {
            for row in gone {
                tracing::info!(kind, namespace = row.namespace, name = row.name, "resource is deleted");
            }
        }
        Err(error) => tracing::warn!(kind, %error, "could not check for deleted resources; will retry"),
    }
}
