//! Asks a server to prove that it serves a model, in the form that it takes: most take one token of a chat, some insist on
//! more tokens, another field or no stream, and some only embed.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

use super::chat::{self, ChatDialect};
use super::stream::CallError;
use super::{
    Blame, CallActivity, EmbedRequest, Endpoint, Engine, EngineError, EngineKind, Failure, InferRequest, ProofRequest,
    ProofShape, Proved, embed, ollama,
};

/// What servers that refuse one token ask for at least.
const MORE_TOKENS: u32 = 16;
/// What an answer of so few tokens may take after the first, until it is broken off.
const REST: Duration = Duration::from_secs(2);

pub(super) async fn prove<E: Engine + ?Sized>(
    engine: &E,
    at: &Endpoint,
    request: &ProofRequest,
    on_activity: &mut (dyn FnMut(CallActivity) + Send),
) -> Result<Proved, EngineError> {
    let started = Instant::now();
    let mut tried = Vec::new();
    let mut shape = request.hint.unwrap_or(ProofShape::USUAL);
    let mut refused_chat = None;
    loop {
        tried.push(shape);
        let error = match ask(engine, at, request, shape, started, on_activity).await {
            Ok(first_token_after) => return Ok(Proved { shape, first_token_after, total: started.elapsed() }),
            Err(error) => error,
        };
        if let Some(next) = next_shape(engine.kind(), &tried, &error)
            && started.elapsed() < request.timeout
        {
            if shape != ProofShape::Embedding {
                refused_chat = Some(error);
            }
            shape = next;
            continue;
        }
        // That it can't embed either is not what is wrong with a server that was to chat.
        let is_refusal = matches!(error.failure.fault(), Blame::Request | Blame::Configuration);
        return Err(match refused_chat {
            Some(first) if is_refusal && shape == ProofShape::Embedding => {
                first.of_call(at, path(engine.kind(), ProofShape::USUAL), &request.model)
            }
            _ => error.of_call(at, path(engine.kind(), shape), &request.model),
        });
    }
}

fn path(engine: EngineKind, shape: ProofShape) -> &'static str {
    match (engine, shape) {
        (EngineKind::Ollama, ProofShape::Chat { .. }) => ollama::PATH,
        (EngineKind::Ollama, ProofShape::Embedding) => embed::OLLAMA_PATH,
        (EngineKind::Mlx | EngineKind::OpenAi, ProofShape::Chat { .. }) => chat::PATH,
        (EngineKind::Mlx | EngineKind::OpenAi, ProofShape::Embedding) => embed::OPENAI_PATH,
    }
}

/// One request; the time until its first token or vector.
async fn ask<E: Engine + ?Sized>(
    engine: &E,
    at: &Endpoint,
    request: &ProofRequest,
    shape: ProofShape,
    started: Instant,
    on_activity: &mut (dyn FnMut(CallActivity) + Send),
) -> Result<std::time::Duration, CallError> {
    let left = request.timeout.saturating_sub(started.elapsed());
    let mut asked = InferRequest::canary(request.model.clone(), left);
    match shape {
        ProofShape::Embedding => {
            let asked = EmbedRequest {
                model: request.model.clone(),
                input: vec![asked.text()],
                keep_alive: request.keep_alive,
                timeout: left.min(request.first_byte_timeout),
            };
            let outcome = engine.embed(at, &asked).await.map_err(|error| error.failure)?;
            on_activity(CallActivity::Token);
            Ok(outcome.total)
        }
        ProofShape::Chat { max_tokens, newer_limit, stream } => {
            asked.max_tokens = max_tokens;
            asked.keep_alive = request.keep_alive;
            (asked.first_byte_timeout, asked.stall_timeout) = (request.first_byte_timeout, request.stall_timeout);
            let (first, began) = (OnceLock::new(), Instant::now());
            let mut noted = |activity| {
                if activity == CallActivity::Token {
                    let _ = first.set(Instant::now());
                }
                on_activity(activity);
            };
            let answer = async {
                match engine.kind() {
                    EngineKind::Ollama => ollama::infer(at, &asked, stream, &mut noted).await,
                    kind @ (EngineKind::Mlx | EngineKind::OpenAi) => {
                        let limit_field = if newer_limit { "max_completion_tokens" } else { "max_tokens" };
                        let dialect =
                            ChatDialect { limit_field, stream, ask_usage: false, ..ChatDialect::of(kind, &asked) };
                        chat::infer(kind, at, &asked, &dialect, &mut noted).await
                    }
                }
            };
            tokio::select! {
                outcome = answer => Ok(outcome?.first_token_after),
                at = enough(&first) => Ok(at.duration_since(began)),
            }
        }
    }
}

