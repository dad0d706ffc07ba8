//! Tasks come in: all of a request, or none.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    check::{KnownNames, check},
    parse::{MOST_TASKS, UnreadableTasks, parse},
    types::InsertReply,
};
use crate::http::{
    Api, ApiError, ErrorReply,
    extract::{Query, RawBody, content_type},
    services::DEFAULT_NAMESPACE,
};

/// Kinds of bodies that are read: JSON, JSON lines, and what clients say when nobody told them.
const TAKEN: [&str; 7] = [
    "application/json",
    "application/x-ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
];

/// Where to.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Into {
    /// `default` when absent.
    #[serde(deserialize_with = "crate::http::extract::given")]
    pub namespace: Option<String>,
    /// Only say what is wrong with them.
    pub dry_run: bool,
}

/// Inserts tasks: one JSON object, an array of them, or one object a line, at most 10,000. All are taken, or none. A key that
/// its queue has already gives the task that exists. Without `namespace` they go to `default`.
#[utoipa::path(post, path = "/api/v1/tasks", params(Into), tag = "tasks",
    responses((status = 200, description = "all existed already", body = InsertReply), (status = 201, body = InsertReply),
        (status = 413, description = "more than 10,000 tasks or 32 MiB", body = ErrorReply),
        (status = 422, description = "each problem by line and field; nothing was taken", body = ErrorReply)))]
pub async fn insert(
    State(api): State<Api>,
    Query(query): Query<Into>,
    headers: HeaderMap,
    RawBody { bytes, room: _room }: RawBody,
) -> Result<(StatusCode, Json<InsertReply>), ApiError> {
    let Into { namespace, dry_run } = query;
    if let Some(kind) = content_type(&headers).filter(|kind| !TAKEN.contains(&kind.as_str())) {
        let why = format!("the body is {kind}: send application/json or application/x-ndjson");
        return Err(ApiError::UnsupportedMedia(why));
    }
    let namespace = namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let queues = api.store.declared("TaskQueue").await?;
    let experts = api.store.declared("Expert").await?;
    let known = KnownNames::of(&namespace, &queues, &experts);
    let now = api.store.now().await?;
    // Megabytes of JSON are no work for a thread that serves others.
    let tasks = tokio::task::spawn_blocking(move || {
        let given = parse(&bytes).map_err(unreadable)?;
        check(given, &known, now).map_err(ApiError::Tasks)
    })
    .await
    .map_err(|e| ApiError::Broken(e.to_string()))??;
    if dry_run {
        return Ok((StatusCode::OK, Json(InsertReply { inserted: 0, existed: 0, items: Vec::new() })));
    }
    let items = api.store.insert_tasks(&tasks).await?;
    let existed = items.iter().filter(|item| item.existed).count();
    let inserted = items.len() - existed;
    let status = if inserted > 0 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(InsertReply { inserted, existed, items })))
}

fn unreadable(why: UnreadableTasks) -> ApiError {
    match why {
        UnreadableTasks::Empty => ApiError::BadRequest("no task was sent: write one JSON object for each".to_owned()),
        UnreadableTasks::TooMany(count) => ApiError::TooLarge(format!(
            "{count} tasks were sent, {MOST_TASKS} are allowed in one request: send them in several"
        )),
        UnreadableTasks::Broken(problems) => ApiError::Tasks(problems),
    }
}
