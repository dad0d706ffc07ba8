//! What the four kinds look at and whom they tell.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kube::{Resource, runtime::reflector::ObjectRef};
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, mpsc};

use crate::{
    api::{
        Condition, ConditionStatus, ContainerHealthCheck, Expert, HostAgent, LLMBackend, RequiredKind, Requirement,
        TaskQueue, TaskSchedule, WorkerPool, condition,
    },
    store::{BackendRow, QueueCounts, StoreError, WaitingGroup},
};

use super::{
    super::{
        Parts,
        feed::Feed,
        shared::{NamespacedName, Shared},
    },
    Gate, ProjectionCache, RequirementObserved, evaluate,
};

/// Figures of the whole store serve all passes of these seconds.
const FRESH: Duration = Duration::from_secs(5);
/// Changes that come together are answered together.
const TOGETHER: Duration = Duration::from_millis(200);

/// Every kind, as it is watched.
#[derive(Clone)]
pub struct Feeds {
    pub backends: Feed<LLMBackend>,
    pub agents: Feed<HostAgent>,
    pub experts: Feed<Expert>,
    pub queues: Feed<TaskQueue>,
    pub pools: Feed<WorkerPool>,
    pub schedules: Feed<TaskSchedule>,
    pub checks: Feed<ContainerHealthCheck>,
}

/// Asks for passes.
#[derive(Clone)]
pub struct Triggers {
    pub experts: mpsc::UnboundedSender<ObjectRef<Expert>>,
    pub queues: mpsc::UnboundedSender<ObjectRef<TaskQueue>>,
    pub pools: mpsc::UnboundedSender<ObjectRef<WorkerPool>>,
    pub schedules: mpsc::UnboundedSender<ObjectRef<TaskSchedule>>,
    pub checks: mpsc::UnboundedSender<ObjectRef<ContainerHealthCheck>>,
}

impl Triggers {
    /// No receiver: the term is over.
    pub fn one(&self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Expert" => drop(self.experts.send(ObjectRef::new(name).within(namespace))),
            "TaskQueue" => drop(self.queues.send(ObjectRef::new(name).within(namespace))),
            "WorkerPool" => drop(self.pools.send(ObjectRef::new(name).within(namespace))),
            "TaskSchedule" => drop(self.schedules.send(ObjectRef::new(name).within(namespace))),
            "ContainerHealthCheck" => drop(self.checks.send(ObjectRef::new(name).within(namespace))),
            _ => {}
        }
    }

    pub fn all(&self, feeds: &Feeds) {
        tell_all(&feeds.experts, &self.experts);
        tell_all(&feeds.queues, &self.queues);
        tell_all(&feeds.pools, &self.pools);
        tell_all(&feeds.schedules, &self.schedules);
        tell_all(&feeds.checks, &self.checks);
    }
}

fn tell_all<K>(feed: &Feed<K>, trigger: &mpsc::UnboundedSender<ObjectRef<K>>)
where
    K: Resource<DynamicType = ()> + Clone,
{
    for object in feed.objects.state() {
        drop(trigger.send(ObjectRef::from_obj(&*object)));
    }
}

/// A figure that is read at most every few seconds.
struct Figure<T>(tokio::sync::Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Figure<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::default())
    }
}

impl<T> Figure<T> {
    async fn fresh<F>(&self, read: impl FnOnce() -> F) -> Result<Arc<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut known = self.0.lock().await;
        if let Some((_, value)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(read().await?);
        *known = Some((Instant::now(), Arc::clone(&value)));
        Ok(value)
    }
}

#[derive(Default)]
struct Figures {
    counts: Figure<Vec<QueueCounts>>,
    waiting: Figure<Vec<WaitingGroup>>,
}

/// Of one term.
pub struct ControlPlane {
    pub parts: Parts,
    pub shared: Shared,
    pub feeds: Feeds,
    pub triggers: Triggers,
    pub book: ProjectionCache,
    /// `None`: not read yet.
    backends: Mutex<Option<Arc<Vec<BackendRow>>>>,
    figures: Figures,
}

impl ControlPlane {
    pub fn new(parts: Parts, shared: Shared, feeds: Feeds, triggers: Triggers) -> Self {
        let book = ProjectionCache::new(Arc::clone(&parts.store));
        Self { parts, shared, feeds, triggers, book, backends: Mutex::default(), figures: Figures::default() }
    }

