//! Why a task waits.

use axum::{Json, extract::State};

use super::{read::find, types::Explanation};
use crate::{
    http::{
        Api, ApiError, ErrorReply,
        extract::{Path, Query},
        resources::InNamespace,
    },
    store,
    tasks::{
        TaskId, TaskState,
        explain::{self, Item},
    },
};

/// Why a task waits, for what, since when; or how it is if it doesn't.
#[utoipa::path(get, path = "/api/v1/tasks/{id}/explain", params(("id" = i64, Path), InNamespace), tag = "tasks",
    responses((status = 200, body = Explanation), (status = 404, body = ErrorReply)))]
pub async fn explain(
    State(api): State<Api>,
    Path(id): Path<TaskId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Explanation>, ApiError> {
    let task = find(&api, id, query.namespace.as_deref()).await?;
    let (world, now) = (store::world::read(&*api.store).await?, api.store.now().await?);
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
