//! A round of assignment on request: whoever leads does it.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    http::{Api, ApiError, ErrorReply, extract::Query, types::LeaderView},
    store::rounds,
    tasks::assign::AssignReport,
};

/// A leader that is well answers at once; 50,000 tasks take a second or two.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AssignQuery {
    /// Only tasks of this namespace.
    pub namespace: Option<String>,
    /// Only print what would be assigned.
    pub dry_run: bool,
}

/// Gives every pending task that has nobody to somebody, as the leader does all the time, and reports: how many were pending,
/// how many had nobody, who got how many, how many had somebody already, and which nobody can take and why.
#[utoipa::path(post, path = "/api/v1/tasks/assign", params(AssignQuery), tag = "tasks",
    responses((status = 200, body = AssignReport), (status = 503, description = "nobody leads", body = ErrorReply)))]
pub async fn assign(State(api): State<Api>, Query(round): Query<AssignQuery>) -> Result<Json<AssignReport>, ApiError> {
    let namespace = round.namespace.as_deref();
    if round.dry_run {
        return Ok(Json(rounds::assign_once(&*api.store, None, namespace).await?));
    }
    // What nobody will answer need not be waited for.
    api.store.leader().await?.and_then(LeaderView::of).ok_or(ApiError::NoLeader)?;
    let report = rounds::ask_for_round(&*api.store, namespace, PATIENCE).await?;
    report.map(Json).ok_or(ApiError::NoLeader)
}
