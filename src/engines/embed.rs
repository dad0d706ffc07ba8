//! Vectors of texts: `/api/embed` (Ollama) and `/v1/embeddings` (OpenAI).

use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::decoder::no_json;
use super::error::failure;
use super::status::{html_title, of_record, of_response};
use super::{EmbedOutcome, EmbedRequest, Endpoint, EngineError, EngineKind, Failure};
use crate::net::{Broken, json_fault};
use crate::protocols::{Tokenizer, prompt_cut};

/// A thousand vectors of four thousand numbers, written out.
const MAX_BYTES: usize = 96 << 20;

pub(super) const OLLAMA_PATH: &str = "/api/embed";
pub(super) const OPENAI_PATH: &str = "/v1/embeddings";

pub(super) async fn ollama(at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
    #[derive(Deserialize)]
    struct Answer {
        embeddings: Vec<Vec<f32>>,
        prompt_eval_count: Option<u32>,
    }
    // A text that does not fit is refused, not cut in silence.
    let mut body = json!({"model": request.model.as_str(), "input": request.input, "truncate": false});
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    ask(
        EngineKind::Ollama,
        at,
        OLLAMA_PATH,
        request,
        at.request(Method::POST, OLLAMA_PATH).json(&body),
        |answer: Answer| Ok((answer.embeddings, answer.prompt_eval_count)),
    )
    .await
}

pub(super) async fn openai(at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
    let body = json!({"model": request.model.as_str(), "input": request.input, "encoding_format": "float"});
    ask(EngineKind::OpenAi, at, OPENAI_PATH, request, at.request(Method::POST, OPENAI_PATH).json(&body), in_order).await
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Item>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Item {
    /// Some leave it out, and keep the order.
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Default, Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
}

/// Each vector says which text it belongs to.
fn in_order(mut answer: Listed) -> Result<(Vec<Vec<f32>>, Option<u32>), String> {
    if answer.data.iter().any(|item| item.index.is_some()) {
        answer.data.sort_by_key(|item| item.index);
    }
    match answer.data.iter().enumerate().find(|(place, item)| item.index.is_some_and(|index| index != *place)) {
        Some((place, _)) => Err(format!("no vector of text {place}")),
        None => Ok((answer.data.into_iter().map(|item| item.embedding).collect(), answer.usage.prompt_tokens)),
    }
}

type Vectors = (Vec<Vec<f32>>, Option<u32>);

async fn ask<T: for<'a> Deserialize<'a>>(
    engine: EngineKind,
    at: &Endpoint,
    path: &str,
    request: &EmbedRequest,
    built: RequestBuilder,
    read: impl FnOnce(T) -> Result<Vectors, String>,
) -> Result<EmbedOutcome, EngineError> {
    let started = Instant::now();
    let failed = |failure| {
        EngineError::new(format!("{} with model {}", at.describe(&Method::POST, path), request.model), failure)
    };
    let broken = |broken: Broken| failed(failure(broken, 0, started.elapsed()));
    let reply = at.send(built, request.timeout).await.map_err(broken)?;
    let (status, headers) = (reply.status(), reply.headers().clone());
    if !status.is_success() {
        return Err(failed(of_response(engine, status, &headers, &reply.refusal().await)));
    }
    let body = reply.whole(MAX_BYTES).await.map_err(broken)?;
    let bad = |detail: String| failed(Failure::BadBody { detail });
    let answer: T = serde_json::from_slice(&body).map_err(|error| failed(no_vectors(engine, &body, &error)))?;
    let (vectors, prompt_tokens) = read(answer).map_err(bad)?;
    if vectors.len() != request.input.len() || vectors.iter().any(Vec::is_empty) {
        return Err(bad(format!("{} vectors for {} texts, or empty ones", vectors.len(), request.input.len())));
    }
    if let Some(detail) =
        prompt_cut(Tokenizer::Embedding, request.input.iter().map(String::as_str), prompt_tokens.map(u64::from))
    {
        return Err(failed(Failure::PromptTooLong { detail }));
    }
    Ok(EmbedOutcome { vectors, prompt_tokens, total: started.elapsed() })
}

fn no_vectors(engine: EngineKind, body: &[u8], error: &serde_json::Error) -> Failure {
    if let Some(title) = html_title(body) {
        return Failure::Misconfigured(format!("HTTP 200 with an HTML page{title}: another program"));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => of_record(engine, &value)
            .map_or_else(|| Failure::BadBody { detail: json_fault(error) }, |refusal| refusal.failure),
        Err(_) => no_json(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_put_in_the_order_of_their_texts_and_none_may_lack() {
        let listed = |items: &[(usize, f32)]| Listed {
            data: items.iter().map(|(index, value)| Item { index: Some(*index), embedding: vec![*value] }).collect(),
            usage: Usage { prompt_tokens: Some(3) },
        };
        assert_eq!(in_order(listed(&[(1, 0.5), (0, 0.25)])), Ok((vec![vec![0.25], vec![0.5]], Some(3))));
        assert_eq!(in_order(listed(&[(0, 0.5), (2, 0.25)])), Err("no vector of text 1".to_owned()));
        assert_eq!(in_order(listed(&[(0, 0.5), (0, 0.25)])), Err("no vector of text 1".to_owned()));
    }
}
