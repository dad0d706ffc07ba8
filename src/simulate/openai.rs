//! Servers of OpenAI's protocol: in the manner of vLLM (everything is loaded, calls run beside each other), and mlx_lm.server 0.32 (one
//! model at a time, few paths).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::engines::EngineKind;

use super::state::SimulatedState;
use super::{chat, reply};

pub(super) fn router() -> Router<Arc<SimulatedState>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/health", get(async || reply::text(200, "")))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/embeddings", post(chat::embeddings))
        .fallback(async || reply::json(404, &json!({"detail": "Not Found"})))
}

pub(super) fn mlx_router() -> Router<Arc<SimulatedState>> {
    Router::new()
        .route("/v1/models", get(models))
        .route("/health", get(async || reply::json(200, &json!({"status": "ok"}))))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/chat/completions", post(chat::chat))
        .fallback(async || reply::text(404, "Not Found"))
}

async fn models(State(shared): State<Arc<SimulatedState>>) -> Response {
    let owned = shared.options.engine == EngineKind::OpenAi;
    let model = |name: String| {
        let mut model = json!({"id": name, "object": "model", "created": 1_700_000_000});
        if owned {
            model["owned_by"] = "simulated".into();
        }
        model
    };
    let data: Vec<Value> = shared.listed().into_iter().map(model).collect();
    reply::json(200, &json!({"object": "list", "data": data}))
}
