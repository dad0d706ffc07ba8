use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::status::{loads_model, misconfigured, retry_after};
use super::{EngineKind, lists};

/// What lists more models, or longer names, is no listing.
const MAX_MODELS: usize = 10_000;
const MAX_NAME: usize = 1024;

/// The models of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that run on this server.
    pub models: Vec<String>,
    /// Those that it hands to somebody else's server (Ollama's cloud models): prompts leave this machine, and may cost money.
    pub remote: Vec<String>,
}

impl Listing {
    /// Whether the server has this model, to run itself or to hand on.
    pub fn has(&self, engine: EngineKind, wanted: &str) -> bool {
        lists(engine, &self.models, wanted) || lists(engine, &self.remote, wanted)
    }
}

impl From<Vec<String>> for Listing {
    fn from(models: Vec<String>) -> Self {
        Self { models, remote: Vec::new() }
    }
}

/// What one probed path said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathReply {
    /// A listing that parses. It may be empty: Ollama run by the wrong user.
    Models(Listing),
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
    /// 503 while it reads its model.
    Loading,
    ServerError(u16),
    /// 200 with a body that is empty, doesn't parse or is no listing (mlx_lm without a hub cache answers so).
    BadBody,
    Refused,
    Reset,
    Timeout,
    Unreachable(String),
    /// TLS, a redirect, an HTML page where a listing should be.
    Misconfigured(String),
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
            | PathReply::Loading
            | PathReply::ServerError(_)
            | PathReply::Refused
            | PathReply::Reset
            | PathReply::Timeout
            | PathReply::Unreachable(_)
            | PathReply::Misconfigured(_) => true,
        }
    }
}

