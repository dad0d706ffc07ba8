//! Vectors of texts: `/api/embed` (Ollama) and `/v1/embeddings` (OpenAI).

use reqwest::{Method, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::probe::read_bounded;
use super::status::of_response;
use super::transport::Broken;
use super::{EmbedOutcome, EmbedRequest, Endpoint, EngineError, EngineKind, Failure};

/// A thousand vectors of four thousand numbers, written out.
const MAX_BYTES: usize = 96 << 20;

pub(super) async fn ollama(at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
    const PATH: &str = "/api/embed";
    #[derive(Deserialize)]
    struct Answer {
        embeddings: Vec<Vec<f32>>,
        prompt_eval_count: Option<u32>,
    }
    let mut body = json!({"model": request.model.as_str(), "input": request.input});
    if let Some(keep_alive) = request.keep_alive {
        body["keep_alive"] = keep_alive.to_json();
    }
    ask(EngineKind::Ollama, at, PATH, request, at.request(Method::POST, PATH).json(&body), |answer: Answer| {
        Ok((answer.embeddings, answer.prompt_eval_count))
    })
    .await
}

pub(super) async fn openai(at: &Endpoint, request: &EmbedRequest) -> Result<EmbedOutcome, EngineError> {
    const PATH: &str = "/v1/embeddings";
    let body = json!({"model": request.model.as_str(), "input": request.input, "encoding_format": "float"});
    ask(EngineKind::OpenAi, at, PATH, request, at.request(Method::POST, PATH).json(&body), in_order).await
}

#[derive(Deserialize)]
struct Listed {
    data: Vec<Item>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Default, Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
}

/// Each vector says which text it belongs to.
fn in_order(mut answer: Listed) -> Result<(Vec<Vec<f32>>, Option<u32>), String> {
    answer.data.sort_by_key(|item| item.index);
    match answer.data.iter().enumerate().find(|(place, item)| *place != item.index) {
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
    let broken = |broken: Broken| failed(broken.failure(0, started.elapsed()));
    let body = match tokio::time::timeout(request.timeout, receive(engine, built)).await {
        Ok(Ok(received)) => received.map_err(failed)?,
        Ok(Err(error)) => return Err(broken(Broken::of(&error))),
        Err(_elapsed) => return Err(broken(Broken::Timeout)),
    };
    let bad = |detail: String| failed(Failure::BadBody { detail });
    let answer: T = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let (vectors, prompt_tokens) = read(answer).map_err(bad)?;
    if vectors.len() != request.input.len() || vectors.iter().any(Vec::is_empty) {
        return Err(bad(format!("{} vectors for {} texts, or empty ones", vectors.len(), request.input.len())));
    }
    Ok(EmbedOutcome { vectors, prompt_tokens, total: started.elapsed() })
}

async fn receive(engine: EngineKind, request: RequestBuilder) -> Result<Result<Vec<u8>, Failure>, reqwest::Error> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    if status.is_success() {
        whole(response).await
    } else {
        Ok(Err(of_response(engine, status, &headers, &read_bounded(response).await?)))
    }
}

async fn whole(mut response: Response) -> Result<Result<Vec<u8>, Failure>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Ok(Err(Failure::BadBody { detail: format!("an answer longer than {MAX_BYTES} bytes") }));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Ok(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_put_in_the_order_of_their_texts_and_none_may_lack() {
        let listed = |items: &[(usize, f32)]| Listed {
            data: items.iter().map(|(index, value)| Item { index: *index, embedding: vec![*value] }).collect(),
            usage: Usage { prompt_tokens: Some(3) },
        };
        assert_eq!(in_order(listed(&[(1, 0.5), (0, 0.25)])), Ok((vec![vec![0.25], vec![0.5]], Some(3))));
        assert_eq!(in_order(listed(&[(0, 0.5), (2, 0.25)])), Err("no vector of text 1".to_owned()));
        assert_eq!(in_order(listed(&[(0, 0.5), (0, 0.25)])), Err("no vector of text 1".to_owned()));
    }
}
