//! What the words of a refusal mean: servers use one status for many things. Pure.

use std::time::Duration;

use super::{EngineKind, Failure};

/// What a status and the words beside it mean; `words` are in lower case. 200 is an error within a stream without a code.
pub(super) fn of_words(
    engine: EngineKind,
    status: u16,
    retry_after: Option<Duration>,
    words: &str,
    detail: &str,
) -> Failure {
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    let detail = detail.to_owned();
    if matches!(status, 401..=403 | 407) || has(&["insufficient_quota"]) {
        return Failure::Unauthorized { status };
    }
    if status == 429 {
        return Failure::RateLimited { retry_after };
    }
    // A 422 repeats what was asked: its words are not the server's.
    if status != 422 && has(TOO_LARGE) {
        return Failure::ModelTooLarge { detail };
    }
    if status != 422 && has(OUT_OF_MEMORY) {
        return Failure::OutOfMemory { detail };
    }
    if status == 413 || has(TOO_LONG) {
        return Failure::PromptTooLong { detail };
    }
    if status != 422 && (has(CANNOT_LOAD) || (has(&["model type"]) && has(&["not supported"]))) {
        return Failure::CannotLoad { detail };
    }
    if (status >= 500 || status == 200) && has(LOADING) {
        return Failure::Loading { detail };
    }
    if status == 503 {
        return Failure::Busy { detail };
    }
    if matches!(status, 400 | 404 | 422 | 200) && is_missing_model(engine, words) {
        return Failure::ModelMissing { detail };
    }
    if has(REQUEST) && (status == 404 || status == 200) {
        return Failure::Rejected { status: if status == 200 { 400 } else { status }, detail };
    }
    match status {
        200 if has(&["rate_limit_exceeded", "rate limit"]) => Failure::RateLimited { retry_after: None },
        404 | 405 | 200 if is_unknown_path(words) => Failure::Misconfigured(format!("HTTP {status}: {detail}")),
        405 => Failure::Misconfigured(format!("HTTP 405: {detail}")),
        404 if words.is_empty() || words == "no explanation" => Failure::Misconfigured("HTTP 404 and no words".into()),
        404 if engine == EngineKind::Mlx => Failure::ServerError { status, detail },
        404 => Failure::ModelMissing { detail },
        501 => Failure::Rejected { status, detail },
        // 408: a proxy gave up; 424: what is behind it failed; 499: its other client left.
        200 | 408 | 424 | 499 | 500..=599 => Failure::ServerError { status, detail },
        _ => Failure::Rejected { status, detail },
    }
}

const TOO_LARGE: &[&str] = &["requires more system memory", "insufficient system resources"];

/// Metal (MLX), CUDA, ROCm, Vulkan and llama.cpp's allocators.
const OUT_OF_MEMORY: &[&str] = &[
    "metal::malloc",
    "resource limit exceeded",
    "out of memory",
    "outofmemory",
    "outofdevicememory",
    "insufficient memory",
    "cudamalloc failed",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "attempting to allocate",
];

const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size",
    "exceeds the context length",
    "exceeds the available context",
    "exceeds context",
    "exceeds the context",
    "exceeds maximum context",
    "maximum context length",
    "maximum model length",
    "longer than the maximum",
    "context window",
    "when context the overflows",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input too long",
    "input length exceeds",
    "is too large to process",
    "must have less than",
];

pub(super) const LOADING: &[&str] =
    &["loading model", "is loading", "still loading", "currently loading", "model not ready"];

const CANNOT_LOAD: &[&str] = &[
    "failed to load model",
    "error loading model",
    "unable to load model",
    "could not load model",
    "failed to load the model",
    "llama runner process has terminated",
    "waiting for llama runner to start",
    "model has crashed",
    "unknown model architecture",
    "no safetensors found",
];

/// Errors of a request that MLX answers with 404: the chat template's, the roles', the parameters'.
const REQUEST: &[&str] = &[
    "roles must alternate",
    "conversation roles",
    "template",
    "jinja",
    "system role",
    "role not supported",
    "unexpected message role",
    "only user",
    "no user query",
    "has no attribute",
    "'role'",
    "'content'",
    "is undefined",
    "content type is supported",
    "must be a list",
    "prompt must not be empty",
    "invalid_request_error",
];

/// mlx_lm's come from the hub's client; it answers 404 to any exception, so that nothing else counts there.
fn is_missing_model(engine: EngineKind, words: &str) -> bool {
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    let from_hub =
        has(&["repository not found", "cached snapshot folder", "snapshot folder", "huggingface", "repo id must"]);
    let named = words.contains("model")
        && has(&["not found", "does not exist", "not exist", "no such model", "model_not_found", "invalid model"]);
    let unloaded = words.contains("no models loaded");
    match engine {
        EngineKind::Mlx => from_hub || (named && !has(REQUEST)),
        EngineKind::Ollama | EngineKind::OpenAi => named || unloaded || words.contains("model_not_found"),
    }
}

