//! Ollama 0.17: what it lists. What it does is in `ollama_calls`, its OpenAI side in `chat`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::Shared;
use super::{chat, ollama_calls, reply};

const VERSION: &str = "0.17.4";
/// Of a model, in bytes: a small one's.
const SIZE: u64 = 2_019_393_189;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(root))
        .route("/api/version", get(version))
        .route("/api/tags", get(tags))
        .route("/api/ps", get(ps))
        .route("/api/chat", post(ollama_calls::chat))
        .route("/api/generate", post(ollama_calls::generate))
        .route("/api/embed", post(ollama_calls::embed))
        .route("/api/pull", post(ollama_calls::pull))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/embeddings", post(chat::embeddings))
        .fallback(async || reply::text(404, "404 page not found"))
}

async fn root() -> Response {
    reply::text(200, "Ollama is running")
}

async fn version() -> Response {
    reply::json(200, &json!({"version": VERSION}))
}

async fn tags(State(shared): State<Arc<Shared>>) -> Response {
    let models: Vec<Value> = shared.listed().iter().map(|name| describe(name)).collect();
    reply::json(200, &json!({"models": models}))
}

async fn ps(State(shared): State<Arc<Shared>>) -> Response {
    let now = Timestamp::now();
    let mut runners = shared.runners();
    runners.sort_by_key(|runner| std::cmp::Reverse(runner.shown_expiry(now)));
    let models: Vec<Value> = runners
        .iter()
        .map(|runner| {
            let mut model = describe(&runner.model);
            model["expires_at"] = runner.shown_expiry(now).to_string().into();
            model["size_vram"] = 0.into();
            model["context_length"] = 4096.into();
            model
        })
        .collect();
    reply::json(200, &json!({"models": models}))
}

async fn models(State(shared): State<Arc<Shared>>) -> Response {
    let listed = shared.listed();
    let data: Vec<Value> = listed
        .iter()
        .map(|name| json!({"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "library"}))
        .collect();
    // Go writes a list that was never made as null.
    let data = if data.is_empty() { Value::Null } else { data.into() };
    reply::json(200, &json!({"object": "list", "data": data}))
}

fn describe(name: &str) -> Value {
    json!({
        "name": name,
        "model": name,
        "modified_at": "2026-01-01T00:00:00Z",
        "size": SIZE,
        "digest": digest(name),
        "details": {
            "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
    })
}

/// Looks like a SHA-256, and differs from name to name.
pub(super) fn digest(name: &str) -> String {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}").repeat(4)
}
