//! Streams that are malformed or end wrongly, by name.

use serde::{Deserialize, Serialize};

/// How a streamed answer is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// `data: {"error": {…}}`, then `[DONE]`: vLLM, OpenRouter. On Ollama's own paths every error is `{"error": "…"}`.
    ErrorField,
    /// `data: {"error": "…"}`, then `[DONE]`.
    ErrorString,
    /// `error: {"code": 500, …}`, then `[DONE]`: llama.cpp.
    ErrorPrefix,
    /// `data: {"object": "error", …}`, then `[DONE]`: older vLLM.
    ErrorObject,
    /// `data: {"detail": "…"}`, then `[DONE]`: FastAPI.
    ErrorDetail,
    /// `event: error` before its data.
    ErrorEvent,
    /// `[DONE]` without a finish reason; after no token without content, too.
    OnlyDone,
    /// A finish reason after no content.
    NoContent,
    /// The answer's end without finish reason or `[DONE]`; after no token an empty 200.
    Cut,
    /// After the finish reason the connection stays open.
    NeverCloses,
    /// One JSON object, as if no stream had been asked for.
    WholeJson,
    /// The same, and `data: [DONE]`.
    WholeJsonDone,
    /// `message` where `delta` should be.
    MessageForDelta,
    /// A byte order mark before the first record.
    ByteOrderMark,
    /// Lines end with CR and LF.
    CrLf,
}

impl Shape {
    pub const ALL: [Self; 15] = [
        Self::ErrorField,
        Self::ErrorString,
        Self::ErrorPrefix,
        Self::ErrorObject,
        Self::ErrorDetail,
        Self::ErrorEvent,
        Self::OnlyDone,
        Self::NoContent,
        Self::Cut,
        Self::NeverCloses,
        Self::WholeJson,
        Self::WholeJsonDone,
        Self::MessageForDelta,
        Self::ByteOrderMark,
        Self::CrLf,
    ];

    /// The last text of a stream that it breaks.
    pub(super) fn last_text(self, sse: bool) -> Option<String> {
        let message = "simulated failure";
        let text = match (self, sse) {
            (Self::OnlyDone, true) => DONE.to_owned(),
            (Self::Cut, _) | (Self::OnlyDone, false) => String::new(),
            (
                Self::ErrorField
                | Self::ErrorString
                | Self::ErrorPrefix
                | Self::ErrorObject
                | Self::ErrorDetail
                | Self::ErrorEvent,
                false,
            ) => format!("{{\"error\":\"{message}\"}}\n"),
            (Self::ErrorField, true) => format!(
                "data: {{\"error\":{{\"message\":\"{message}\",\"type\":\"server_error\",\"code\":500}}}}\n\n{DONE}"
            ),
            (Self::ErrorString, true) => format!("data: {{\"error\":\"{message}\"}}\n\n{DONE}"),
            (Self::ErrorPrefix, true) => {
                format!("error: {{\"code\":500,\"message\":\"{message}\",\"type\":\"server_error\"}}\n\n{DONE}")
            }
            (Self::ErrorObject, true) => format!(
                "data: {{\"object\":\"error\",\"message\":\"{message}\",\"type\":\"InternalServerError\",\"code\":500}}\n\n{DONE}"
            ),
            (Self::ErrorDetail, true) => format!("data: {{\"detail\":\"{message}\"}}\n\n{DONE}"),
            (Self::ErrorEvent, true) => {
                format!("event: error\ndata: {{\"message\":\"{message}\",\"code\":500}}\n\n{DONE}")
            }
            _ => return None,
        };
        Some(text)
    }

    pub(super) fn is_whole(self) -> bool {
        matches!(self, Self::WholeJson | Self::WholeJsonDone)
    }
}

pub(super) const DONE: &str = "data: [DONE]\n\n";