/// Reads an HTTP answer to `GET path`. Pure: what a transport error means is decided where it happens.
pub fn read_listing(engine: EngineKind, path: &str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> PathReply {
    if let Some(why) = misconfigured(status, headers, body).filter(|_| decides(path, status)) {
        return PathReply::Misconfigured(why);
    }
    match status.as_u16() {
        200..=299 => read_body(engine, path, body),
        401..=403 | 407 => PathReply::Unauthorized(status.as_u16()),
        429 => PathReply::RateLimited { retry_after: retry_after(headers) },
        // mlx_lm answers 503 on /health when its generating thread has died: not busy, but dead.
        503 if engine == EngineKind::Mlx && is_health(path) => PathReply::ServerError(503),
        503 if loads_model(body) => PathReply::Loading,
        503 => PathReply::Busy,
        500..=599 => PathReply::ServerError(status.as_u16()),
        400..=499 => PathReply::NotFound,
        other => PathReply::Misconfigured(format!("unexpected HTTP {other} on {path}")),
    }
}

/// Whether a page instead of an API settles the matter: on another path than a listing's, and with a 404, the next path may tell.
fn decides(path: &str, status: StatusCode) -> bool {
    match status.as_u16() {
        300..=400 => true,
        200..=299 => is_listing(path),
        _ => false,
    }
}

fn read_body(engine: EngineKind, path: &str, body: &[u8]) -> PathReply {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let listing = serde_json::from_slice::<Value>(body).ok().as_ref().and_then(|value| listing_in(engine, value));
    match listing {
        // mlx_lm lists what lies in the hub cache with an index file; it may well serve a model that is not there.
        Some(listing) if listing.models.is_empty() && engine == EngineKind::Mlx => PathReply::ReachableOnly,
        Some(listing) => PathReply::Models(listing),
        None if is_listing(path) => PathReply::BadBody,
        None => PathReply::ReachableOnly,
    }
}

/// Model names of `{"models": [{"name"}]}` (Ollama) or `{"data": [{"id"}]}` (OpenAI). Ollama without models says
/// `"data": null`, and older ones `"models": null`. `None` when it is no listing.
fn listing_in(engine: EngineKind, value: &Value) -> Option<Listing> {
    let (list, key) = match (value.get("models"), value.get("data")) {
        (Some(models), _) => (models, "name"),
        (None, Some(data)) => (data, "id"),
        (None, None) => return None,
    };
    let mut listing = Listing::default();
    let items = match list {
        Value::Null => return Some(listing),
        Value::Array(items) if items.len() <= MAX_MODELS => items,
        _ => return None,
    };
    for item in items {
        let name = item.get(key).and_then(Value::as_str).filter(|name| name.len() <= MAX_NAME)?.to_owned();
        let place = if is_remote(engine, item, &name) { &mut listing.remote } else { &mut listing.models };
        place.push(name);
    }
    Some(listing)
}

/// Ollama's own listing names the host that a cloud model runs on; its `/v1/models` shows it only by the tag.
fn is_remote(engine: EngineKind, item: &Value, name: &str) -> bool {
    let named = |key: &str| item.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
    engine == EngineKind::Ollama
        && (named("remote_host") || named("remote_model") || tag == "cloud" || tag.ends_with("-cloud"))
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
        PathReply::Models(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>().into())
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
            (OpenAi, "/v1/models", "hello", PathReply::BadBody),
            (OpenAi, "/v1/models", "\u{feff}{\"data\":[{\"id\":\"a\"}]}", models(&["a"])),
            (OpenAi, "/", "<html>hello</html>", PathReply::ReachableOnly),
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
            (Ollama, "/api/tags", 402, PathReply::Unauthorized(402)),
            (Ollama, "/api/tags", 407, PathReply::Unauthorized(407)),
            (Ollama, "/api/tags", 503, PathReply::Busy),
            (Mlx, "/health", 503, PathReply::ServerError(503)),
            (Mlx, "/v1/models", 503, PathReply::Busy),
            (Ollama, "/api/tags", 500, PathReply::ServerError(500)),
            (Ollama, "/api/tags", 502, PathReply::ServerError(502)),
        ];
        for (engine, path, status, expected) in cases {
            assert_eq!(read(engine, path, status, body), expected, "{engine} {path} {status}");
        }
    }

    #[test]
    fn a_server_that_loads_its_model_says_so() {
        let body = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        for path in ["/v1/models", "/health", "/api/tags"] {
            assert_eq!(read(OpenAi, path, 503, body), PathReply::Loading, "{path}");
        }
        assert_eq!(read(OpenAi, "/v1/models", 503, "no slot available"), PathReply::Busy);
    }

    #[test]
    fn what_is_no_api_is_named() {
        let page = "<!DOCTYPE html><html><head><title>Sign in · Acme</title></head></html>";
        let named = |reply: PathReply, words: &str| match &reply {
            PathReply::Misconfigured(why) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        };
        named(read(OpenAi, "/v1/models", 200, page), "Sign in · Acme");
        named(read(Ollama, "/api/tags", 304, ""), "304");
        named(read(OpenAi, "/v1/models", 400, "Client sent an HTTP request to an HTTPS server.\n"), "https");
        named(
            read(
                OpenAi,
                "/v1/models",
                400,
                "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
            ),
            "https",
        );
        assert_eq!(read(OpenAi, "/v1/models", 404, page), PathReply::NotFound);
        assert_eq!(read(OpenAi, "/v1/models", 502, page), PathReply::ServerError(502));
        assert_eq!(read(OpenAi, "/v1/models", 400, "what?"), PathReply::NotFound);
        let mut headers = HeaderMap::new();
        headers.insert("location", "https://login.acme.test/sso?token=hunter2#x".parse().unwrap());
        let reply = read_listing(OpenAi, "/v1/models", StatusCode::FOUND, &headers, b"");
        let PathReply::Misconfigured(why) = reply else { panic!("{reply:?}") };
        assert!(why.contains("https://login.acme.test/sso") && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn models_that_run_elsewhere_are_listed_apart() {
        let body = r#"{"models":[{"name":"a:latest","remote_host":""},{"name":"big:120b-cloud","remote_host":"https://ollama.com:443","remote_model":"big:120b"}]}"#;
        let apart = || Listing { models: vec!["a:latest".into()], remote: vec!["big:120b-cloud".into()] };
        assert_eq!(read(Ollama, "/api/tags", 200, body), PathReply::Models(apart()));
        let body = r#"{"data":[{"id":"a:latest"},{"id":"big:120b-cloud"}]}"#;
        assert_eq!(read(Ollama, "/v1/models", 200, body), PathReply::Models(apart()));
        assert_eq!(read(OpenAi, "/v1/models", 200, body), models(&["a:latest", "big:120b-cloud"]));
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
