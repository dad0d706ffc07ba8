//! Health and metrics page: no token needed.

use std::time::Duration;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use jiff::Timestamp;

use super::Api;

const STORE_WITHIN: Duration = Duration::from_secs(3);

/// 200 while every loop runs; else 503 with the names of those that are stuck.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn livez(State(api): State<Api>) -> (StatusCode, String) {
    let stuck = api.loops.stuck();
    if stuck.is_empty() {
        return (StatusCode::OK, format!("ok: {} loops run\n", api.loops.len()));
    }
    let lines = stuck.iter().map(|l| {
        if l.died {
            format!("loop {} died\n", l.name)
        } else {
            format!(
                "loop {} is silent for {} s, {} s are allowed\n",
                l.name,
                l.silent.as_secs(),
                l.may_be_silent.as_secs()
            )
        }
    });
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
}

/// 200 when the database answers; followers are ready too.
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, String) {
    match tokio::time::timeout(STORE_WITHIN, api.store.leader()).await {
        Ok(Ok(_)) => (StatusCode::OK, "ok\n".to_owned()),
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        Err(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the database does not answer within {} s\n", STORE_WITHIN.as_secs()),
        ),
    }
}

/// What Prometheus reads.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], api.metrics.render(Timestamp::now()))
}
