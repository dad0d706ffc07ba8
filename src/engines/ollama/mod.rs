mod pull;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use pull::PullProgress;

use super::error::{Broken, of_status};
use super::probe::read_bounded;
use super::stream::{Progress, error_in, parse};
use super::{Endpoint, Engine, EngineError, EngineKind, Failure, InferOutcome, InferRequest};

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
        on_token: &mut (dyn FnMut() + Send),
    ) -> Result<InferOutcome, EngineError> {
        let failed = |path: &str, failure| {
            let call = format!("{} with model {}", at.describe(&Method::POST, path), request.model);
            EngineError::new(call, failure)
        };
        match chat(at, request, on_token).await {
            Err(failure) if only_embeds(&failure) => {
                embed(at, request, on_token).await.map_err(|failure| failed("/api/embed", failure))
            }
            result => result.map_err(|failure| failed("/api/chat", failure)),
        }
    }

    fn manages_models(&self) -> bool {
        true
    }

    async fn loaded(&self, at: &Endpoint, timeout: Duration) -> Result<Option<Vec<LoadedModel>>, EngineError> {
        #[derive(Deserialize)]
        struct Ps {
            models: Option<Vec<LoadedModel>>,
        }
        let body = ask(at.request(Method::GET, "/api/ps"), timeout).await;
        let parsed = body.and_then(|body| {
            serde_json::from_slice::<Ps>(&body).map_err(|e| Failure::BadBody { detail: e.to_string() })
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

async fn chat(
    at: &Endpoint,
    request: &InferRequest,
    on_token: &mut (dyn FnMut() + Send),
) -> Result<InferOutcome, Failure> {
    let mut body = json!({
        "model": request.model.as_str(),
        "messages": [{"role": "user", "content": request.prompt}],
        "stream": true,
        "options": {"num_predict": request.max_tokens},
    });
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    let mut progress = Progress::new(request, on_token);
    let mut lines = progress.open(at.request(Method::POST, "/api/chat").json(&body)).await?;
    let mut any = false;
    while let Some(line) = progress.next(&mut lines).await? {
        let record = parse(&line)?;
        if let Some(failure) = error_in(&record) {
            return Err(failure);
        }
        any = true;
        if carries_token(&record) {
            progress.token();
        }
        if record.get("done").and_then(Value::as_bool) == Some(true) {
            let (counted, per_token) = measured(&record);
            return Ok(progress.outcome(counted, per_token));
        }
    }
    Err(if any { progress.cut_short() } else { Failure::BadBody { detail: "200 with an empty body".into() } })
}

fn carries_token(record: &Value) -> bool {
    let message = record.get("message");
    let text = |key| message.and_then(|m| m.get(key)).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let tools = message.and_then(|m| m.get("tool_calls")).and_then(Value::as_array).is_some_and(|t| !t.is_empty());
    text("content") || text("thinking") || tools
}

/// Tokens and time per token of the last record.
fn measured(done: &Value) -> (Option<u32>, Option<Duration>) {
    let count = done.get("eval_count").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let nanos = done.get("eval_duration").and_then(Value::as_u64);
    let per_token =
        count.zip(nanos).filter(|(count, _)| *count > 0).map(|(count, nanos)| Duration::from_nanos(nanos) / count);
    (count, per_token)
}

/// Ollama refuses to chat with an embedding model; that it embeds proves as much.
fn only_embeds(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected { detail, .. } if detail.contains("does not support chat"))
}

async fn embed(
    at: &Endpoint,
    request: &InferRequest,
    on_token: &mut (dyn FnMut() + Send),
) -> Result<InferOutcome, Failure> {
    let mut body = json!({"model": request.model.as_str(), "input": request.prompt});
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    let mut progress = Progress::new(request, on_token);
    let mut lines = progress.open(at.request(Method::POST, "/api/embed").json(&body)).await?;
    let line = progress.next(&mut lines).await?.unwrap_or_default();
    let first = parse(&line)?;
    match first.pointer("/embeddings/0").and_then(Value::as_array) {
        Some(vector) if !vector.is_empty() => {
            progress.token();
            Ok(progress.outcome(None, None))
        }
        _ => Err(Failure::BadBody { detail: "no embedding in the answer".into() }),
    }
}

/// A generation without a prompt only loads the model, or with `keep_alive` 0 only unloads it.
async fn keep(at: &Endpoint, model: &str, keep_alive: i32, timeout: Duration) -> Result<(), Failure> {
    let body = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    let answer = ask(at.request(Method::POST, "/api/generate").json(&body), timeout).await?;
    let record = parse(&answer)?;
    match record.get("done").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(error_in(&record).unwrap_or(Failure::BadBody { detail: "the answer lacks `done`".into() })),
    }
}

async fn ask(request: RequestBuilder, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let broken = |broken: Broken| broken.failure(0, started.elapsed());
    let asked = async {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_bounded(response).await?;
        Ok::<_, reqwest::Error>(if status.is_success() { Ok(body) } else { Err(of_status(status, &headers, &body)) })
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(broken(Broken::of(&error))),
        Err(_elapsed) => Err(broken(Broken::Timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_per_token_needs_tokens() {
        assert_eq!(
            measured(&json!({"eval_count": 4, "eval_duration": 8_000_000})),
            (Some(4), Some(Duration::from_millis(2)))
        );
        assert_eq!(measured(&json!({"eval_count": 0, "eval_duration": 5})), (Some(0), None));
        assert_eq!(measured(&json!({})), (None, None));
    }
}
