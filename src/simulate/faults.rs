//! The faults, by name. `active` says when one is in force and how it is written; `catalog` documents each.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    active::{ActiveFault, When},
    replies::Like,
};

/// What goes wrong. As JSON `{"type": "status", "code": 500, "path": "/v1/models"}`, on the command line
/// `status:code=500,path=/v1/models`; either takes the fields of [`When`]. A `path` is a path, or `listings` (every GET), or
/// `inferences`; without one the fault concerns every request.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Inference stands still, also what runs already; listings answer. As on Ollama, unloading the model ends it, unless told
    /// otherwise.
    HangInference {
        #[serde(default)]
        survives_unload: bool,
    },
    /// Connections are accepted, nothing is answered.
    Hang {
        path: Option<String>,
    },
    /// Nothing listens on the port, and what was connected is cut off.
    Refuse {},
    /// Each request's connection is reset.
    Reset {
        path: Option<String>,
    },
    /// The connection of an inference is reset after so many tokens.
    ResetAfter {
        tokens: u32,
    },
    /// An HTTP status in place of the answer.
    Status {
        code: u16,
        path: Option<String>,
        retry_after_seconds: Option<u64>,
    },
    /// 200 and nothing, as mlx_lm answers on `/v1/models` without a hub cache.
    EmptyBody {
        path: Option<String>,
    },
    /// 200 and a page of HTML: another program.
    GarbageBody {
        path: Option<String>,
    },
    /// What a real engine was seen to answer, in place of the answer: to inferences unless the reply's own path or `path` says
    /// otherwise, and only to requests that match all the conditions given.
    Reply {
        like: Like,
        path: Option<String>,
        model: Option<String>,
        /// A text in the request's body.
        contains: Option<String>,
        /// Requests that ask for fewer tokens than this.
        below_tokens: Option<u32>,
    },
    /// Every path is redirected: to `login` (a page of HTML that answers 200), in a `loop`, to a URL, or, where `to` is an
    /// origin alone, to the same path there.
    Redirect {
        to: String,
        #[serde(default = "found")]
        code: u16,
        path: Option<String>,
    },
    /// Every answer comes late.
    Latency {
        millis: u64,
        path: Option<String>,
    },
    /// Time before the first token, in all or by the prompt's length; with `keepalive` it is filled by SSE comments.
    Prefill {
        seconds: Option<f64>,
        tokens_per_second: Option<f64>,
        #[serde(default)]
        keepalive: bool,
    },
    SlowTokens {
        tokens_per_second: f64,
    },
    /// Each inference yields so many tokens and then stands still.
    StallAfter {
        tokens: u32,
    },
    /// Streamed answers are malformed, or end wrongly after so many tokens.
    Stream {
        shape: Shape,
        #[serde(default)]
        after_tokens: u32,
    },
    /// The model says so many tokens, or as many as it may.
    LongAnswer {
        tokens: u32,
    },
    /// The model's context. Ollama cuts a longer prompt without a word, or refuses it when `truncate` is false; OpenAI servers
    /// refuse it; MLX knows none.
    Context {
        tokens: u32,
    },
    /// A client that goes away is not noticed: its call is worked to the end. MLX is so by itself where it does not stream.
    UnnoticedDisconnect {},
    /// The server lists no models and knows none: Ollama run by the wrong user.
    NoModels {},
    /// One model is gone; a pull brings it back.
    MissingModel {
        model: String,
    },
    /// Ollama lists a model that runs elsewhere.
    CloudModel {
        #[serde(default = "cloud")]
        model: String,
    },
    /// Chat is refused with a status; `/v1/embeddings` answers.
    EmbeddingsOnly {
        #[serde(default = "not_implemented")]
        code: u16,
    },
    /// A model takes so long to load; `cancelled` gives the load up when no client waits for it.
    SlowLoad {
        seconds: f64,
        #[serde(default)]
        cancelled: bool,
    },
    /// A model that is not in memory can't be loaded, for the engine's own reason.
    FailLoad {
        model: Option<String>,
    },
    /// Ollama's runner has died: every inference is answered 500, open ones break, nothing is in memory, listings are well.
    RunnerStopped {},
    /// `/api/ps` shows `expires_at` so long ago: "Stopping…".
    ExpiryInPast {
        seconds: f64,
    },
    /// Models are on the CPU: `size_vram` is 0.
    CpuOnly {},
    /// Other clients keep so many calls open, which take the engine's places and move `expires_at`.
    ForeignCalls {
        count: usize,
    },
    SlowPull {
        seconds: f64,
    },
    FailPull {},
    /// A pull repeats its line of 99 % for ever.
    StuckPull {},
    /// The process exits.
    Crash {
        #[serde(default = "one")]
        exit_code: i32,
    },
    /// The engine's own message of memory exhaustion on standard error, then SIGKILL (exit code 137).
    OutOfMemory {},
    /// SIGTERM ends the process only after so long.
    SlowExit {
        seconds: f64,
    },
}

fn one() -> i32 {
    1
}

fn found() -> u16 {
    302
}

fn not_implemented() -> u16 {
    501
}

fn cloud() -> String {
    "gpt-oss:120b-cloud".to_owned()
}

impl Fault {
    pub fn lasting(self, time: Duration) -> ActiveFault {
        self.when(When { for_seconds: Some(time.as_secs_f64()), ..When::default() })
    }

    pub fn when(self, when: When) -> ActiveFault {
        ActiveFault { fault: self, when }
    }

    pub(super) fn ends_the_process(&self) -> bool {
        matches!(self, Fault::Crash { .. } | Fault::OutOfMemory {})
    }

    /// Numbers that a duration or a status can't be made of are refused here, once.
    pub(super) fn check(&self) -> Result<(), String> {
        let rate = |value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err("tokens_per_second must be above 0".to_owned()),
        };
        match self {
            Fault::SlowLoad { seconds, .. }
            | Fault::SlowPull { seconds }
            | Fault::ExpiryInPast { seconds }
            | Fault::SlowExit { seconds } => duration(*seconds).map(drop),
            Fault::SlowTokens { tokens_per_second } => rate(*tokens_per_second),
            Fault::Prefill { seconds: Some(seconds), tokens_per_second: None, .. } => duration(*seconds).map(drop),
            Fault::Prefill { seconds: None, tokens_per_second: Some(value), .. } => rate(*value),
            Fault::Prefill { .. } => Err("one of seconds and tokens_per_second must be set".into()),
            Fault::Status { code, .. } if !(200..=599).contains(code) => Err("code must be 200 to 599".into()),
            Fault::EmbeddingsOnly { code } if !(400..=599).contains(code) => Err("code must be 400 to 599".into()),
            Fault::Redirect { code, .. } if !(300..=399).contains(code) => Err("code must be 300 to 399".into()),
            Fault::Redirect { to, .. } if to.parse::<axum::http::HeaderValue>().is_err() => {
                Err("to must be login, loop, a path or a URL".into())
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// How a streamed answer is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::VariantArray)]
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
