//! What controllers of projected kinds read, and whom they ask for passes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::{
    api::{
        Caller, ConditionStatus, ContainerHealthCheck, Expert, HostAgent, Kind, LLMBackend, Notifier, RequiredKind,
        Requirement, ResourceStatus, TaskQueue, TaskSchedule, WorkerPool, condition,
    },
    store::{BackendRow, CallerDay, DeclaredRow, QueueCounts, StoreError, WaitingGroup, caller_id},
};

use super::{
    super::{
        Parts,
        causes::CauseBook,
        driver::{KindObject, Triggers},
        feed::Feed,
        shared::{NamespacedName, Shared},
    },
    ProjectionCache, RequirementObserved,
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
    pub callers: Feed<Caller>,
    pub notifiers: Feed<Notifier>,
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
    callers: Figure<Vec<CallerDay>>,
}

/// Of one term.
pub struct ControlPlane {
    pub parts: Parts,
    pub shared: Shared,
    pub feeds: Feeds,
    pub triggers: Triggers,
    pub book: ProjectionCache,
    pub causes: CauseBook,
    /// `None`: not read yet.
    backends: Mutex<Option<Arc<Vec<BackendRow>>>>,
    figures: Figures,
}

impl ControlPlane {
    pub fn new(parts: Parts, shared: Shared, feeds: Feeds, triggers: Triggers) -> Self {
        let book = ProjectionCache::new(Arc::clone(&parts.store));
        Self {
            parts,
            shared,
            feeds,
            triggers,
            book,
            causes: CauseBook::default(),
            backends: Mutex::default(),
            figures: Figures::default(),
        }
    }

    /// As they were last read; `None`: not yet.
    pub fn backends(&self) -> Option<Arc<Vec<BackendRow>>> {
        self.backends.lock().clone()
    }

    /// Reads the projected backends again; while the database is away the last ones hold.
    pub async fn read_backends(&self) {
        match self.parts.store.backends().await {
            Ok(rows) => *self.backends.lock() = Some(Arc::new(rows)),
            Err(error) => tracing::debug!(%error, "could not read backends; will retry"),
        }
    }

    /// Pending and running tasks of a queue, a few seconds old; `None` while the database does not tell.
    pub async fn counts_of(&self, queue: &NamespacedName) -> Option<(i64, i64)> {
        let counts = self.figures.counts.fresh(|| self.parts.store.queue_counts()).await.ok()?;
        let found = counts.iter().find(|c| c.namespace == queue.namespace && c.queue == queue.name);
        Some(found.map_or((0, 0), |c| (c.pending, c.in_progress)))
    }

    /// What a caller used today, a few seconds old; `None`: nothing yet, or the database does not tell.
    pub async fn used_by(&self, caller: &NamespacedName) -> Option<CallerDay> {
        let days = self.figures.callers.fresh(|| self.parts.store.caller_days()).await.ok()?;
        let id = caller_id(&caller.namespace, &caller.name);
        days.iter().find(|day| day.caller == id).cloned()
    }

    /// What waits, by what it could be waiting for; a few seconds old.
    pub async fn waiting(&self) -> Result<Arc<Vec<WaitingGroup>>, StoreError> {
        self.figures.waiting.fresh(|| self.parts.store.waiting()).await
    }

    /// By its manifest or by a person.
    pub fn is_suspended(&self, notifier: &Notifier) -> bool {
        let suspended = self.shared.wishes.suspended(Kind::Notifier, &NamespacedName::of(notifier));
        suspended.unwrap_or(notifier.spec.suspend)
    }

    /// Asks for a pass of what a row is projected of.
    pub fn trigger(&self, row: &DeclaredRow) {
        if let Ok(kind) = row.kind.parse() {
            self.triggers.one(kind, &NamespacedName::new(&row.namespace, &row.name));
        }
    }

