mod context;
mod pull;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use context::ContextName;
pub use pull::{PULL_STALL, PullProgress};

use super::decoder::no_json;
use super::error::failure;
use super::probe::MAX_LISTING_BYTES;
use super::status::{of_record, of_response};
use super::stream::{CallError, run};
use super::{
    CallActivity, EmbedOutcome, EmbedRequest, Endpoint, Engine, EngineError, EngineKind, Failure, InferOutcome,
    InferRequest, Sampling, embed,
};
use crate::net::{Broken, json_fault};

pub(super) const PATH: &str = "/api/chat";

/// A model in Ollama's memory (`/api/ps`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LoadedModel {
    pub name: String,
    /// When it goes unless somebody calls; centuries ahead when it is pinned. Moves only when a call ends.
    pub expires_at: Option<Timestamp>,
    /// Bytes in all, and of them on the device.
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub size_vram: u64,
}

/// Ollama, as of 0.17.
pub(super) struct Ollama;

#[async_trait]
impl Engine for Ollama {
    fn kind(&self) -> EngineKind {
        EngineKind::Ollama
    }

    async fn infer(
        &self,
        at: &Endpoint,
        request: &InferRequest,
        on_activity: &mut (dyn FnMut(CallActivity) + Send),
    ) -> Result<InferOutcome, EngineError> {
        infer(at, request, true, on_activity).await.map_err(|error| error.of_call(at, PATH, &request.model))
    }

    async fn embed(&self, at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
        embed::ollama(at, request).await
    }

    fn enforces_schemas(&self) -> bool {
        true
    }

    fn manages_models(&self) -> bool {
        true
    }

    async fn loaded(&self, at: &Endpoint, timeout: Duration) -> Result<Option<Vec<LoadedModel>>, EngineError> {
        #[derive(Deserialize)]
        struct Ps {
            models: Option<Vec<LoadedModel>>,
        }
        let body = ask(at, at.request(Method::GET, "/api/ps"), timeout).await;
        let parsed = body.and_then(|body| {
            serde_json::from_slice::<Ps>(&body).map_err(|e| Failure::BadBody { detail: json_fault(&e) })
        });
        let ps = parsed.map_err(|failure| EngineError::new(at.describe(&Method::GET, "/api/ps"), failure))?;
        Ok(Some(ps.models.unwrap_or_default()))
    }

    async fn unload(&self, at: &Endpoint, model: &str, timeout: Duration) -> Result<(), EngineError> {
        keep(at, model, 0, timeout)
            .await
            .map_err(|failure| EngineError::new(format!("unload {model} on {}", at.base()), failure))
    }

    async fn preload(&self, at: &Endpoint, model: &str, timeout: Duration) -> Result<(), EngineError> {
        keep(at, model, -1, timeout)
            .await
            .map_err(|failure| EngineError::new(format!("preload {model} on {}", at.base()), failure))
    }

    async fn has_context(
        &self,
        at: &Endpoint,
        wanted: ContextName<'_>,
        timeout: Duration,
    ) -> Result<bool, EngineError> {
        context::is_current(at, wanted, timeout)
            .await
            .map_err(|failure| EngineError::new(format!("show {} on {}", wanted.name, at.base()), failure))
    }

    async fn make_context(&self, at: &Endpoint, wanted: ContextName<'_>, timeout: Duration) -> Result<(), EngineError> {
        context::make(at, wanted, timeout)
            .await
            .map_err(|failure| EngineError::new(format!("create {} on {}", wanted.name, at.base()), failure))
    }

    async fn pull(
        &self,
        at: &Endpoint,
        model: &str,
        stall: Duration,
        on_progress: &mut (dyn FnMut(PullProgress) + Send),
    ) -> Result<(), EngineError> {
        pull::pull(at, model, stall, on_progress)
            .await
            .map_err(|failure| EngineError::new(format!("pull {model} on {}", at.base()), failure))
    }
}

pub(super) async fn infer(
    at: &Endpoint,
    request: &InferRequest,
    stream: bool,
    on_activity: &mut (dyn FnMut(CallActivity) + Send),
) -> Result<InferOutcome, CallError> {
    let mut body = body(request);
    body["stream"] = stream.into();
    run(EngineKind::Ollama, (at, at.request(Method::POST, PATH).json(&body)), request, false, on_activity).await
}

fn body(request: &InferRequest) -> Value {
    let Sampling { temperature, top_p, seed, stop } = &request.sampling;
    let mut options = json!({"num_predict": request.max_tokens});
    let optional = [
        ("temperature", temperature.map(Value::from)),
        ("top_p", top_p.map(Value::from)),
        ("seed", seed.map(Value::from)),
    ];
    for (field, value) in optional.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        options[field] = value;
    }
    if !stop.is_empty() {
        options["stop"] = json!(stop);
    }
    // A prompt that does not fit is refused, and an answer ends at the context's end: neither is cut in silence.
    let mut body = json!({"model": request.model.as_str(), "messages": request.messages, "options": options,
        "truncate": false, "shift": false});
    if let Some(schema) = &request.schema {
        body["format"] = schema.clone();
    }
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    body
}

/// A generation without a prompt only loads the model, or with `keep_alive` 0 only unloads it.
async fn keep(at: &Endpoint, model: &str, keep_alive: i32, timeout: Duration) -> Result<(), Failure> {
    let body = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    let answer = ask(at, at.request(Method::POST, "/api/generate").json(&body), timeout).await?;
    let record = serde_json::from_slice::<Value>(&answer).map_err(|_| no_json(&answer))?;
    match record.get("done").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(of_record(EngineKind::Ollama, &record)
            .map_or(Failure::BadBody { detail: "the answer lacks `done`".into() }, |refusal| refusal.failure)),
    }
}

async fn ask(at: &Endpoint, request: RequestBuilder, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let broken = |broken: Broken| failure(broken, 0, started.elapsed());
    let reply = at.send(request, timeout).await.map_err(broken)?;
    let (status, headers) = (reply.status(), reply.headers().clone());
    match status.is_success() {
        true => reply.whole(MAX_LISTING_BYTES).await.map_err(broken),
        false => Err(of_response(EngineKind::Ollama, status, &headers, &reply.refusal().await)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::SendableModel;

    #[test]
    fn a_prompt_is_never_cut_in_silence() {
        let request = InferRequest::simple(SendableModel::mlx_default(), "hi", 7, Duration::from_secs(1));
        let body = body(&request);
        assert_eq!((&body["truncate"], &body["shift"]), (&json!(false), &json!(false)));
    }
}
