use std::time::Duration;

use super::SendableModel;

/// How long Ollama keeps the model in memory after this call. It sticks for later calls of the same session that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
    Unload,
}

impl KeepAlive {
    /// As Ollama reads it: a Go duration, or a number of seconds of which a negative one means for ever.
    pub(super) fn to_json(self) -> serde_json::Value {
        match self {
            // Never below a millisecond: zero would unload.
            KeepAlive::For(duration) => format!("{}ms", duration.as_millis().max(1)).into(),
            KeepAlive::Forever => (-1).into(),
            KeepAlive::Unload => 0.into(),
        }
    }
}

/// One chat completion of a single user message.
#[derive(Debug, Clone)]
pub struct InferRequest {
    pub model: SendableModel,
    pub prompt: String,
    pub max_tokens: u32,
    /// Ollama only; `None` leaves the server's own choice, which is what politeness wants.
    pub keep_alive: Option<KeepAlive>,
    /// From sending the request to the first token: a model that loads needs long.
    pub first_token_timeout: Duration,
    /// From sending the request to the end.
    pub timeout: Duration,
}

impl InferRequest {
    /// The canary's question: one token.
    pub fn canary(model: SendableModel, timeout: Duration) -> Self {
        Self { model, prompt: "Say ok.".into(), max_tokens: 1, keep_alive: None, first_token_timeout: timeout, timeout }
    }
}

/// An inference that ended as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferOutcome {
    /// As the engine counted where it says so, else the pieces seen. May be 0: the model had nothing to say.
    pub tokens: u32,
    /// From sending to the first piece of text, or to the end where there was none.
    pub first_token_after: Duration,
    pub total: Duration,
    /// As the engine measured it (Ollama only).
    pub eval_duration_per_token: Option<Duration>,
}
