//! Tasks as they are, and as they end.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Query, State},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    filter::Which,
    types::{ResultList, TaskList},
};
use crate::{
    http::{Api, ApiError, ErrorReply, resources::InNamespace},
    store::{SETTLED, TaskCursor, TaskPage},
    tasks::{Task, TaskId, TaskState},
};

const LONGEST_WAIT: Duration = Duration::from_secs(30);
pub(super) const TERMINAL: [TaskState; 3] = [TaskState::Completed, TaskState::Failed, TaskState::Cancelled];

/// Tasks, newest first; without payload and result unless `full=true`.
#[utoipa::path(get, path = "/api/v1/tasks", params(Which), tag = "tasks",
    responses((status = 200, body = TaskList), (status = 400, body = ErrorReply)))]
pub async fn list(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<TaskList>, ApiError> {
    let limit = which.limit()?;
    let page = TaskPage { before: which.before, limit, brief: !which.full.unwrap_or(false) };
    let items = api.store.tasks(&which.filter()?, &page).await?;
    let full = i64::try_from(items.len()).is_ok_and(|count| count == limit);
    Ok(Json(TaskList { now: Timestamp::now(), next: items.last().filter(|_| full).map(|t| t.id), items }))
}

/// One task, whole.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", params(("id" = i64, Path), InNamespace), tag = "tasks",
    responses((status = 200, body = Task), (status = 404, body = ErrorReply)))]
pub async fn get(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Task>, ApiError> {
    find(&api, id, query.namespace.as_deref()).await.map(Json)
}

/// A task; one of another namespace than the caller was let into is not there.
pub(super) async fn find(api: &Api, id: TaskId, namespace: Option<&str>) -> Result<Task, ApiError> {
    let found = api.store.task(id).await?.filter(|task| namespace.is_none_or(|wanted| task.namespace == wanted));
    found.ok_or_else(|| {
        let place = namespace.map_or_else(String::new, |n| format!(" in namespace {n}"));
        ApiError::NotFound(format!("task {id} is not there{place}: it never was, or its time to be kept is over"))
    })
}

/// Tasks that ended, whole, in the order in which they did, from after a cursor (without one, from the oldest). They show a second after
/// they ended, each once.
#[utoipa::path(get, path = "/api/v1/tasks/results", params(Which), tag = "tasks",
    responses((status = 200, body = ResultList), (status = 400, body = ErrorReply)))]
pub async fn results(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<ResultList>, ApiError> {
    let (limit, mut filter) = (which.limit()?, which.filter()?);
    if filter.states.is_empty() {
        filter.states = TERMINAL.to_vec();
    }
    if let Some(live) = filter.states.iter().find(|state| !state.is_terminal()) {
        return Err(ApiError::BadRequest(format!(
            "state: {} is no end: a result is completed, failed or cancelled",
            live.as_str()
        )));
    }
    let after = which.after.as_deref().map(cursor).transpose()?;
    let until = Instant::now() + Duration::from_secs(which.wait.unwrap_or(0)).min(LONGEST_WAIT);
    loop {
        let items = api.store.task_changes(&filter, after, limit, false).await?;
        let left = until.saturating_duration_since(Instant::now());
        if items.is_empty() && !left.is_zero() {
            api.store.tasks_changed(left).await;
            // What changed shows when it has settled.
            tokio::time::sleep(SETTLED.min(left)).await;
            continue;
        }
        let next = items.last().map(TaskCursor::of).or(after).unwrap_or_else(beginning);
        return Ok(Json(ResultList { items, next: next.to_string() }));
    }
}

pub(super) fn cursor(text: &str) -> Result<TaskCursor, ApiError> {
    text.parse().map_err(ApiError::BadRequest)
}

/// Before all.
fn beginning() -> TaskCursor {
    TaskCursor { at: Timestamp::UNIX_EPOCH, id: 0 }
}
