//! Starts what concerns containers, experts, queues, pools and schedules, for one term.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ContainerHealthCheck, Expert, TaskQueue, TaskSchedule, WorkerPool},
    store::Term,
};

use super::{
    Parts,
    container_health_check::Checks,
    declared::{Book, Declared, Declares, Feeds, Triggers, World, heed_touches, seal_secrets, watch_gates},
    driver::{Drive, drive},
    expert::Experts,
    feed::Feed,
    shared::{Shared, Wishes},
    task_queue::Queues,
    task_schedule::{Runs, Schedules, watch_clock},
    worker_pool::Pools,
};

/// Loops that have nothing to do for longer than this are stuck.
const SILENCE: Duration = Duration::from_secs(60);
/// Besides every change, what is gone is looked for this often.
const SWEEP: Duration = Duration::from_secs(300);
/// Deletions that come together are answered together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Starts the watches of these kinds, for good.
pub struct Watches {
    pub experts: Feed<Expert>,
    pub queues: Feed<TaskQueue>,
    pub pools: Feed<WorkerPool>,
    pub schedules: Feed<TaskSchedule>,
    pub checks: Feed<ContainerHealthCheck>,
}

impl Watches {
    pub fn start(parts: &Parts, shutdown: &CancellationToken) -> Self {
        Self {
            experts: watch(parts, "Expert", "watch Expert", shutdown),
            queues: watch(parts, "TaskQueue", "watch TaskQueue", shutdown),
            pools: watch(parts, "WorkerPool", "watch WorkerPool", shutdown),
            schedules: watch(parts, "TaskSchedule", "watch TaskSchedule", shutdown),
            checks: watch(parts, "ContainerHealthCheck", "watch ContainerHealthCheck", shutdown),
        }
    }
}

fn watch<K>(parts: &Parts, kind: &'static str, name: &str, shutdown: &CancellationToken) -> Feed<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    Feed::start(Arc::clone(&parts.platform), kind, parts.loops.register(name, SILENCE), shutdown.clone())
}

/// Everything about these kinds that runs for a term.
pub async fn loops<'a>(parts: &Parts, shared: &Shared, feeds: Feeds, term: &'a Term) -> Vec<BoxFuture<'a, ()>> {
    let (experts, expert_queue) = mpsc::unbounded_channel();
    let (queues, queue_queue) = mpsc::unbounded_channel();
    let (pools, pool_queue) = mpsc::unbounded_channel();
    let (schedules, schedule_queue) = mpsc::unbounded_channel();
    let (checks, check_queue) = mpsc::unbounded_channel();
    let triggers = Triggers { experts, queues, pools, schedules, checks };
    let world = Arc::new(World::new(parts.clone(), shared.clone(), feeds.clone(), triggers));
    // A new leader must not close gates for not having looked yet.
    world.read_backends().await;
    let runs = Runs::default();
    let beat = |name: &str| parts.loops.register(name, SILENCE);
    let run = Run { world: Arc::clone(&world), term: term.clone() };
    vec![
        Box::pin(load(world.book.clone(), term)),
        run.kind(Experts(Arc::clone(&world)), feeds.experts.clone(), expert_queue),
        run.kind(Queues(Arc::clone(&world)), feeds.queues.clone(), queue_queue),
        run.kind(Pools::new(Arc::clone(&world)), feeds.pools.clone(), pool_queue),
        run.kind(Schedules { world: Arc::clone(&world), runs: runs.clone() }, feeds.schedules.clone(), schedule_queue),
        run.kind(Checks::new(Arc::clone(&world), term.clone()), feeds.checks.clone(), check_queue),
        run.sweep(feeds.experts, "Expert"),
        run.sweep(feeds.queues, "TaskQueue"),
        run.sweep(feeds.pools, "WorkerPool"),
        run.sweep(feeds.schedules, "TaskSchedule"),
        run.sweep(feeds.checks, "ContainerHealthCheck"),
        Box::pin(heed_touches(Arc::clone(&world))),
        Box::pin(heed_wishes(shared.wishes.clone(), Arc::clone(&world))),
        Box::pin(watch_gates(Arc::clone(&world), term.clone(), beat("gates"))),
        Box::pin(seal_secrets(Arc::clone(&world), term.clone(), beat("sealing"))),
        Box::pin(watch_clock(world, runs, term.clone(), beat("schedules"))),
    ]
}

async fn load(book: Book, term: &Term) {
    book.load(term.ended()).await;
    std::future::pending().await
}

/// A wish of a person concerns everything at once: each object is looked at.
async fn heed_wishes(mut wishes: Wishes, world: Arc<World>) {
    while wishes.changed().await {
        world.triggers.all(&world.feeds);
    }
    std::future::pending().await
}

struct Run {
    world: Arc<World>,
    term: Term,
}

impl Run {
    fn kind<'a, D: Declares>(
        &self,
        kind: D,
        feed: Feed<D::Object>,
        triggers: mpsc::UnboundedReceiver<ObjectRef<D::Object>>,
    ) -> BoxFuture<'a, ()>
    where
        ObjectRef<D::Object>: Eq + std::hash::Hash,
    {
        let parts = &self.world.parts;
        let with = Drive {
            platform: Arc::clone(&parts.platform),
            metrics: parts.metrics.clone(),
            term: self.term.clone(),
            beat: parts.loops.register(format!("reconcile {}", D::KIND), SILENCE),
        };
        Box::pin(drive(Arc::new(Declared { kind, world: Arc::clone(&self.world) }), feed, triggers, with))
    }

    /// Deletion is by sweep: what a complete listing lacks is gone. Deleting a resource never deletes tasks.
    fn sweep<'a, K>(&self, feed: Feed<K>, kind: &'static str) -> BoxFuture<'a, ()>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
        ObjectRef<K>: Eq + std::hash::Hash,
    {
        let (world, term) = (Arc::clone(&self.world), self.term.clone());
        Box::pin(async move {
            let mut listings = feed.listings.clone();
            let mut touches = feed.touches();
            let mut periodic = tokio::time::interval(SWEEP);
            let mut whole = true;
            loop {
                if feed.is_complete() && world.book.is_loaded() && term.still_leads() {
                    let uids: Vec<String> = feed.objects.state().iter().filter_map(|o| o.uid()).collect();
                    let lacks = world.book.rows(kind).iter().any(|row| !uids.contains(&row.uid));
                    if whole || lacks {
                        sweep(&world, &term, kind, &uids).await;
                    }
                }
                whole = tokio::select! {
                    _ = periodic.tick() => true,
                    changed = listings.changed() => match changed {
                        Ok(()) => true,
                        Err(_) => return std::future::pending().await,
                    },
                    _ = touches.recv() => false,
                };
                tokio::time::sleep(TOGETHER).await;
                touches = feed.touches();
            }
        })
    }
}

async fn sweep(world: &World, term: &Term, kind: &str, uids: &[String]) {
    match world.book.sweep(term.fence(), kind, uids).await {
        Ok(gone) => {
            for row in gone {
                tracing::info!(kind, namespace = row.namespace, name = row.name, "gone");
            }
        }
        Err(error) => tracing::warn!(kind, %error, "what is gone was not looked for"),
    }
}
