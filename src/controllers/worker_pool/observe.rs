//! What a pool's processes report, and what they could use.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    api::{Kind, LLMBackendSpec, WorkerPoolSpec},
    store::{Admission, ServerRow},
};

use super::{
    super::{error::StepError, shared::NamespacedName},
    PoolPods, WorkerPoolObserved, WorkerPools,
    plan::{Room, Runnable},
};

/// A process that has not reported for longer is not counted.
const SILENT: Duration = Duration::from_secs(30);

impl WorkerPools {
    pub(super) async fn look(
        &self,
        spec: &WorkerPoolSpec,
        key: &NamespacedName,
    ) -> Result<WorkerPoolObserved, StepError> {
        let parts = &self.world.parts;
        let queues = self.world.feeds.queues.objects.state();
        let is_there =
            |name: &str| queues.iter().any(|q| NamespacedName::of(&**q) == NamespacedName::new(&key.namespace, name));
        let missing_queues = spec.queue_refs.iter().map(|q| q.name.clone()).filter(|name| !is_there(name)).collect();
        let workers = parts.store.workers().await?;
        let mine = workers.into_iter().filter(|row| row.age < SILENT).map(|row| row.report);
        let reports: Vec<_> = mine.filter(|r| r.namespace == key.namespace && r.pool == key.name).collect();
        let mut facts = WorkerPoolObserved {
            missing_queues,
            hands_off: parts.observe || self.world.shared.wishes.is_paused(Timestamp::now()),
            brings_worker: !parts.observe && !parts.platform.workers_are_pods(),
            reports,
            pods: None,
        };
        let scales = spec.workload_ref.is_some() || parts.worker_pods.makes();
        if parts.platform.workers_are_pods() && scales {
            facts.pods = Some(self.pods(spec, key, &facts).await?);
        }
        Ok(facts)
    }

    async fn pods(
        &self,
        spec: &WorkerPoolSpec,
        key: &NamespacedName,
        facts: &WorkerPoolObserved,
    ) -> Result<PoolPods, StepError> {
        let pods = &self.world.parts.worker_pods;
        let current = match &spec.workload_ref {
            Some(workload) => pods.seen_workload(&key.namespace, &workload.name).await.map(Some),
            None => pods.seen(&key.namespace, &key.name).await,
        };
        let runnable = self.runnable(spec, key, facts).await?;
        let settling = self.settling.lock().get(key).cloned().unwrap_or_default();
        Ok(PoolPods { current, runnable, settling })
    }

    /// Tasks of its queues that could run now, and the room that servers have for them.
    async fn runnable(
        &self,
        spec: &WorkerPoolSpec,
        key: &NamespacedName,
        facts: &WorkerPoolObserved,
    ) -> Result<Runnable, StepError> {
        let store = &self.world.parts.store;
        let closed: BTreeSet<String> = self
            .world
            .book
            .rows(Kind::TaskQueue.as_str())
            .into_iter()
            .filter(|row| row.namespace == key.namespace && (row.suspended || row.held.is_some()))
            .map(|row| row.name)
            .collect();
        let mine = |queue: &str| spec.queue_refs.iter().any(|q| q.name == queue) && !closed.contains(queue);
        let waiting = self.world.waiting().await?;
        let groups = waiting
            .iter()
            .filter(|g| g.namespace == key.namespace && mine(&g.queue) && g.due && g.expert.is_some())
            .map(|g| (g.model.clone(), g.count))
            .collect();
        let servers: BTreeMap<String, ServerRow> =
            store.servers().await?.into_iter().map(|server| (server.row.url.clone(), server.row)).collect();
        let mut rooms = Vec::new();
        for backend in store.backends().await?.into_iter().filter(|b| b.namespace == key.namespace) {
            let Ok(declared) = serde_json::from_value::<LLMBackendSpec>(backend.spec) else { continue };
            let Some(server) = servers.get(&backend.server_url) else { continue };
            if server.admission == Admission::Closed {
                continue;
            }
            let models = declared.models.into_iter().map(|m| m.alias.unwrap_or(m.name)).collect();
            rooms.push(Room { models, limit: server.limit.into() });
        }
        let running = facts.reports.iter().map(|r| i64::from(r.in_flight)).sum();
        Ok(Runnable { running, groups, rooms })
    }
}
