//! What tasks may wait for and who may take them, as pure rules read it, from what is projected.

use std::{collections::HashMap, time::Duration};

use serde::de::DeserializeOwned;

use super::{Admission, BackendRow, DeclaredRow, ServerNow, Store, StoreError, WaitingGroup};
use crate::{
    api::{ExpertSpec, LLMBackendSpec, TaskQueueSpec, WorkerPoolSpec},
    tasks::{
        QueueKey,
        assign::{AssignableExpert, QueueView},
        explain::{PoolState, QueueState, WaitingTask, WaitingTasks, WorkerState, World, WorldBackend, WorldExpert},
        retry::RetryPolicy,
        route::Server,
    },
};

/// A worker that has not reported for this long is taken for gone.
const SILENT: Duration = Duration::from_secs(60);

/// Everything that a task may wait for, as it is now.
///
/// # Errors
/// Those of the store.
pub async fn read(store: &dyn Store) -> Result<World, StoreError> {
    let queues = store.declared("TaskQueue").await?.iter().filter_map(queue_state).collect();
    let experts = experts(store).await?;
    let pools = store.declared("WorkerPool").await?.iter().filter_map(pool_state).collect();
    let workers = store.workers().await?;
    let workers = workers.into_iter().filter(|w| w.age < SILENT).map(|w| WorkerState {
        namespace: w.report.namespace,
        pool: w.report.pool,
        in_flight: w.report.in_flight.into(),
        effective: w.report.effective_concurrency.into(),
        limited_by: w.report.limited_by,
        draining: w.report.draining,
    });
    Ok(World { queues, experts, backends: backends(store).await?, pools, workers: workers.collect() })
}

/// The experts that are declared, with their loads.
pub(super) async fn experts(store: &dyn Store) -> Result<Vec<WorldExpert>, StoreError> {
    let loads: HashMap<(String, String), (i64, i64)> = store
        .expert_loads()
        .await?
        .into_iter()
        .map(|load| ((load.namespace, load.expert), (load.pending, load.in_progress)))
        .collect();
    let of = |row: DeclaredRow| {
        let spec: ExpertSpec = spec_of(&row)?;
        let key = (row.namespace, row.name);
        let (pending, running) = loads.get(&key).copied().unwrap_or_default();
        let (namespace, name) = key;
        let view = AssignableExpert {
            namespace,
            name,
            domains: spec.domains,
            roles: spec.roles,
            model: spec.model,
            handler: spec.handler,
            suspended: row.suspended,
            load: pending + running,
        };
        Some(WorldExpert { view, running, most: spec.max_concurrent_tasks.into() })
    };
    Ok(store.declared("Expert").await?.into_iter().filter_map(of).collect())
}

/// The backends that are declared, with the limits and free slots of their servers.
async fn backends(store: &dyn Store) -> Result<Vec<WorldBackend>, StoreError> {
    let servers: HashMap<String, ServerNow> =
        store.servers().await?.into_iter().map(|server| (server.row.url.clone(), server)).collect();
    let state = |row: BackendRow| {
        let spec = backend_spec(&row)?;
        let server = servers.get(&row.server_url);
        let limit = server.map_or(0, |server| server.row.limit);
        let open = server.is_some_and(|server| server.row.admission != Admission::Closed);
        let server = Server::new(&row.namespace, &row.name, &row.server_url, &spec)
            .now(row.ready && open, limit, server.map_or(0, |server| server.occupied))
            .today(server.and_then(|server| server.today));
        Some(WorldBackend { server, state: row.state, reason: row.reason, since: row.ready_since, limit })
    };
    Ok(store.backends().await?.into_iter().filter_map(state).collect())
}

/// The spec of a backend as it was projected; `None` when this release can't read it.
pub fn backend_spec(row: &BackendRow) -> Option<LLMBackendSpec> {
    parsed(&row.spec, "LLMBackend", &row.namespace, &row.name)
}

/// The spec of a declared resource; `None` when this release can't read it.
pub fn spec_of<T: DeserializeOwned>(row: &DeclaredRow) -> Option<T> {
    parsed(&row.spec, &row.kind, &row.namespace, &row.name)
}

fn parsed<T: DeserializeOwned>(spec: &serde_json::Value, kind: &str, namespace: &str, name: &str) -> Option<T> {
    match T::deserialize(spec) {
        Ok(spec) => Some(spec),
        Err(error) => {
            tracing::error!(kind, namespace, name, %error, "what was projected of it can't be read: it is left out");
            None
        }
    }
}

/// How often a task of a queue is tried.
pub fn retry_policy(spec: &TaskQueueSpec) -> RetryPolicy {
    let seconds = |n: i32| Duration::from_secs(n.unsigned_abs().into());
    RetryPolicy {
        max_attempts: spec.retry.max_attempts,
        backoff: seconds(spec.retry.backoff_seconds),
        max_backoff: seconds(spec.retry.max_backoff_seconds),
    }
}

pub(super) fn queue_state(row: &DeclaredRow) -> Option<QueueState> {
    let spec: TaskQueueSpec = spec_of(row)?;
    let key = QueueKey { namespace: row.namespace.clone(), name: row.name.clone() };
    let view = QueueView {
        key,
        default_expert: spec.default_expert_ref.map(|expert| expert.name),
        claimed_by: spec.claimed_by,
    };
    Some(QueueState { view, suspended: row.suspended, held: row.held.clone() })
}

fn pool_state(row: &DeclaredRow) -> Option<PoolState> {
    let spec: WorkerPoolSpec = spec_of(row)?;
    Some(PoolState {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        queues: spec.queue_refs.into_iter().map(|queue| queue.name).collect(),
        suspended: row.suspended,
    })
}

/// Pending tasks that are alike, as they are explained.
pub fn waiting(group: &WaitingGroup) -> WaitingTasks {
    let item = WaitingTask {
        queue: QueueKey { namespace: group.namespace.clone(), name: group.queue.clone() },
        domain: group.domain.clone(),
        role: group.role.clone(),
        expert: group.expert.clone(),
        assigned: group.expert.is_some(),
        model: group.model.clone(),
        not_before: (!group.due).then_some(Err(())),
    };
    WaitingTasks { item, count: group.count }
}