/// When the first token came, some time after that: a server that takes no notice of the limit has proved itself all the same.
async fn enough(first: &OnceLock<Instant>) -> Instant {
    loop {
        tokio::time::sleep(REST).await;
        if let Some(at) = first.get().filter(|at| at.elapsed() >= REST) {
            return *at;
        }
    }
}

/// What to try after the last of `tried` was refused, if its form may be why. Each change is made once.
fn next_shape(engine: EngineKind, tried: &[ProofShape], error: &CallError) -> Option<ProofShape> {
    let last = *tried.last()?;
    let new = |shape: ProofShape| (!tried.contains(&shape)).then_some(shape);
    let no_such_path = matches!(error.status, Some(404 | 405 | 501));
    let words = match &error.failure {
        Failure::Rejected { detail, .. } | Failure::PromptTooLong { detail } => detail.to_lowercase(),
        Failure::Misconfigured(_) if no_such_path => String::new(),
        Failure::Unsupported { .. } if last == ProofShape::Embedding => String::new(),
        // Nothing that another form of the request would change.
        _ => return None,
    };
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    let ProofShape::Chat { max_tokens, newer_limit, stream } = last else {
        // The hint no longer holds.
        return new(ProofShape::USUAL);
    };
    let only_embeds = has(&["embed", "pooling"])
        || (words.contains("chat") && has(&["support", "not available", "not a chat", "not enabled"]));
    if no_such_path || only_embeds {
        return new(ProofShape::Embedding).filter(|_| engine != EngineKind::Mlx);
    }
    let newer = ProofShape::Chat { max_tokens, newer_limit: true, stream };
    let more = ProofShape::Chat { max_tokens: max_tokens.max(MORE_TOKENS), newer_limit, stream };
    let whole = ProofShape::Chat { max_tokens, newer_limit, stream: false };
    let takes_newer = engine == EngineKind::OpenAi;
    if has(&["max_completion_tokens"]) && takes_newer && !newer_limit {
        return new(newer);
    }
    if has(&["max_tokens", "max_output_tokens", ">= 16", "minimum", "at least", "could not finish", "num_predict"])
        && max_tokens < MORE_TOKENS
    {
        return new(more);
    }
    if has(&["stream"]) && stream {
        return new(whole);
    }
    [(takes_newer && !newer_limit).then_some(newer), Some(more), Some(whole)].into_iter().flatten().find_map(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn chat(max_tokens: u32, newer_limit: bool, stream: bool) -> ProofShape {
        ProofShape::Chat { max_tokens, newer_limit, stream }
    }

    fn rejected(status: u16, detail: &str) -> CallError {
        CallError { failure: Failure::Rejected { status, detail: detail.into() }, status: Some(status) }
    }

    #[test]
    fn a_refusal_of_the_requests_form_is_answered_by_another_form() {
        use EngineKind::{Mlx, Ollama, OpenAi};
        let unknown = |status| CallError { failure: Failure::Misconfigured("x".into()), status };
        let usual = ProofShape::USUAL;
        let cases = [
            (OpenAi, vec![usual], rejected(400, "Use 'max_completion_tokens' instead."), Some(chat(1, true, true))),
            (OpenAi, vec![usual], rejected(400, "Expected a value >= 16"), Some(chat(16, false, true))),
            (
                OpenAi,
                vec![usual, chat(1, true, true)],
                rejected(400, "Could not finish the message because max_tokens or model output limit was reached."),
                Some(chat(16, true, true)),
            ),
            (OpenAi, vec![usual], rejected(400, "streaming is not supported"), Some(chat(1, false, false))),
            (OpenAi, vec![usual], rejected(400, "bad request"), Some(chat(1, true, true))),
            (OpenAi, vec![usual, chat(1, true, true)], rejected(422, "bad request"), Some(chat(16, true, true))),
            (
                OpenAi,
                vec![usual, chat(1, true, true), chat(16, true, true)],
                rejected(400, "bad request"),
                Some(chat(16, true, false)),
            ),
            (
                OpenAi,
                vec![usual, chat(1, true, true), chat(16, true, true), chat(16, true, false)],
                rejected(400, "bad request"),
                None,
            ),
            (
                OpenAi,
                vec![usual],
                rejected(501, "This server does not support completions."),
                Some(ProofShape::Embedding),
            ),
            (
                OpenAi,
                vec![usual],
                rejected(400, "The model does not support Chat Completions API"),
                Some(ProofShape::Embedding),
            ),
            (OpenAi, vec![usual], unknown(Some(404)), Some(ProofShape::Embedding)),
            (OpenAi, vec![usual], unknown(Some(405)), Some(ProofShape::Embedding)),
            (OpenAi, vec![usual], unknown(Some(302)), None),
            (OpenAi, vec![usual], unknown(None), None),
            (Ollama, vec![usual], rejected(400, "\"m\" does not support chat"), Some(ProofShape::Embedding)),
            (Ollama, vec![usual], rejected(400, "bad request"), Some(chat(16, false, true))),
            (Mlx, vec![usual], unknown(Some(404)), None),
            (OpenAi, vec![ProofShape::Embedding], rejected(400, "not embeddable"), Some(usual)),
            (OpenAi, vec![ProofShape::Embedding], unknown(Some(404)), Some(usual)),
            (OpenAi, vec![usual, ProofShape::Embedding], rejected(404, "x"), None),
            (OpenAi, vec![usual], Failure::Unauthorized { status: 402 }.into(), None),
            (OpenAi, vec![usual], Failure::ServerError { status: 500, detail: "stream".into() }.into(), None),
            (OpenAi, vec![usual], Failure::ModelMissing { detail: "x".into() }.into(), None),
        ];
        for (engine, tried, error, next) in cases {
            assert_eq!(next_shape(engine, &tried, &error), next, "{engine} {tried:?} {error:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_ignores_the_limit_is_proved_by_its_first_token() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        crate::net::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = reqwest::Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 8192]).await;
            let mut next = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            while connection.write_all(next.as_bytes()).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
                next = "data: {\"choices\": [{\"delta\": {\"content\": \"more \"}}]}\n\n";
            }
        });
        let request = ProofRequest::new(crate::engines::SendableModel::mlx_default(), Duration::from_secs(60));
        let endpoint = Endpoint::new(crate::net::HttpClient::direct().unwrap(), base, None);
        let server = crate::engines::engine(EngineKind::OpenAi);
        let proved = server.prove(&endpoint, &request, &mut |_| {}).await.unwrap();
        assert!(proved.first_token_after < Duration::from_secs(10), "{proved:?}");
    }

    #[test]
    fn no_server_is_asked_in_more_than_a_few_forms() {
        for engine in EngineKind::ALL {
            for words in [
                "",
                "max_tokens",
                "max_completion_tokens",
                "stream",
                "stream max_tokens max_completion_tokens",
                "embed",
            ] {
                let mut tried = vec![ProofShape::USUAL];
                while let Some(next) = next_shape(engine, &tried, &rejected(400, words)) {
                    tried.push(next);
                    assert!(tried.len() <= 5, "{engine} {words}: {tried:?}");
                }
            }
        }
    }
}
