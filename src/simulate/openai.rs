//! A server of OpenAI's protocol, in the manner of vLLM: everything is loaded, calls run beside each other.

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
        .route("/health", get(async || reply::text(200, "")))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/embeddings", post(chat::embeddings))
        .fallback(async || reply::json(404, &json!({"detail": "Not Found"})))
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let listed = shared.listed();
    let data: Vec<Value> = listed
        .iter()
        .map(|name| json!({"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulated"}))
        .collect();
    reply::json(200, &json!({"object": "list", "data": data}))
}
