use std::time::Duration;

use serde_json::Value;

use super::SendableModel;
use crate::tasks::Message;

/// A sign of life of an open call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallActivity {
    /// Any bytes: response headers, a comment of an event stream, a record of whatever kind.
    Bytes,
    /// A piece of the answer, of reasoning, or a tool call.
    Token,
}

/// How long Ollama keeps the model in memory after this call. It sticks for later calls of the same session that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    For(Duration),
    Forever,
    Unload,
}

impl KeepAlive {
    /// As Ollama reads it: a Go duration, or a number of seconds of which a negative one means for ever.
    pub(super) fn to_json(self) -> Value {
        match self {
            // Never below a millisecond: zero would unload.
            KeepAlive::For(duration) => format!("{}ms", duration.as_millis().max(1)).into(),
            KeepAlive::Forever => (-1).into(),
            KeepAlive::Unload => 0.into(),
        }
    }
}

/// How the answer's tokens are chosen; what is `None` or empty is left to the server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub seed: Option<i64>,
    /// The answer ends before any of these.
    pub stop: Vec<String>,
}

/// One streamed chat completion.
#[derive(Debug, Clone)]
pub struct InferRequest {
    pub model: SendableModel,
    pub messages: Vec<Message>,
    pub max_tokens: u32,
    pub sampling: Sampling,
    /// JSON Schema that the answer is to match: Ollama and OpenAI-compatible servers are made to, MLX is told to. Whoever
    /// needs certainty checks the answer.
    pub schema: Option<Value>,
    /// Ask for token counts also where that takes a field which strict servers may not know (OpenAI); one that refuses it by
    /// name is asked again without.
    pub count: bool,
    /// Ollama only; `None` leaves the server's own choice, which is what politeness wants.
    pub keep_alive: Option<KeepAlive>,
    /// From sending the request to the first byte of the answer's body: a model that loads needs long.
    pub first_byte_timeout: Duration,
    /// The longest silence between two bytes; a comment that keeps the connection alive is no silence.
    pub stall_timeout: Duration,
    /// From sending the request to the end, whatever comes meanwhile.
    pub timeout: Duration,
}

impl InferRequest {
    /// A single message of the user, and nothing said about the rest.
    pub fn simple(model: SendableModel, prompt: impl Into<String>, max_tokens: u32, timeout: Duration) -> Self {
        Self {
            model,
            messages: vec![Message { role: "user".into(), content: prompt.into() }],
            max_tokens,
            sampling: Sampling::default(),
            schema: None,
            count: false,
            keep_alive: None,
            first_byte_timeout: timeout,
            stall_timeout: timeout,
            timeout,
        }
    }

    /// The canary's question: one token.
    pub fn canary(model: SendableModel, timeout: Duration) -> Self {
        Self::simple(model, "Say ok.", 1, timeout)
    }

    /// What the user says, in one text: what an embedding model is asked.
    pub(super) fn text(&self) -> String {
        let texts: Vec<&str> = self.messages.iter().map(|message| message.content.as_str()).collect();
        texts.join("\n")
    }
}

/// An inference that ended as it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferOutcome {
    /// The answer, without what the model reasoned before it.
    pub text: String,
    /// What the model reasoned before it answered; its beginning where it is very long.
    pub reasoning: String,
    pub tool_calls: u32,
    /// Why the answer ended, in the engine's words: `stop`, `length`, `tool_calls`. Some servers don't say.
    pub finish: Option<String>,
    /// As the engine counted where it says so, else the pieces seen. May be 0: the model had nothing to say.
    pub tokens: u32,
    /// Of the prompt, where the engine says so.
    pub prompt_tokens: Option<u32>,
    /// `max_tokens` ended the answer, not the model.
    pub cut_off: bool,
    /// From sending to the first piece of text, or to the end where there was none.
    pub first_token_after: Duration,
    pub total: Duration,
    /// As the engine measured it (Ollama only).
    pub eval_duration_per_token: Option<Duration>,
}

impl InferOutcome {
    /// Whether there is an answer: text or a tool call. Reasoning alone is none.
    pub fn has_content(&self) -> bool {
        self.tool_calls > 0 || !self.text.trim().is_empty()
    }
}

/// Asks for the vectors of texts.
#[derive(Debug, Clone)]
pub struct EmbedRequest {
    pub model: SendableModel,
    /// At least one.
    pub input: Vec<String>,
    /// Ollama only.
    pub keep_alive: Option<KeepAlive>,
    pub timeout: Duration,
}

/// Vectors, in the order of the texts.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbedOutcome {
    pub vectors: Vec<Vec<f32>>,
    pub prompt_tokens: Option<u32>,
    pub total: Duration,
}

/// Asks a server to prove that it serves a model: by one token of a chat, or by a vector.
#[derive(Debug, Clone)]
pub struct ProofRequest {
    pub model: SendableModel,
    /// Ollama only.
    pub keep_alive: Option<KeepAlive>,
    pub first_byte_timeout: Duration,
    pub stall_timeout: Duration,
    /// For all requests that the proof takes together.
    pub timeout: Duration,
    /// What worked last; it is asked first.
    pub hint: Option<ProofShape>,
}

impl ProofRequest {
    pub fn new(model: SendableModel, timeout: Duration) -> Self {
        Self { model, keep_alive: None, first_byte_timeout: timeout, stall_timeout: timeout, timeout, hint: None }
    }
}

/// How a proof is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofShape {
    Chat {
        max_tokens: u32,
        /// `max_completion_tokens` instead of `max_tokens`.
        newer_limit: bool,
        stream: bool,
    },
    Embedding,
}

impl ProofShape {
    /// One token, streamed: what nearly every server takes.
    pub const USUAL: ProofShape = ProofShape::Chat { max_tokens: 1, newer_limit: false, stream: true };

    pub fn as_str(self) -> &'static str {
        match self {
            ProofShape::Chat { .. } => "Chat",
            ProofShape::Embedding => "Embedding",
        }
    }
}

/// A served proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proved {
    /// The hint for the next proof.
    pub shape: ProofShape,
    /// From sending the request that was served to its first token or vector.
    pub first_token_after: Duration,
    /// Of all requests.
    pub total: Duration,
}
