mod pull;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use pull::PullProgress;

use super::probe::read_bounded;
use super::status::{of_record, of_response};
use super::stream::{Counts, Progress, parse};
use super::transport::Broken;
use super::{
    Activity, EmbedOutcome, EmbedRequest, Endpoint, Engine, EngineError, EngineKind, Failure, InferOutcome,
    InferRequest, Sampling, embed,
};

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
        on_activity: &mut (dyn FnMut(Activity) + Send),
    ) -> Result<InferOutcome, EngineError> {
        let failed = |path: &str, failure| {
            let call = format!("{} with model {}", at.describe(&Method::POST, path), request.model);
            EngineError::new(call, failure)
        };
        match chat(at, request, on_activity).await {
            // A canary may ask any model.
            Err(failure) if only_embeds(&failure) && request.max_tokens == 1 => {
                prove_by_embedding(at, request, on_activity).await.map_err(|failure| failed("/api/embed", failure))
            }
            result => result.map_err(|failure| failed("/api/chat", failure)),
        }
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
    on_activity: &mut (dyn FnMut(Activity) + Send),
) -> Result<InferOutcome, Failure> {
    let body = body(request);
    let mut progress = Progress::new(EngineKind::Ollama, request, on_activity);
    let mut lines = progress.open(at.request(Method::POST, "/api/chat").json(&body)).await?;
    let mut any = false;
    while let Some(line) = progress.next(&mut lines).await? {
        let record = parse(&line)?;
        if let Some(refusal) = of_record(EngineKind::Ollama, &record) {
            return Err(refusal.failure);
        }
        any = true;
        if let Some(text) = token_in(&record) {
            progress.token(text)?;
        }
        if record.get("done").and_then(Value::as_bool) == Some(true) {
            return Ok(progress.outcome(measured(&record)));
        }
    }
    Err(if any { progress.cut_short() } else { Failure::BadBody { detail: "200 with an empty body".into() } })
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
    let mut body =
        json!({"model": request.model.as_str(), "messages": request.messages, "stream": true, "options": options});
    if let Some(schema) = &request.schema {
        body["format"] = schema.clone();
    }
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    body
}

/// The text of a record's token, which is empty when it is no part of the answer; `None` when it carries none.
fn token_in(record: &Value) -> Option<&str> {
    let message = record.get("message")?;
    let text = |key| message.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let tools = || message.get("tool_calls").and_then(Value::as_array).filter(|tools| !tools.is_empty());
    text("content").or_else(|| (text("thinking").is_some() || tools().is_some()).then_some(""))
}

/// What the last record counts.
fn measured(done: &Value) -> Counts {
    let number = |key| done.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let tokens = number("eval_count");
    let nanos = done.get("eval_duration").and_then(Value::as_u64);
    let per_token =
        tokens.zip(nanos).filter(|(count, _)| *count > 0).map(|(count, nanos)| Duration::from_nanos(nanos) / count);
    let cut_off = done.get("done_reason").is_some_and(|reason| reason == "length");
    Counts { tokens, prompt_tokens: number("prompt_eval_count"), per_token, cut_off }
}

/// Ollama refuses to chat with an embedding model; that it embeds proves as much.
fn only_embeds(failure: &Failure) -> bool {
    matches!(failure, Failure::Rejected { detail, .. } if detail.contains("does not support chat"))
}

async fn prove_by_embedding(
    at: &Endpoint,
    request: &InferRequest,
    on_activity: &mut (dyn FnMut(Activity) + Send),
) -> Result<InferOutcome, Failure> {
    let input = vec![request.text()];
    let asked = EmbedRequest {
        model: request.model.clone(),
        input,
        keep_alive: request.keep_alive,
        timeout: request.timeout.min(request.first_byte_timeout),
    };
    let progress = Progress::new(EngineKind::Ollama, request, on_activity);
    embed::ollama(at, &asked).await.map_err(|error| error.failure)?;
    // A vector is as good as a token.
    Ok(progress.outcome(Counts { tokens: Some(1), ..Counts::default() }))
}

/// A generation without a prompt only loads the model, or with `keep_alive` 0 only unloads it.
async fn keep(at: &Endpoint, model: &str, keep_alive: i32, timeout: Duration) -> Result<(), Failure> {
    let body = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    let answer = ask(at.request(Method::POST, "/api/generate").json(&body), timeout).await?;
    let record = parse(&answer)?;
    match record.get("done").and_then(Value::as_bool) {
        Some(true) => Ok(()),
        _ => Err(of_record(EngineKind::Ollama, &record)
            .map_or(Failure::BadBody { detail: "the answer lacks `done`".into() }, |refusal| refusal.failure)),
    }
}

async fn ask(request: RequestBuilder, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let started = Instant::now();
    let broken = |broken: Broken| broken.failure(0, started.elapsed());
    let asked = async {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_bounded(response).await?;
        Ok::<_, reqwest::Error>(if status.is_success() {
            Ok(body)
        } else {
            Err(of_response(EngineKind::Ollama, status, &headers, &body))
        })
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
        let done =
            json!({"eval_count": 4, "eval_duration": 8_000_000, "prompt_eval_count": 9, "done_reason": "length"});
        let two = Some(Duration::from_millis(2));
        let expected = Counts { tokens: Some(4), prompt_tokens: Some(9), per_token: two, cut_off: true };
        assert_eq!(measured(&done), expected);
        let none = Counts { tokens: Some(0), ..Counts::default() };
        assert_eq!(measured(&json!({"eval_count": 0, "eval_duration": 5, "done_reason": "stop"})), none);
        assert_eq!(measured(&json!({})), Counts::default());
    }
}