    fn backends(&self) -> Option<Arc<Vec<BackendRow>>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the projected backends again; while the database is away the last ones hold.
    pub async fn read_backends(&self) {
        match self.parts.store.backends().await {
            Ok(rows) => *self.backends.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(rows)),
            Err(error) => tracing::debug!(%error, "could not read backends; will retry"),
        }
    }

    /// Pending and running tasks of a queue, a few seconds old; `None` while the database does not tell.
    pub async fn counts_of(&self, queue: &NamespacedName) -> Option<(i64, i64)> {
        let counts = self.figures.counts.fresh(|| self.parts.store.queue_counts()).await.ok()?;
        let found = counts.iter().find(|c| c.namespace == queue.namespace && c.queue == queue.name);
        Some(found.map_or((0, 0), |c| (c.pending, c.in_progress)))
    }

    /// What waits, by what it could be waiting for; a few seconds old.
    pub async fn waiting(&self) -> Result<Arc<Vec<WaitingGroup>>, StoreError> {
        self.figures.waiting.fresh(|| self.parts.store.waiting()).await
    }

    /// Whether what a resource of this namespace requires holds now.
    pub fn gate(&self, namespace: &str, requires: &[Requirement], now: Timestamp) -> Gate {
        if requires.is_empty() {
            return Gate::default();
        }
        let backends = self.backends();
        evaluate(requires, |requirement| self.find(backends.as_deref(), namespace, requirement), now)
    }

    fn find(
        &self,
        backends: Option<&Vec<BackendRow>>,
        namespace: &str,
        requirement: &Requirement,
    ) -> RequirementObserved {
        let Requirement { kind, name, condition, .. } = requirement;
        match kind {
            RequiredKind::LLMBackend if condition == "Ready" => {
                let Some(backends) = backends else { return RequirementObserved::Unknown };
                // The projection is what the leader itself last judged, whether or not the API server took the status.
                let row = backends.iter().find(|row| row.namespace == namespace && row.name == *name);
                row.map_or(RequirementObserved::Missing, |row| RequirementObserved::Judged {
                    holds: row.ready,
                    since: row.ready_since,
                    reason: row.reason.clone(),
                })
            }
            RequiredKind::LLMBackend => {
                of(&self.feeds.backends, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
            RequiredKind::HostAgent => {
                of(&self.feeds.agents, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
            RequiredKind::Expert => {
                of(&self.feeds.experts, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
            RequiredKind::TaskQueue => {
                of(&self.feeds.queues, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
            RequiredKind::ContainerHealthCheck => {
                of(&self.feeds.checks, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
            RequiredKind::WorkerPool => {
                of(&self.feeds.pools, namespace, name, condition, |o| o.status.as_ref().map(|s| &s.conditions[..]))
            }
        }
    }
}

/// A condition as the status of an object tells it.
fn of<K>(
    feed: &Feed<K>,
    namespace: &str,
    name: &str,
    type_: &str,
    conditions: impl Fn(&K) -> Option<&[Condition]>,
) -> RequirementObserved
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    let Some(object) = feed.objects.get(&ObjectRef::new(name).within(namespace)) else {
        // Before the first complete listing nobody knows what there is, nor how one is that can't be decoded.
        return if feed.knows(namespace) && !feed.holds(namespace, name) {
            RequirementObserved::Missing
        } else {
            RequirementObserved::Unknown
        };
    };
    let Some(found) = conditions(&object).and_then(|conditions| condition(conditions, type_)) else {
        return RequirementObserved::Unknown;
    };
    RequirementObserved::Judged {
        holds: found.status == ConditionStatus::True,
        since: Some(found.last_transition_time.0),
        reason: found.reason.clone(),
    }
}

/// What is touched may concern all four kinds: they refer to each other.
pub async fn heed_touches(world: Arc<ControlPlane>) {
    let Feeds { backends, agents, experts, queues, pools, schedules, checks } = &world.feeds;
    let (mut backends, mut agents, mut experts) = (backends.touches(), agents.touches(), experts.touches());
    let (mut queues, mut pools, mut schedules) = (queues.touches(), pools.touches(), schedules.touches());
    let mut checks = checks.touches();
    loop {
        let open = tokio::select! {
            open = touched(&mut backends) => open,
            open = touched(&mut agents) => open,
            open = touched(&mut experts) => open,
            open = touched(&mut queues) => open,
            open = touched(&mut pools) => open,
            open = touched(&mut schedules) => open,
            open = touched(&mut checks) => open,
        };
        if !open {
            return std::future::pending().await;
        }
        tokio::time::sleep(TOGETHER).await;
        backends = world.feeds.backends.touches();
        agents = world.feeds.agents.touches();
        experts = world.feeds.experts.touches();
        queues = world.feeds.queues.touches();
        pools = world.feeds.pools.touches();
        schedules = world.feeds.schedules.touches();
        checks = world.feeds.checks.touches();
        world.read_backends().await;
        world.triggers.all(&world.feeds);
    }
}

async fn touched<K>(touches: &mut broadcast::Receiver<ObjectRef<K>>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + Sync + 'static,
{
    !matches!(touches.recv().await, Err(broadcast::error::RecvError::Closed))
}
