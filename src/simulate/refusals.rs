//! Why no inference begins or one breaks, in each engine's words.

use axum::response::Response;
use serde_json::{Value, json};

use crate::engines::EngineKind;

use super::replies::{LOAD_FAILED, NEEDS_MORE_MEMORY, RUNNER_STOPPED};
use super::reply;
use super::state::{NoPlace, SimulatedState};

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
