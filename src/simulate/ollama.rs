//! Ollama 0.17: what it lists. What it does is in `ollama_calls`, its OpenAI side in `chat`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::in_force::checked;
use super::state::SimulatedState;
use super::{Fault, asked::Lenient, chat, generate::OLLAMA_CONTEXT, models, ollama_calls, other_protocols, reply};
use crate::{
    engines::{EngineKind, same_model},
    protocols::Operation,
};

const VERSION: &str = "0.17.4";
/// Of a model, in bytes: a small one's.
const SIZE: u64 = 2_019_393_189;

pub(super) fn router() -> Router<Arc<SimulatedState>> {
    Router::new()
        .route("/", get(root))
        .route("/api/version", get(version))
        .route("/api/tags", get(tags))
        .route("/api/ps", get(ps))
        .route("/api/chat", post(ollama_calls::chat))
        .route("/api/generate", post(ollama_calls::generate))
        .route("/api/embed", post(ollama_calls::embed))
        .route("/api/pull", post(models::pull))
        .route("/api/create", post(create))
        .route("/api/show", post(show))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/embeddings", post(chat::embeddings))
        .route(Operation::Messages.path(), post(other_protocols::messages))
        .route(Operation::Responses.path(), post(other_protocols::responses))
        .fallback(async || reply::text(404, "404 page not found"))
}

async fn root() -> Response {
    reply::text(200, "Ollama is running")
}

async fn version() -> Response {
    reply::json(200, &json!({"version": VERSION}))
}

async fn tags(State(shared): State<Arc<SimulatedState>>) -> Response {
    let cloud = shared.cloud_model();
    let describe = |name: &String| {
        let mut model = describe(name);
        if cloud.as_ref() == Some(name) {
            model["remote_model"] = name.trim_end_matches("-cloud").into();
            model["remote_host"] = "https://ollama.com:443".into();
        }
        model
    };
    let models: Vec<Value> = shared.listed().iter().map(describe).collect();
    reply::json(200, &json!({"models": models}))
}

async fn ps(State(shared): State<Arc<SimulatedState>>) -> Response {
    let now = Timestamp::now();
    let past = |fault: &Fault| if let Fault::ExpiryInPast { seconds } = fault { Some(checked(*seconds)) } else { None };
    let past = shared.fault(past);
    let mut loaded: Vec<(String, Timestamp)> =
        shared.runners().iter().map(|runner| (runner.model.clone(), runner.shown_expiry(now))).collect();
    loaded.sort_by_key(|(_, expiry)| std::cmp::Reverse(*expiry));
    if let Some(past) = past {
        if loaded.is_empty() {
            loaded.extend(shared.listed().into_iter().next().map(|name| (name, now)));
        }
        let expiry = now.checked_sub(past).unwrap_or(Timestamp::MIN);
        loaded.iter_mut().for_each(|(_, shown)| *shown = expiry);
    }
    let size_vram = if shared.has(|fault| matches!(fault, Fault::CpuOnly {})) { 0 } else { SIZE };
    let context = shared.context_limit(None);
    let models: Vec<Value> = loaded
        .iter()
        .map(|(name, expiry)| {
            let mut model = describe(name);
            model["expires_at"] = expiry.to_string().into();
            model["size_vram"] = size_vram.into();
            model["context_length"] = context.into();
            model
        })
        .collect();
    reply::json(200, &json!({"models": models}))
}

#[derive(Deserialize)]
struct ShowRequest {
    #[serde(default)]
    model: String,
    #[serde(default)]
    name: String,
}

async fn show(State(shared): State<Arc<SimulatedState>>, Lenient(request): Lenient<ShowRequest>) -> Response {
    let asked = if request.model.is_empty() { request.name } else { request.model };
    if !shared.listed().iter().any(|name| same_model(EngineKind::Ollama, name, &asked)) {
        return reply::json(404, &json!({"error": format!("model '{asked}' not found")}));
    }
    let told = describe(&asked);
    let (from, parameters) = match shared.derived(&asked) {
        Some((from, context)) => (from, format!("PARAMETER num_ctx {context}\n")),
        None => (shared.find(&asked).unwrap_or(asked), String::new()),
    };
    reply::json(
        200,
        &json!({
            "modelfile": format!("FROM {}\n{parameters}", digest(&from)), "parameters": parameters, "template": "{{ .Prompt }}", "details": told["details"],
            "model_info": {"general.architecture": "llama", "llama.context_length": shared.context_limit(None)},
            "capabilities": ["completion", "tools"], "modified_at": told["modified_at"],
        }),
    )
}

#[derive(Deserialize)]
struct CreateRequest {
    #[serde(default)]
    model: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    parameters: serde_json::Map<String, Value>,
}

/// A name of its own for a model with another context. It answers at once, whether or not a stream was asked for.
async fn create(State(shared): State<Arc<SimulatedState>>, Lenient(request): Lenient<CreateRequest>) -> Response {
    let context = request.parameters.get("num_ctx").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    match shared.derive(&request.model, &request.from, context.unwrap_or(OLLAMA_CONTEXT)) {
        true => reply::json(200, &json!({"status": "success"})),
        false => reply::json(500, &json!({"error": "pull model manifest: file does not exist"})),
    }
}

async fn models(State(shared): State<Arc<SimulatedState>>) -> Response {
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
