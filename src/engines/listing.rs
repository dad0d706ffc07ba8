use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::EngineKind;
use super::error::retry_after;

/// What one probed path said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathReply {
    /// A listing that parses. It may be empty: Ollama run by the wrong user.
    Models(Vec<String>),
    /// An answer that proves no models, like `/health`.
    ReachableOnly,
    /// 404 and its like: this server has no such path; the next may do.
    NotFound,
    Unauthorized(u16),
    RateLimited {
        retry_after: Option<Duration>,
    },
    /// 503.
    Busy,
    ServerError(u16),
    /// 200 with a body that is empty, doesn't parse or is no listing (mlx_lm without a hub cache answers so).
    BadBody,
    Refused,
    Reset,
    Timeout,
    Other(String),
}

impl PathReply {
    /// Whether the next path need not be asked.
    pub fn is_conclusive(&self) -> bool {
        match self {
            PathReply::NotFound | PathReply::BadBody | PathReply::ReachableOnly => false,
            PathReply::Models(_)
            | PathReply::Unauthorized(_)
            | PathReply::RateLimited { .. }
            | PathReply::Busy
            | PathReply::ServerError(_)
            | PathReply::Refused
            | PathReply::Reset
            | PathReply::Timeout
            | PathReply::Other(_) => true,
        }
    }
}

/// Reads an HTTP answer to `GET path`. Pure: what a transport error means is decided where it happens.
pub fn read_listing(engine: EngineKind, path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> PathReply {
    match status.as_u16() {
        200..=299 => read_body(engine, path, body),
        401 | 403 => PathReply::Unauthorized(status.as_u16()),
        429 => PathReply::RateLimited { retry_after: retry_after(headers) },
        // mlx_lm answers 503 on /health when its generating thread has died: not busy, but dead.
        503 if engine == EngineKind::Mlx && is_health(path) => PathReply::ServerError(503),
        503 => PathReply::Busy,
        500..=599 => PathReply::ServerError(status.as_u16()),
        400..=499 => PathReply::NotFound,
        other => PathReply::Other(format!("unexpected HTTP {other} on {path}")),
    }
}

fn read_body(engine: EngineKind, path: &str, body: &[u8]) -> PathReply {
    let models = serde_json::from_slice::<Value>(body).ok().as_ref().and_then(models_in);
    match models {
        // mlx_lm lists what lies in the hub cache with an index file; it may well serve a model that is not there.
        Some(models) if models.is_empty() && engine == EngineKind::Mlx => PathReply::ReachableOnly,
        Some(models) => PathReply::Models(models),
        None if is_listing(path) => PathReply::BadBody,
        None => PathReply::ReachableOnly,
    }
}

/// Model names of `{"models": [{"name"}]}` (Ollama) or `{"data": [{"id"}]}` (OpenAI). Ollama without models says
/// `"data": null`, and older ones `"models": null`. `None` when it is no listing.
fn models_in(value: &Value) -> Option<Vec<String>> {
    let (list, key) = match (value.get("models"), value.get("data")) {
        (Some(models), _) => (models, "name"),
        (None, Some(data)) => (data, "id"),
        (None, None) => return None,
    };
    match list {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => {
            items.iter().map(|item| item.get(key).and_then(Value::as_str).map(str::to_owned)).collect()
        }
        _ => None,
    }
}

fn without_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path).trim_end_matches('/')
}

fn is_listing(path: &str) -> bool {
    let path = without_query(path);
    path.ends_with("/models") || path.ends_with("/tags")
}

fn is_health(path: &str) -> bool {
    without_query(path).ends_with("/health")
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{Mlx, Ollama, OpenAi};

    fn read(engine: EngineKind, path: &str, status: u16, body: &str) -> PathReply {
        read_listing(engine, path, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    fn models(names: &[&str]) -> PathReply {
        PathReply::Models(names.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn a_body_proves_models_only_when_it_is_a_listing() {
        let cases = [
            (Ollama, "/api/tags", r#"{"models":[{"name":"a:latest"},{"name":"b:1"}]}"#, models(&["a:latest", "b:1"])),
            (Ollama, "/api/tags", r#"{"models":[]}"#, models(&[])),
            (Ollama, "/v1/models", r#"{"object":"list","data":null}"#, models(&[])),
            (Ollama, "/v1/models", r#"{"object":"list","data":[{"id":"a"}]}"#, models(&["a"])),
            (Mlx, "/v1/models", "", PathReply::BadBody),
            (Mlx, "/v1/models", r#"{"object":"list","data":[]}"#, PathReply::ReachableOnly),
            (Mlx, "/v1/models", r#"{"object":"list","data":[{"id":"/m"}]}"#, models(&["/m"])),
            (Mlx, "/health", r#"{"status":"ok"}"#, PathReply::ReachableOnly),
            (OpenAi, "/v1/models", "<html>hello</html>", PathReply::BadBody),
            (OpenAi, "/v1/models", r#"{"error":"Unexpected endpoint"}"#, PathReply::BadBody),
            (OpenAi, "/v1/models", r#"{"data":[{"name":"a"}]}"#, PathReply::BadBody),
            (OpenAi, "/v1/models", r#"{"data":"a"}"#, PathReply::BadBody),
            (OpenAi, "/", "", PathReply::ReachableOnly),
            (OpenAi, "/custom", r#"{"data":[{"id":"a"}]}"#, models(&["a"])),
        ];
        for (engine, path, body, expected) in cases {
            assert_eq!(read(engine, path, 200, body), expected, "{engine} {path} {body}");
        }
    }

    #[test]
    fn a_status_is_read_before_the_body() {
        let body = r#"{"models":[{"name":"a"}]}"#;
        let cases = [
            (Ollama, "/api/tags", 404, PathReply::NotFound),
            (Ollama, "/api/tags", 405, PathReply::NotFound),
            (Ollama, "/api/tags", 401, PathReply::Unauthorized(401)),
            (Ollama, "/api/tags", 403, PathReply::Unauthorized(403)),
            (Ollama, "/api/tags", 429, PathReply::RateLimited { retry_after: None }),
            (Ollama, "/api/tags", 503, PathReply::Busy),
            (Mlx, "/health", 503, PathReply::ServerError(503)),
            (Mlx, "/v1/models", 503, PathReply::Busy),
            (Ollama, "/api/tags", 500, PathReply::ServerError(500)),
            (Ollama, "/api/tags", 502, PathReply::ServerError(502)),
        ];
        for (engine, path, status, expected) in cases {
            assert_eq!(read(engine, path, status, body), expected, "{engine} {path} {status}");
        }
        assert!(matches!(read(Ollama, "/api/tags", 304, ""), PathReply::Other(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_panic(body: Vec<u8>, status in 100u16..600) {
            for engine in EngineKind::ALL {
                read_listing(engine, "/v1/models", StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body);
            }
        }
    }
}
