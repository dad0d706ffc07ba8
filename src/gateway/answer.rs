//! Which headers pass, in either direction: by name, so that no credential, cookie or hop-by-hop header does.

use axum::http::{HeaderMap, HeaderName, header};

/// What an engine may know of whoever asked.
const TO_ENGINES: [HeaderName; 2] = [header::ACCEPT, header::CONTENT_TYPE];
const TRACING: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate")];
/// What whoever asked may know of an engine's answer.
const FROM_ENGINES: [HeaderName; 2] = [header::CONTENT_TYPE, HeaderName::from_static("x-request-id")];

/// The headers of a request that an engine gets. A body is always JSON.
pub(super) fn to_engine(asked: &HeaderMap) -> HeaderMap {
    let mut headers = picked(asked, TO_ENGINES.iter().chain(&TRACING));
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers
}

/// How a client names its conversation.
pub(super) fn session(asked: &HeaderMap) -> Option<String> {
    // Claude Code's, and Codex's.
    const NAMES: [&str; 3] = ["x-claude-code-session-id", "session_id", "session-id"];
    const LONGEST: usize = 256;
    let told = NAMES.iter().find_map(|name| asked.get(*name)?.to_str().ok())?;
    (!told.is_empty() && told.len() <= LONGEST).then(|| told.to_owned())
}

/// The headers of an engine's answer that whoever asked gets.
pub(super) fn from_engine(answered: &HeaderMap) -> HeaderMap {
    picked(answered, FROM_ENGINES.iter())
}

fn picked<'a>(headers: &HeaderMap, names: impl Iterator<Item = &'a HeaderName>) -> HeaderMap {
    names.filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_cookies_and_what_is_of_one_connection_never_pass() {
        let all = [
            "accept",
            "authorization",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "host",
            "set-cookie",
            "traceparent",
            "transfer-encoding",
            "x-api-key",
            "x-request-id",
            "access-control-allow-origin",
        ];
        let headers: HeaderMap =
            all.iter().map(|name| (HeaderName::from_static(name), "application/json".parse().unwrap())).collect();
        let names = |headers: HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(to_engine(&headers)), ["accept", "content-type", "traceparent"]);
        assert_eq!(names(from_engine(&headers)), ["content-type", "x-request-id"]);
        assert_eq!(to_engine(&HeaderMap::new())[header::CONTENT_TYPE], "application/json");
    }
}