/// The words of frameworks for a path that they don't know; LM Studio answers them with 200.
fn is_unknown_path(words: &str) -> bool {
    let words = words.trim().trim_end_matches(['.', '!']);
    ["not found", "404 page not found", "file not found not_found_error", "method not allowed"].contains(&words)
        || [
            "unexpected endpoint",
            "cannot post",
            "no route",
            "invalid url (post",
            "route not found",
            "unknown endpoint",
        ]
        .iter()
        .any(|one| words.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{Mlx, Ollama, OpenAi};

    #[test]
    fn words_tell_what_a_status_does_not() {
        let cases = [
            (Ollama, 404, "model 'x' not found", "ModelMissing"),
            (OpenAi, 404, "The model `x` does not exist or you do not have access to it.", "ModelMissing"),
            (OpenAi, 400, "No models loaded. Please load a model in the developer page.", "ModelMissing"),
            (OpenAi, 404, "Not Found", "Misconfigured"),
            (OpenAi, 404, "404 page not found", "Misconfigured"),
            (OpenAi, 404, "File Not Found not_found_error", "Misconfigured"),
            (Mlx, 404, "Not Found", "Misconfigured"),
            (OpenAi, 200, "Unexpected endpoint or method. (POST /api/chat). Returning 200 anyway", "Misconfigured"),
            (
                Mlx,
                404,
                "404 Client Error. Repository Not Found for url: https://huggingface.co/api/models/x",
                "ModelMissing",
            ),
            (Mlx, 404, "Cannot find an appropriate cached snapshot folder for the specified revision", "ModelMissing"),
            (Mlx, 404, "Conversation roles must alternate user/assistant/user/assistant/...", "Rejected"),
            (Mlx, 404, "System role not supported", "Rejected"),
            (Mlx, 404, "'dict object' has no attribute 'content'", "Rejected"),
            (Mlx, 404, "No user query found in messages.", "Rejected"),
            (Mlx, 404, "[metal::malloc] Resource limit (499000) exceeded.", "OutOfMemory"),
            (Mlx, 404, "Resource limit exceeded", "OutOfMemory"),
            (Mlx, 404, "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPU)", "OutOfMemory"),
            (Mlx, 404, "Model type foo not supported.", "CannotLoad"),
            (Mlx, 404, "generation thread died", "ServerError"),
            (Mlx, 404, "list index out of range", "ServerError"),
            (OpenAi, 500, "CUDA out of memory. Tried to allocate 2.00 GiB", "OutOfMemory"),
            (Ollama, 500, "llama runner process has terminated: cudaMalloc failed: out of memory", "OutOfMemory"),
            (Ollama, 500, "llama runner process has terminated: exit status 2", "CannotLoad"),
            (Ollama, 500, "llama runner process has terminated: error loading model: unknown", "CannotLoad"),
            (Ollama, 500, "model requires more system memory (8.0 GiB) than is available (2.0 GiB)", "ModelTooLarge"),
            (
                Ollama,
                500,
                "model runner has unexpectedly stopped, this may be due to resource limitations",
                "ServerError",
            ),
            (Ollama, 500, "unexpected server status: llm server loading model", "Loading"),
            (OpenAi, 400, "Failed to load model \"x\". Error: no such file.", "CannotLoad"),
            (OpenAi, 400, "Model loading was stopped due to insufficient system resources.", "ModelTooLarge"),
            (OpenAi, 400, "The model has crashed without additional information. (Exit code: 6)", "CannotLoad"),
            (OpenAi, 503, "Loading model", "Loading"),
            (OpenAi, 503, "Model x is currently loading", "Loading"),
            (OpenAi, 503, "no slot available", "Busy"),
            (Ollama, 400, "the input length exceeds the context length", "PromptTooLong"),
            (
                OpenAi,
                400,
                "This model's maximum context length is 4096 tokens. However, you requested 5000",
                "PromptTooLong",
            ),
            (OpenAi, 400, "the request exceeds the available context size. try increasing it", "PromptTooLong"),
            (OpenAi, 400, "Trying to keep the first 4096 tokens when context the overflows.", "PromptTooLong"),
            (OpenAi, 500, "input is too large to process. increase the physical batch size", "PromptTooLong"),
            (OpenAi, 400, "Could not finish the message because max_tokens was reached", "Rejected"),
            (OpenAi, 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "Rejected"),
            (OpenAi, 422, "the prompt is: CUDA out of memory", "Rejected"),
            (OpenAi, 501, "This server does not support completions. Start it without `--embeddings`", "Rejected"),
            (OpenAi, 424, "Request failed during generation", "ServerError"),
            (Ollama, 200, "pull model manifest: file does not exist", "ModelMissing"),
            (Ollama, 200, "pull model manifest: Get \"https://registry\": dial tcp: connection refused", "ServerError"),
            (Ollama, 400, "invalid model name", "ModelMissing"),
        ];
        for (engine, status, words, variant) in cases {
            let failure = of_words(engine, status, None, &words.to_lowercase(), words);
            let named = format!("{failure:?}");
            assert!(named.starts_with(variant), "{engine} {status} {words}: {named}");
        }
    }
}
