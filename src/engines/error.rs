use std::time::Duration;

use super::EngineKind;
use crate::net::Broken;

/// A call to an engine that failed: what was attempted, and how it went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {failure}")]
pub struct EngineError {
    pub call: String,
    pub failure: Failure,
}

impl EngineError {
    pub(super) fn new(call: impl Into<String>, failure: Failure) -> Self {
        Self { call: call.into(), failure }
    }
}

/// How a call failed. `tokens_seen` tells a server that was alive a moment ago from one that never began. `detail` is the
/// server's own words, bounded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("connection refused: nothing listens there")]
    Refused,
    #[error("the connection broke after {tokens_seen} tokens")]
    Reset { tokens_seen: u32 },
    #[error("no answer within {} ms, {tokens_seen} tokens seen", after.as_millis())]
    Timeout { after: Duration, tokens_seen: u32 },
    /// No packet reaches the host: DNS, no route, the network or the host is down.
    #[error("cannot reach the host: {0}")]
    Unreachable(String),
    /// Something answers, but no API of this kind under this URL: TLS, a redirect, an HTML page, an unknown path.
    #[error("no such API at this URL: {0}; check spec.url")]
    Misconfigured(String),
    /// 401, 402, 403, 407 and an exhausted quota.
    #[error("HTTP {status}: the server wants {}; check authSecretRef", if *status == 402 { "to be paid" } else { "other credentials" })]
    Unauthorized { status: u16 },
    #[error("the server has no such model: {detail}")]
    ModelMissing { detail: String },
    #[error("rate-limited{}", retry_after.map(|d| format!(", may be asked again in {} s", d.as_secs())).unwrap_or_default())]
    RateLimited { retry_after: Option<Duration> },
    #[error("HTTP 503: busy: {detail}")]
    Busy { detail: String },
    /// It is up and not ready: it reads its model.
    #[error("the server loads its model: {detail}")]
    Loading { detail: String },
    /// The server's process ran out of memory, its own or that of a device.
    #[error("the server ran out of memory: {detail}")]
    OutOfMemory { detail: String },
    /// The machine is too small for the model; a restart can't help.
    #[error("the model does not fit in the machine's memory: {detail}")]
    ModelTooLarge { detail: String },
    #[error("the server cannot load the model: {detail}")]
    CannotLoad { detail: String },
    #[error("HTTP {status}: {detail}")]
    ServerError { status: u16, detail: String },
    /// Another 4xx: the request itself was not understood; a restart can't help.
    #[error("HTTP {status}: the server refused the request: {detail}")]
    Rejected { status: u16, detail: String },
    /// The prompt exceeds the model's context; the server refused it, or answered a part of it.
    #[error("the prompt is too long for the model's context: {detail}")]
    PromptTooLong { detail: String },
    #[error("the answer is not what this engine sends: {detail}")]
    BadBody { detail: String },
    /// The stream ended well formed and without content, reasoning, tool call or finish reason.
    #[error("the answer has no content: {detail}")]
    NoContent { detail: String },
    #[error("{engine} can't do this")]
    Unsupported { engine: EngineKind },
}

/// Whom a failure speaks against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Evidence against the server.
    Server,
    /// The server is alive and takes no more now.
    Full,
    /// The request's own; the next request may be served.
    Request,
    /// A person must change a manifest, a credential or the server's models.
    Configuration,
    /// Says nothing of the server: nothing reaches its host.
    Unreachable,
}

impl Failure {
    pub fn fault(&self) -> Blame {
        match self {
            Failure::Refused
            | Failure::Reset { .. }
            | Failure::Timeout { .. }
            | Failure::ServerError { .. }
            | Failure::BadBody { .. }
            | Failure::NoContent { .. }
            | Failure::OutOfMemory { .. }
            | Failure::CannotLoad { .. }
            | Failure::ModelTooLarge { .. } => Blame::Server,
            Failure::Busy { .. } | Failure::RateLimited { .. } | Failure::Loading { .. } => Blame::Full,
            Failure::Rejected { .. } | Failure::Unsupported { .. } | Failure::PromptTooLong { .. } => Blame::Request,
            Failure::Unauthorized { .. } | Failure::ModelMissing { .. } | Failure::Misconfigured(_) => {
                Blame::Configuration
            }
            Failure::Unreachable(_) => Blame::Unreachable,
        }
    }
}

/// What a call that got no HTTP answer, or half of one, says of a server.
pub fn failure(broken: Broken, tokens_seen: u32, after: Duration) -> Failure {
    match broken {
        Broken::Refused => Failure::Refused,
        Broken::Reset => Failure::Reset { tokens_seen },
        Broken::Timeout => Failure::Timeout { after, tokens_seen },
        Broken::Unreachable(why) => Failure::Unreachable(why),
        Broken::TooLong(_) => Failure::BadBody { detail: broken.to_string() },
        Broken::Tls(_) | Broken::NotHttp(_) | Broken::Invalid(_) => Failure::Misconfigured(broken.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_speaks_against_one_side() {
        let detail = || "why".to_owned();
        let after = Duration::from_secs(1);
        let cases = [
            (Failure::Refused, Blame::Server),
            (Failure::Reset { tokens_seen: 1 }, Blame::Server),
            (Failure::Timeout { after, tokens_seen: 0 }, Blame::Server),
            (Failure::ServerError { status: 500, detail: detail() }, Blame::Server),
            (Failure::BadBody { detail: detail() }, Blame::Server),
            (Failure::NoContent { detail: detail() }, Blame::Server),
            (Failure::OutOfMemory { detail: detail() }, Blame::Server),
            (Failure::CannotLoad { detail: detail() }, Blame::Server),
            (Failure::ModelTooLarge { detail: detail() }, Blame::Server),
            (Failure::Busy { detail: detail() }, Blame::Full),
            (Failure::RateLimited { retry_after: None }, Blame::Full),
            (Failure::Loading { detail: detail() }, Blame::Full),
            (Failure::Rejected { status: 400, detail: detail() }, Blame::Request),
            (Failure::Unsupported { engine: EngineKind::Mlx }, Blame::Request),
            (Failure::PromptTooLong { detail: detail() }, Blame::Request),
            (Failure::Unauthorized { status: 402 }, Blame::Configuration),
            (Failure::ModelMissing { detail: detail() }, Blame::Configuration),
            (Failure::Misconfigured(detail()), Blame::Configuration),
            (Failure::Unreachable(detail()), Blame::Unreachable),
        ];
        for (failure, fault) in cases {
            assert_eq!(failure.fault(), fault, "{failure}");
        }
    }
}
