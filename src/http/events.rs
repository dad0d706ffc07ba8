//! What happened, and what is wrong with the manifests.

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    Api, ApiError, TimeOrDuration,
    extract::Query,
    resources,
    types::{EventList, ProblemList},
};
use crate::store::JournalFilter;

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    #[serde(default, deserialize_with = "crate::http::extract::given")]
    pub namespace: Option<String>,
    /// `llmbackends`, `hostagents`, `experts`, `taskqueues`, `workerpools`, `taskschedules`, `containerhealthchecks`, `callers` or `notifiers`; short names do as well.
    #[param(min_length = 1)]
    pub kind: Option<String>,
    pub name: Option<String>,
    /// Only events since then; a duration is one before now.
    pub since: Option<TimeOrDuration>,
    /// At most this many, the newest; 1,000 when absent.
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
}

/// Events of the last 30 days, newest first.
#[utoipa::path(get, path = "/api/v1/events", params(EventQuery), responses((status = 200, body = EventList)))]
pub(super) async fn events(
    State(api): State<Api>,
    Query(which): Query<EventQuery>,
) -> Result<Json<EventList>, ApiError> {
    if let Some(limit) = which.limit.filter(|limit| !(1..=10_000).contains(limit)) {
        return Err(ApiError::BadRequest(format!("limit is {limit}: write 1 to 10000")));
    }
    let kind = which.kind.as_deref().map(resources::known).transpose();
    let kind = kind.map_err(|error| ApiError::BadRequest(format!("kind: {error}")))?;
    let now = Timestamp::now();
    let filter = JournalFilter {
        kind: kind.map(Into::into),
        namespace: which.namespace,
        name: which.name,
        since: which.since.map(|since| since.ago(now)),
        limit: which.limit.unwrap_or(0),
    };
    let items = api.store.journal(&filter).await?.into_iter().map(Into::into).collect();
    Ok(Json(EventList { now, items }))
}

/// Manifests of the folder that are not in force: file, line, field. Always empty in a cluster, whose API server refuses them
/// at once.
#[utoipa::path(get, path = "/api/v1/problems", responses((status = 200, body = ProblemList)))]
pub(super) async fn problems(State(api): State<Api>) -> Json<ProblemList> {
    Json(ProblemList { items: api.all_problems() })
}
