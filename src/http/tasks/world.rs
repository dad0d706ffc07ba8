//! Everything that a task may wait for, as the store has it.

use std::{collections::HashMap, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State},
};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    counts::{model_of, texts},
    read::find,
    types::Explanation,
};
use crate::{
    api::LLMBackendSpec,
    http::{Api, ApiError, ErrorReply, resources::InNamespace},
    store::{Admission, BackendRow, DeclaredRow, ExpertLoad, StoreError, WaitingGroup, WorkerRow},
    tasks::{
        QueueKey, TaskId, TaskState,
        assign::{ExpertView, QueueView},
        explain::{self, BackendState, ExpertState, Item, PoolState, QueueState, Waiting, WorkerState, World},
        route::Server,
    },
};

/// A worker that was silent for longer is taken for gone.
const SILENT: Duration = Duration::from_secs(60);

/// Why a task waits, for what, since when; or how it is if it doesn't.
#[utoipa::path(get, path = "/api/v1/tasks/{id}/explain", params(("id" = i64, Path), InNamespace), tag = "tasks",
    responses((status = 200, body = Explanation), (status = 404, body = ErrorReply)))]
pub async fn explain(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Explanation>, ApiError> {
    let task = find(&api, id, query.namespace.as_deref()).await?;
    let (world, now) = (world(&api).await?, Timestamp::now());
    let since = match task.state {
        TaskState::Pending => explain::since(&explain::why(&Item::of(&task), &world, now), task.state_since),
        _ => task.state_since,
    };
    let why = explain::explain(&task, &world, now);
    Ok(Json(Explanation {
        id,
        state: task.state,
        why,
        since,
        expert: task.expert,
        assignment_reason: task.assignment_reason,
        candidates: task.candidates,
    }))
}

/// What there is now.
pub async fn world(api: &Api) -> Result<World, StoreError> {
    let loads = api.store.expert_loads().await?;
    let experts = api.store.declared("Expert").await?;
    let queues = api.store.declared("TaskQueue").await?;
    let pools = api.store.declared("WorkerPool").await?;
    let occupied: HashMap<String, i64> = api.store.occupancy().await?.into_iter().collect();
    let mut backends = Vec::new();
    for row in api.store.backends().await? {
        backends.extend(backend(api, row, &occupied).await?);
    }
    Ok(World {
        queues: queues.iter().map(queue).collect(),
        experts: experts.iter().map(|row| expert(row, &loads)).collect(),
        backends,
        pools: pools.iter().map(pool).collect(),
        workers: api.store.workers().await?.iter().filter(|row| row.age < SILENT).map(worker).collect(),
    })
}

/// A backend whose spec this release can't read gives no slots, and is left out.
async fn backend(
    api: &Api,
    row: BackendRow,
    occupied: &HashMap<String, i64>,
) -> Result<Option<BackendState>, StoreError> {
    let Ok(spec) = serde_json::from_value::<LLMBackendSpec>(row.spec) else { return Ok(None) };
    let server = api.store.server(&row.server_url).await?;
    let limit = server.as_ref().map_or(0, |s| s.limit);
    let open = server.is_some_and(|s| s.admission != Admission::Closed);
    let in_use = occupied.get(&row.server_url).copied().unwrap_or(0);
    let named = Server::new(&row.namespace, &row.name, &row.server_url, &spec);
    Ok(Some(BackendState {
        server: named.now(row.ready && open, limit, in_use),
        state: row.state,
        reason: row.reason,
        since: row.ready_since,
        limit,
    }))
}

pub(super) fn queue_view(row: &DeclaredRow) -> QueueView {
    QueueView {
        key: QueueKey { namespace: row.namespace.clone(), name: row.name.clone() },
        default_expert: row.spec.pointer("/defaultExpertRef/name").and_then(Value::as_str).map(str::to_owned),
    }
}

pub(super) fn expert_view(row: &DeclaredRow, load: Option<&ExpertLoad>) -> ExpertView {
    ExpertView {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        domains: texts(&row.spec, "domains"),
        roles: texts(&row.spec, "roles"),
        model: model_of(row),
        webhook: row.spec.get("handler").and_then(Value::as_str) == Some("Webhook"),
        suspended: row.suspended,
        load: load.map_or(0, |l| l.pending + l.in_progress),
    }
}

pub(super) fn load_of<'a>(row: &DeclaredRow, loads: &'a [ExpertLoad]) -> Option<&'a ExpertLoad> {
    loads.iter().find(|load| load.namespace == row.namespace && load.expert == row.name)
}

fn queue(row: &DeclaredRow) -> QueueState {
    QueueState { view: queue_view(row), suspended: row.suspended, held: row.held.clone() }
}

fn expert(row: &DeclaredRow, loads: &[ExpertLoad]) -> ExpertState {
    let load = load_of(row, loads);
    ExpertState {
        view: expert_view(row, load),
        running: load.map_or(0, |l| l.in_progress),
        most: row.spec.get("maxConcurrentTasks").and_then(Value::as_i64).unwrap_or(i64::MAX),
    }
}

fn pool(row: &DeclaredRow) -> PoolState {
    let refs = row.spec.get("queueRefs").and_then(Value::as_array);
    let names = refs.into_iter().flatten().filter_map(|r| r.get("name")?.as_str());
    PoolState {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        queues: names.map(str::to_owned).collect(),
        suspended: row.suspended,
    }
}

fn worker(row: &WorkerRow) -> WorkerState {
    let report = &row.report;
    WorkerState {
        namespace: report.namespace.clone(),
        pool: report.pool.clone(),
        in_flight: report.in_flight.into(),
        effective: report.effective_concurrency.into(),
        limited_by: report.limited_by.clone(),
        draining: report.draining,
    }
}

/// Pending tasks that are alike, as `explain` takes them.
pub fn waiting(group: &WaitingGroup) -> Waiting {
    Waiting {
        item: Item {
            queue: QueueKey { namespace: group.namespace.clone(), name: group.queue.clone() },
            domain: group.domain.clone(),
            role: group.role.clone(),
            expert: group.expert.clone(),
            assigned: group.expert.is_some(),
            model: group.model.clone(),
            not_before: (!group.due).then_some(Err(())),
        },
        count: group.count,
        oldest: group.oldest,
    }
}
