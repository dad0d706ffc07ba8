//! Calls that are open at gateways.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, ApiError, Changed,
    extract::{Path, Query},
    resources::InNamespace,
};
use crate::store::OpenCall;

/// A gateway tells of its open calls more often than this.
const FRESH: Duration = Duration::from_secs(30);

/// Open calls, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallList {
    pub items: Vec<OpenCall>,
}

/// Path of one call.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct CallId {
    /// As the gateway gave it in `Ostler-Call-Id`.
    pub id: String,
}

/// Calls that wait or run at gateways, a few seconds old.
#[utoipa::path(get, path = "/api/v1/calls", params(InNamespace), responses((status = 200, body = CallList)))]
pub(super) async fn list(State(api): State<Api>, Query(query): Query<InNamespace>) -> Result<Json<CallList>, ApiError> {
    Ok(Json(CallList { items: open(&api, query.namespace.as_deref()).await? }))
}

/// Ends a call: its client is told, and its slot is free once the engine has stopped.
#[utoipa::path(post, path = "/api/v1/calls/{id}/cancel", params(CallId, InNamespace),
    responses((status = 200, body = Changed), (status = 404, body = super::ErrorReply)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(CallId { id }): Path<CallId>,
    Query(query): Query<InNamespace>,
) -> Result<Json<Changed>, ApiError> {
    let open = open(&api, query.namespace.as_deref()).await?;
    let Some(call) = open.iter().find(|call| call.id == id) else {
        return Err(ApiError::NotFound(format!("no call {id:?} is open: see `ostler calls`")));
    };
    api.store.cancel_call(&call.id).await?;
    Ok(Json(Changed { message: format!("call {} of {}/{} is being ended", call.id, call.namespace, call.caller) }))
}

async fn open(api: &Api, namespace: Option<&str>) -> Result<Vec<OpenCall>, ApiError> {
    let reports = api.store.workers().await?.into_iter().filter(|row| row.age < FRESH);
    let calls = reports.flat_map(|row| row.report.open_calls);
    let mut calls: Vec<OpenCall> =
        calls.filter(|call| namespace.is_none_or(|wanted| call.namespace == wanted)).collect();
    calls.sort_by(|a, b| (a.asked_at, &a.id).cmp(&(b.asked_at, &b.id)));
    Ok(calls)
}
