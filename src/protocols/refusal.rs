//! Refusals in each protocol's shape, as an answer or as the last frame of a stream that has begun.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Operation, Protocol,
    beat::{event, line, named_event},
};

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The request is wrong.
    Invalid,
    /// Whoever asks may not.
    Forbidden,
    /// No key, or a wrong one.
    Unauthenticated,
    UnknownModel,
    UnknownPath,
    TooLarge,
    /// The prompt is longer than the context of every model that could take it.
    PromptTooLong,
    /// The body has an encoding that is not read.
    Encoding,
    Upgrade,
    /// It came from a gateway.
    Loop,
    /// All servers are full for longer than one waits.
    Full,
    /// Whoever asks has used what it may of this day.
    Spent,
    /// A person ended it.
    Cancelled,
    /// No server can serve it now.
    Unavailable,
    /// The engine failed under it.
    EngineFailed,
    /// The engine took too long.
    EngineSilent,
}

impl RefusalReason {
    /// As metrics have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Forbidden => "Forbidden",
            Self::Unauthenticated => "Unauthenticated",
            Self::UnknownModel => "UnknownModel",
            Self::UnknownPath => "UnknownPath",
            Self::TooLarge => "TooLarge",
            Self::PromptTooLong => "PromptTooLong",
            Self::Encoding => "Encoding",
            Self::Upgrade => "Upgrade",
            Self::Loop => "Loop",
            Self::Full => "Full",
            Self::Spent => "Spent",
            Self::Cancelled => "Cancelled",
            Self::Unavailable => "Unavailable",
            Self::EngineFailed => "EngineFailed",
            Self::EngineSilent => "EngineSilent",
        }
    }
}

/// What whoever asked is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    pub message: String,
    pub field: Option<&'static str>,
    /// After which it may be asked again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: None, retry_after: None }
    }

    pub const fn status(&self) -> u16 {
        match self.reason {
            RefusalReason::Invalid | RefusalReason::PromptTooLong => 400,
            RefusalReason::Unauthenticated => 401,
            RefusalReason::Forbidden => 403,
            RefusalReason::UnknownModel | RefusalReason::UnknownPath => 404,
            RefusalReason::TooLarge => 413,
            RefusalReason::Encoding => 415,
            RefusalReason::Upgrade => 426,
            RefusalReason::Full | RefusalReason::Spent => 429,
            RefusalReason::EngineFailed => 502,
            RefusalReason::Unavailable | RefusalReason::Cancelled => 503,
            RefusalReason::EngineSilent => 504,
            RefusalReason::Loop => 508,
        }
    }

    /// OpenAI's `type` and `code`.
    const fn openai_words(&self) -> (&'static str, &'static str) {
        match self.reason {
            RefusalReason::Invalid => ("invalid_request_error", "invalid_request"),
            RefusalReason::Unauthenticated => ("authentication_error", "invalid_api_key"),
            RefusalReason::Forbidden => ("permission_error", "forbidden"),
            RefusalReason::UnknownModel => ("invalid_request_error", "model_not_found"),
            RefusalReason::UnknownPath => ("invalid_request_error", "unknown_url"),
            RefusalReason::TooLarge => ("invalid_request_error", "request_too_large"),
            RefusalReason::PromptTooLong => ("invalid_request_error", "context_length_exceeded"),
            RefusalReason::Encoding => ("invalid_request_error", "unsupported_encoding"),
            RefusalReason::Upgrade => ("invalid_request_error", "upgrade_not_supported"),
            RefusalReason::Loop => ("server_error", "loop_detected"),
            RefusalReason::Full => ("rate_limit_error", "servers_full"),
            RefusalReason::Spent => ("insufficient_quota", "insufficient_quota"),
            RefusalReason::Cancelled => ("server_error", "cancelled"),
            RefusalReason::Unavailable => ("server_error", "unavailable"),
            RefusalReason::EngineFailed => ("server_error", "engine_failed"),
            RefusalReason::EngineSilent => ("server_error", "engine_timeout"),
        }
    }

    /// Anthropic's `type`.
    const fn anthropic_word(&self) -> &'static str {
        match self.reason {
            RefusalReason::Invalid
            | RefusalReason::PromptTooLong
            | RefusalReason::Encoding
            | RefusalReason::Upgrade => "invalid_request_error",
            RefusalReason::Unauthenticated => "authentication_error",
            RefusalReason::Forbidden => "permission_error",
            RefusalReason::UnknownModel | RefusalReason::UnknownPath => "not_found_error",
            RefusalReason::TooLarge => "request_too_large",
            RefusalReason::Full | RefusalReason::Spent => "rate_limit_error",
            RefusalReason::Unavailable => "overloaded_error",
            RefusalReason::Cancelled
            | RefusalReason::Loop
            | RefusalReason::EngineFailed
            | RefusalReason::EngineSilent => "api_error",
        }
    }

    /// The JSON of an answer that is this refusal.
    pub fn body(&self, protocol: Protocol) -> Value {
        match protocol {
            Protocol::OpenAi => {
                let (kind, code) = self.openai_words();
                json!({"error": {"message": self.message, "type": kind, "param": self.field, "code": code}})
            }
            Protocol::Anthropic => {
                json!({"type": "error", "error": {"type": self.anthropic_word(), "message": self.message}})
            }
            Protocol::Ollama => json!({"error": self.message}),
        }
    }

    /// The frame that ends a stream without the mark of a whole answer.
    pub fn frame(&self, operation: Operation) -> String {
        let body = self.body(operation.protocol());
        match operation {
            Operation::Messages => named_event("error", &body),
            Operation::Responses => {
                let (_, code) = self.openai_words();
                named_event(
                    "error",
                    &json!({"type": "error", "code": code, "message": self.message, "param": self.field}),
                )
            }
            _ if operation.protocol() == Protocol::Ollama => line(&body),
            _ => event(&body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::{FrameSplitter, Meter};

    #[test]
    fn a_refusal_is_what_each_protocols_clients_read() {
        let refusal = Refusal { field: Some("model"), ..Refusal::new(RefusalReason::UnknownModel, "no such model") };
        assert_eq!(refusal.status(), 404);
        let openai = json!({"error": {"message": "no such model", "type": "invalid_request_error", "param": "model",
            "code": "model_not_found"}});
        assert_eq!(refusal.body(Protocol::OpenAi), openai);
        assert_eq!(refusal.body(Protocol::Ollama), json!({"error": "no such model"}));
        let anthropic = json!({"type": "error", "error": {"type": "not_found_error", "message": "no such model"}});
        assert_eq!(refusal.body(Protocol::Anthropic), anthropic);
    }

    #[test]
    fn the_last_frame_of_a_failed_stream_is_an_error_and_no_end() {
        let refusal = Refusal::new(RefusalReason::EngineFailed, "the engine died");
        for operation in Operation::ALL {
            let Some(framing) = operation.framing() else { continue };
            let mut meter = Meter::default();
            let frame = refusal.frame(operation);
            FrameSplitter::new(framing).push(frame.as_bytes(), |_, data| meter.read(operation, data.expect("short")));
            assert_eq!((meter.error.as_deref(), meter.is_whole), (Some("the engine died"), false), "{frame}");
        }
    }
}
