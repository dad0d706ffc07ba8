//! What real servers were seen to answer in place of an answer, by name.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::reply;

/// A reply of a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Like {
    /// llama.cpp, on every path while it loads.
    LoadingModel,
    /// LM Studio.
    LoadFailed,
    /// Ollama.
    NeedsMoreMemory,
    /// Ollama; `/api/ps` is left alone, unlike by `runner-stopped`.
    RunnerStopped,
    /// MLX: its 404 to any exception.
    MetalResourceLimit,
    /// MLX: the fault of one request.
    BadRoles,
    /// MLX: to requests without a length.
    LengthRequired,
    /// OpenAI.
    MaxTokensReached,
    /// OpenAI and Azure.
    MinimumTokens,
    /// OpenRouter.
    InsufficientCredits,
    /// FastAPI.
    MethodNotAllowed,
    /// llama.cpp.
    NotImplemented,
    /// vLLM.
    ContextLength,
}

impl Like {
    pub const ALL: [Self; 13] = [
        Self::LoadingModel,
        Self::LoadFailed,
        Self::NeedsMoreMemory,
        Self::RunnerStopped,
        Self::MetalResourceLimit,
        Self::BadRoles,
        Self::LengthRequired,
        Self::MaxTokensReached,
        Self::MinimumTokens,
        Self::InsufficientCredits,
        Self::MethodNotAllowed,
        Self::NotImplemented,
        Self::ContextLength,
    ];

    /// Where it is given when no path is named: everywhere (`None`), or to inferences.
    pub(super) fn usual_path(self) -> Option<&'static str> {
        if self == Self::LoadingModel { None } else { Some("inferences") }
    }

    pub(super) fn response(self) -> Response {
        let (status, body) = self.said();
        reply::json(status, &body)
    }

    /// The status and body of it.
    fn said(self) -> (u16, serde_json::Value) {
        let error = |message: &str, kind: &str, code: serde_json::Value| json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
        match self {
            Self::LoadingModel => {
                (503, json!({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}))
            }
            Self::LoadFailed => (400, json!({"error": LOAD_FAILED})),
            Self::NeedsMoreMemory => (500, json!({"error": NEEDS_MORE_MEMORY})),
            Self::RunnerStopped => (500, json!({"error": RUNNER_STOPPED})),
            Self::MetalResourceLimit => (404, json!({"error": "[metal::malloc] Resource limit (499000) exceeded."})),
            Self::BadRoles => {
                (404, json!({"error": "Conversation roles must alternate user/assistant/user/assistant/..."}))
            }
            Self::LengthRequired => (411, json!({"error": "Content-Length header is required"})),
            Self::MaxTokensReached => {
                let message = "Could not finish the message because max_tokens or model output limit was reached. Please \
                               try again with higher max_tokens.";
                (400, error(message, "invalid_request_error", serde_json::Value::Null))
            }
            Self::MinimumTokens => {
                let message = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got \
                               1 instead.";
                (400, error(message, "invalid_request_error", "integer_below_min_value".into()))
            }
            Self::InsufficientCredits => {
                let message = "Insufficient credits. Add more using https://openrouter.ai/settings/credits";
                (402, json!({"error": {"message": message, "code": 402}}))
            }
            Self::MethodNotAllowed => (405, json!({"detail": "Method Not Allowed"})),
            Self::NotImplemented => {
                let message = "This server does not support chat completions. Start it without `--embeddings`";
                (501, json!({"error": {"message": message, "type": "not_supported_error", "code": 501}}))
            }
            Self::ContextLength => {
                let message = "This model's maximum context length is 4096 tokens. However, you requested 8192 tokens in \
                               the messages. Please reduce the length of the messages.";
                (400, error(message, "BadRequestError", 400.into()))
            }
        }
    }
}

pub(super) const LOAD_FAILED: &str =
    "Failed to load model \"simulated\". Error: Model loading was stopped due to insufficient system resources.";
pub(super) const NEEDS_MORE_MEMORY: &str = "model requires more system memory (8.4 GiB) than is available (2.1 GiB)";
pub(super) const RUNNER_STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check ollama \
                                         server logs for details";

/// What a server of embeddings alone says to a chat.
pub(super) fn no_chat(code: u16) -> Response {
    match code {
        501 => Like::NotImplemented.response(),
        405 => Like::MethodNotAllowed.response(),
        404 => reply::json(404, &json!({"detail": "Not Found"})),
        _ => {
            let message = "The model does not support Chat Completions API";
            reply::json(
                code,
                &json!({"error": {"message": message, "type": "BadRequestError", "param": null, "code": code}}),
            )
        }
    }
}