    /// Asks for a pass of every object of the projected kinds.
    fn trigger_declared(&self) {
        let Feeds { backends: _, agents: _, experts, queues, pools, schedules, checks, callers, notifiers } =
            &self.feeds;
        self.trigger_all(Kind::Expert, experts);
        self.trigger_all(Kind::TaskQueue, queues);
        self.trigger_all(Kind::WorkerPool, pools);
        self.trigger_all(Kind::TaskSchedule, schedules);
        self.trigger_all(Kind::ContainerHealthCheck, checks);
        self.trigger_all(Kind::Caller, callers);
        self.trigger_all(Kind::Notifier, notifiers);
    }

    /// Asks for a pass of every object.
    pub fn trigger_everything(&self) {
        self.trigger_all(Kind::LLMBackend, &self.feeds.backends);
        self.trigger_all(Kind::HostAgent, &self.feeds.agents);
        self.trigger_declared();
    }

    fn trigger_all<K: KindObject>(&self, kind: Kind, feed: &Feed<K>) {
        feed.objects.state().iter().for_each(|object| self.triggers.one(kind, &NamespacedName::of(&**object)));
    }

    /// How what a resource of this namespace requires is now.
    pub fn requirements(&self, namespace: &str, requires: &[Requirement]) -> Vec<(Requirement, RequirementObserved)> {
        requires.iter().map(|requirement| (requirement.clone(), self.requirement(namespace, requirement))).collect()
    }

    fn requirement(&self, namespace: &str, requirement: &Requirement) -> RequirementObserved {
        let Requirement { kind, name, condition, .. } = requirement;
        let feeds = &self.feeds;
        match kind {
            RequiredKind::LLMBackend if condition == "Ready" => {
                let Some(backends) = self.backends() else { return RequirementObserved::Unknown };
                // The projection is what the leader itself last judged, whether or not the API server took the status.
                let row = backends.iter().find(|row| row.namespace == namespace && row.name == *name);
                row.map_or(RequirementObserved::Missing, |row| RequirementObserved::Judged {
                    holds: row.ready,
                    since: row.ready_since,
                    reason: row.reason.clone(),
                })
            }
            RequiredKind::LLMBackend => condition_of(&feeds.backends, namespace, name, condition),
            RequiredKind::HostAgent => condition_of(&feeds.agents, namespace, name, condition),
            RequiredKind::Expert => condition_of(&feeds.experts, namespace, name, condition),
            RequiredKind::TaskQueue => condition_of(&feeds.queues, namespace, name, condition),
            RequiredKind::ContainerHealthCheck => condition_of(&feeds.checks, namespace, name, condition),
            RequiredKind::WorkerPool => condition_of(&feeds.pools, namespace, name, condition),
        }
    }
}

/// A condition as the status of an object tells it.
fn condition_of<K: KindObject>(feed: &Feed<K>, namespace: &str, name: &str, type_: &str) -> RequirementObserved {
    let Some(object) = feed.objects.get(&ObjectRef::new(name).within(namespace)) else {
        // Before the first complete listing nobody knows what there is, nor how one is that can't be decoded.
        return if feed.knows(namespace) && !feed.holds(namespace, name) {
            RequirementObserved::Missing
        } else {
            RequirementObserved::Unknown
        };
    };
    let Some(found) = object.status().and_then(|status| condition(&status.base().conditions, type_)) else {
        return RequirementObserved::Unknown;
    };
    RequirementObserved::Judged {
        holds: found.status == ConditionStatus::True,
        since: Some(found.last_transition_time.0),
        reason: found.reason.clone(),
    }
}

/// A changed object may concern all projected kinds: they refer to each other.
pub async fn heed_touches(world: Arc<ControlPlane>) {
    // No other kind refers to callers and Notifiers.
    let Feeds { backends, agents, experts, queues, pools, schedules, checks, callers: _, notifiers: _ } = &world.feeds;
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
        world.trigger_declared();
    }
}

async fn touched<K: KindObject>(touches: &mut broadcast::Receiver<ObjectRef<K>>) -> bool {
    !matches!(touches.recv().await, Err(broadcast::error::RecvError::Closed))
}
