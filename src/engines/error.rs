use std::error::Error as _;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use super::EngineKind;

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

/// How a call failed. `tokens_seen` tells a server that was alive a moment ago from one that never began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("connection refused: nothing listens there")]
    Refused,
    #[error("the connection broke after {tokens_seen} tokens")]
    Reset { tokens_seen: u32 },
    #[error("no answer within {} ms, {tokens_seen} tokens seen", after.as_millis())]
    Timeout { after: Duration, tokens_seen: u32 },
    #[error("HTTP {status}: the server wants other credentials; check authSecretRef")]
    Unauthorized { status: u16 },
    #[error("the server has no such model: {detail}")]
    ModelMissing { detail: String },
    #[error("rate-limited{}", retry_after.map(|d| format!(", may be asked again in {} s", d.as_secs())).unwrap_or_default())]
    RateLimited { retry_after: Option<Duration> },
    #[error("HTTP 503: busy: {detail}")]
    Busy { detail: String },
    #[error("HTTP {status}: {detail}")]
    ServerError { status: u16, detail: String },
    /// Another 4xx: the request itself was not understood; a restart can't help.
    #[error("HTTP {status}: the server refused the request: {detail}")]
    Rejected { status: u16, detail: String },
    #[error("the answer is not what this engine sends: {detail}")]
    BadBody { detail: String },
    #[error("{engine} can't do this")]
    Unsupported { engine: EngineKind },
    #[error("{0}")]
    Other(String),
}

/// Why no HTTP answer came, or why it broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    Refused,
    Reset,
    Timeout,
    Other(String),
}

impl Broken {
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Broken::Timeout;
        }
        match io_kind(error) {
            Some(io::ErrorKind::ConnectionRefused) => Broken::Refused,
            Some(
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof,
            ) => Broken::Reset,
            Some(io::ErrorKind::TimedOut) => Broken::Timeout,
            // Once connected, what is left is a peer that closed without a whole answer.
            _ if !error.is_connect() && (error.is_request() || error.is_body() || error.is_decode()) => Broken::Reset,
            _ => Broken::Other(chain(error)),
        }
    }

    pub(super) fn failure(self, tokens_seen: u32, after: Duration) -> Failure {
        match self {
            Broken::Refused => Failure::Refused,
            Broken::Reset => Failure::Reset { tokens_seen },
            Broken::Timeout => Failure::Timeout { after, tokens_seen },
            Broken::Other(why) => Failure::Other(why),
        }
    }
}

fn io_kind(error: &reqwest::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(current) = source {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            // An io::Error may wrap the one that tells.
            let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>());
            return Some(inner.unwrap_or(io).kind());
        }
        source = current.source();
    }
    None
}

/// The messages of an error and its sources; reqwest's own says only "error sending request".
pub fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(current) = source {
        text.push_str(": ");
        text.push_str(&current.to_string());
        source = current.source();
    }
    text
}

/// What an answer that isn't a success means for an inference or another POST.
pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let code = status.as_u16();
    let detail = detail(body);
    match code {
        401 | 403 => Failure::Unauthorized { status: code },
        404 => Failure::ModelMissing { detail },
        429 => Failure::RateLimited { retry_after: retry_after(headers) },
        503 => Failure::Busy { detail },
        500..=599 => Failure::ServerError { status: code, detail },
        _ => Failure::Rejected { status: code, detail },
    }
}

/// `Retry-After` in its form of seconds, or as a date (RFC 9110, 10.2.3); bounded by a day, as it comes from outside.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(value).ok()?;
            let now = headers.get(reqwest::header::DATE)?.to_str().ok()?;
            let now = jiff::fmt::rfc2822::parse(now).ok()?;
            Duration::try_from(date.timestamp().duration_since(now.timestamp())).unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.min(Duration::from_secs(86_400)))
}

/// The engine's own words, from `{"error": "…"}` or `{"error": {"message": "…"}}`, else the body's beginning.
pub fn detail(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(body).ok();
    let error = parsed.as_ref().and_then(|value| value.get("error"));
    let words = error.and_then(|e| e.as_str().or_else(|| e.get("message").and_then(|m| m.as_str())));
    let text = words.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    let short: String = text.trim().chars().take(300).collect();
    if short.is_empty() { "no explanation".to_owned() } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{DATE, HeaderValue, RETRY_AFTER};

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_and_bounded() {
        let now = "Wed, 21 Oct 2015 07:28:00 GMT";
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("999999999", Some(86_400)),
            ("soon", None),
        ];
        for (value, seconds) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static(now));
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            assert_eq!(retry_after(&headers), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_status_is_classified_by_what_can_be_done_about_it() {
        let of = |code: u16| of_status(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), br#"{"error":"why"}"#);
        let detail = || "why".to_owned();
        assert_eq!(of(401), Failure::Unauthorized { status: 401 });
        assert_eq!(of(403), Failure::Unauthorized { status: 403 });
        assert_eq!(of(404), Failure::ModelMissing { detail: detail() });
        assert_eq!(of(429), Failure::RateLimited { retry_after: None });
        assert_eq!(of(503), Failure::Busy { detail: detail() });
        assert_eq!(of(500), Failure::ServerError { status: 500, detail: detail() });
        assert_eq!(of(400), Failure::Rejected { status: 400, detail: detail() });
    }

    #[test]
    fn the_engines_own_words_are_found() {
        let cases: [(&[u8], &str); 4] = [
            (br#"{"error":"model 'x' not found"}"#, "model 'x' not found"),
            (br#"{"error":{"message":"bad key","code":1}}"#, "bad key"),
            (b"Not Found", "Not Found"),
            (b" \n", "no explanation"),
        ];
        for (body, words) in cases {
            assert_eq!(detail(body), words);
        }
        assert_eq!(detail("é".repeat(1000).as_bytes()).chars().count(), 300);
    }
}
