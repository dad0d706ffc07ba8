//! mlx_lm.server 0.32: one model at a time, calls beside each other, few paths.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::state::Shared;
use super::{chat, reply};

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/health", get(health))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/chat/completions", post(chat::chat))
        .fallback(async || reply::text(404, "Not Found"))
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let listed = shared.listed();
    let data: Vec<Value> =
        listed.iter().map(|name| json!({"id": name, "object": "model", "created": 1_700_000_000})).collect();
    reply::json(200, &json!({"object": "list", "data": data}))
}

async fn health() -> Response {
    reply::json(200, &json!({"status": "ok"}))
}
