//! What real servers were seen to answer in place of an answer, by name.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    reply,
    state::{NoPlace, SimulatedState},
};
use crate::engines::EngineKind;

/// A reply of a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::VariantArray)]
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

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SimulatedRefusal {
    UnknownModel,
    QueueFull,
    LoadFailed,
    RunnerStopped,
    TooLong { limit: u32, asked: u32 },
}

impl From<NoPlace> for SimulatedRefusal {
    fn from(why: NoPlace) -> Self {
        match why {
            NoPlace::QueueFull => Self::QueueFull,
            NoPlace::LoadFailed => Self::LoadFailed,
        }
    }
}

const QUEUE_FULL: &str = "server busy, please try again.  maximum pending requests exceeded";

/// On Ollama's own paths.
pub(super) fn ollama(why: SimulatedRefusal, model: &str) -> Response {
    let (status, message) = ollama_words(why, model);
    reply::json(status, &json!({"error": message}))
}

fn ollama_words(why: SimulatedRefusal, model: &str) -> (u16, String) {
    match why {
        SimulatedRefusal::UnknownModel => (404, format!("model '{model}' not found")),
        SimulatedRefusal::QueueFull => (503, QUEUE_FULL.to_owned()),
        SimulatedRefusal::LoadFailed => (500, NEEDS_MORE_MEMORY.to_owned()),
        SimulatedRefusal::RunnerStopped => (500, RUNNER_STOPPED.to_owned()),
        SimulatedRefusal::TooLong { .. } => (400, "the input length exceeds the context length".to_owned()),
    }
}

/// On the paths of OpenAI's protocol.
pub(super) fn openai(shared: &SimulatedState, why: SimulatedRefusal, model: &str) -> Response {
    match shared.options.engine {
        EngineKind::Ollama => {
            let (status, message) = ollama_words(why, model);
            typed(status, &message, "api_error", Value::Null)
        }
        EngineKind::Mlx => mlx(shared, why, model),
        EngineKind::OpenAi => match why {
            SimulatedRefusal::UnknownModel => {
                let message = format!("The model `{model}` does not exist or you do not have access to it.");
                typed(404, &message, "invalid_request_error", "model_not_found".into())
            }
            SimulatedRefusal::QueueFull => typed(503, QUEUE_FULL, "api_error", Value::Null),
            SimulatedRefusal::LoadFailed => reply::json(400, &json!({"error": LOAD_FAILED})),
            SimulatedRefusal::RunnerStopped => typed(500, "Internal server error", "InternalServerError", 500.into()),
            SimulatedRefusal::TooLong { limit, asked } => {
                let message = format!(
                    "This model's maximum context length is {limit} tokens. However, you requested {asked} tokens in the \
                     messages. Please reduce the length of the messages."
                );
                typed(400, &message, "BadRequestError", 400.into())
            }
        },
    }
}

/// A 404 to any exception.
fn mlx(shared: &SimulatedState, why: SimulatedRefusal, model: &str) -> Response {
    let message = match why {
        SimulatedRefusal::UnknownModel => {
            // It drops what it has before it looks for what it has not.
            shared.evict_all();
            format!(
                "Cannot find an appropriate cached snapshot folder for the specified revision on the local disk and \
                 outgoing traffic has been disabled: {model}"
            )
        }
        SimulatedRefusal::LoadFailed => "[metal::malloc] Resource limit (499000) exceeded.".to_owned(),
        SimulatedRefusal::QueueFull | SimulatedRefusal::RunnerStopped | SimulatedRefusal::TooLong { .. } => {
            "simulated failure".to_owned()
        }
    };
    reply::json(404, &json!({"error": message}))
}

fn typed(status: u16, message: &str, kind: &str, code: Value) -> Response {
    reply::json(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}
