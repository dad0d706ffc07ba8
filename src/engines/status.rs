//! What an answer that refuses means: its status, and the words of its body or of a record within a stream.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::words::{LOADING, of_words};
use super::{EngineKind, Failure};
use crate::{host::mask::one_line, net::redirected};

/// Longest text of a server that is kept.
const MOST_CHARS: usize = 300;

/// What an answer that isn't a success means for an inference or another POST.
pub fn of_response(engine: EngineKind, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let code = status.as_u16();
    if let Some(why) = misconfigured(status, headers, body) {
        return Failure::Misconfigured(why);
    }
    of_words(engine, code, retry_after(headers), &words(body), &detail(body))
}

/// A redirect, or a page or message that says that this is no API: what is there instead.
pub(super) fn misconfigured(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let code = status.as_u16();
    if let Some(redirect) = redirected(status, headers) {
        return Some(redirect);
    }
    let text = beginning(body).to_lowercase();
    // Go's, nginx's and Apache's words for http to a port of TLS.
    let wants_tls =
        ["http request to an https server", "plain http request was sent to https", "speaking plain http to"];
    if code == 400 && wants_tls.iter().any(|words| text.contains(words)) {
        return Some("http to a port that wants https".to_owned());
    }
    let page = matches!(code, 200..=299 | 400 | 404..=406 | 410).then(|| html_title(body)).flatten();
    page.map(|title| format!("HTTP {code} with an HTML page{title}: another program, or a login page"))
}

/// Whether a 503 says that the model is being read.
pub(super) fn loads_model(body: &[u8]) -> bool {
    let words = words(body);
    LOADING.iter().any(|one| words.contains(one))
}

/// Whether a body is an HTML page: its title in quotes, or nothing where it has none.
pub(super) fn html_title(body: &[u8]) -> Option<String> {
    let text = beginning(body);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    // ASCII's lower case leaves every place where it is.
    let lower = text.to_ascii_lowercase();
    let is_html = ["<!doctype html", "<html", "<head", "<!--"].iter().any(|tag| lower.starts_with(tag));
    is_html.then(|| {
        let title = lower.find("<title").and_then(|tag| {
            let from = tag + lower.get(tag..)?.find('>')? + 1;
            let to = from + lower.get(from..)?.find("</title")?;
            let title = text.get(from..to)?.trim();
            (!title.is_empty()).then(|| format!(" titled {:?}", bounded(title, 80)))
        });
        title.unwrap_or_default()
    })
}

/// An error inside a stream or a body that began with 200, whatever its form.
pub(super) fn of_record(engine: EngineKind, record: &Value) -> Option<StatusRefusal> {
    let object = record.as_object()?;
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let plain = !object.contains_key("choices") && !object.contains_key("data");
    let said = match object.get("error").or_else(|| record.pointer("/choices/0/error")) {
        Some(Value::String(error)) if !error.is_empty() => Some(error.as_str()),
        Some(error @ Value::Object(fields)) if !fields.is_empty() => {
            return Some(refusal(engine, error, error.get("message").and_then(Value::as_str)));
        }
        _ if object.get("object").is_some_and(|kind| kind == "error") => Some(text("message").unwrap_or("error")),
        _ if plain && object.contains_key("detail") => {
            let listed = validation(record);
            return Some(refusal(engine, record, text("detail").or(listed.as_deref())));
        }
        _ if plain && code_of(record).is_some() => text("message"),
        _ => None,
    };
    said.map(|words| refusal(engine, record, Some(words)))
}

/// An error of an event stream that is no JSON object, or one whose form says nothing: `event: error`, `error: …`.
pub(super) fn of_event(engine: EngineKind, data: &[u8]) -> StatusRefusal {
    let record = serde_json::from_slice::<Value>(data).ok();
    match &record {
        Some(record @ Value::Object(_)) => of_record(engine, record)
            .unwrap_or_else(|| refusal(engine, record, record.get("message").and_then(Value::as_str))),
        _ => refusal(engine, &Value::Null, Some(&detail(data))),
    }
}

/// An error inside a 200, and the status that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatusRefusal {
    pub(super) failure: Failure,
    pub(super) status: Option<u16>,
}

fn refusal(engine: EngineKind, error: &Value, message: Option<&str>) -> StatusRefusal {
    let status = code_of(error);
    let said = message.map_or_else(|| bounded(&error.to_string(), MOST_CHARS), |text| bounded(text, MOST_CHARS));
    let kinds = ["code", "type"].map(|key| error.get(key).and_then(Value::as_str).unwrap_or_default());
    let words = plain_words(&said, kinds);
    let failure = of_words(engine, status.unwrap_or(200), None, &words, &one_line(&said, MOST_CHARS));
    // LM Studio's 200 for a path that it lacks stands for a 404.
    let unknown_path = matches!(failure, Failure::Misconfigured(_)).then_some(404);
    StatusRefusal { failure, status: status.or(unknown_path) }
}

/// The status that an error names, under the names that servers use.
fn code_of(error: &Value) -> Option<u16> {
    let found = ["code", "status", "status_code", "statusCode"].iter().find_map(|key| {
        let value = error.get(key)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    });
    found.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code))
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

/// The engine's own words for people, on one line.
pub fn detail(body: &[u8]) -> String {
    let short = one_line(&own_words(body), MOST_CHARS);
    if short.is_empty() { "no explanation".to_owned() } else { short }
}

/// From whatever form of error a body has, else the body's beginning.
fn own_words(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(body).ok();
    let found = parsed.as_ref().and_then(|value| {
        let error = value.get("error");
        let nested = error.and_then(|e| e.as_str().or_else(|| e.get("message").and_then(Value::as_str)));
        let plain = nested.or_else(|| value.get("message")?.as_str()).or_else(|| value.get("detail")?.as_str());
        plain.map(str::to_owned).or_else(|| validation(value))
    });
    let text = found.unwrap_or_else(|| match html_title(body) {
        Some(title) => format!("an HTML page{title}"),
        None => beginning(body),
    });
    let short = bounded(text.trim(), MOST_CHARS);
    if short.is_empty() { "no explanation".to_owned() } else { short }
}

/// FastAPI's list of what is wrong with a request, without the values that it repeats.
fn validation(value: &Value) -> Option<String> {
    let wrong = value.get("detail")?.as_array()?.iter().take(5).filter_map(|one| {
        let place = one.get("loc").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let place: Vec<&str> = place.iter().filter_map(Value::as_str).collect();
        Some(format!("{}: {}", place.join("."), one.get("msg")?.as_str()?))
    });
    let wrong: Vec<String> = wrong.collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// All that a body says, its codes included, in lower case.
fn words(body: &[u8]) -> String {
    let parsed = serde_json::from_slice::<Value>(body).ok();
    let error = parsed.as_ref().map(|value| value.get("error").filter(|e| e.is_object()).unwrap_or(value));
    let kinds = ["code", "type"].map(|key| error.and_then(|e| e.get(key)?.as_str()).unwrap_or_default());
    plain_words(&own_words(body), kinds)
}

/// In lower case, one space apart.
fn plain_words(detail: &str, kinds: [&str; 2]) -> String {
    let all = detail.split_whitespace().chain(kinds.into_iter().flat_map(str::split_whitespace));
    all.collect::<Vec<_>>().join(" ").to_lowercase()
}

fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned()
}

fn bounded(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use EngineKind::{Mlx, Ollama, OpenAi};
    use reqwest::header::{DATE, HeaderValue, RETRY_AFTER};
    use serde_json::json;

    use super::*;

    fn of(engine: EngineKind, code: u16, body: &str) -> Failure {
        of_response(engine, StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

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
        let body = r#"{"error":"why"}"#;
        let detail = || "why".to_owned();
        assert_eq!(of(OpenAi, 401, body), Failure::Unauthorized { status: 401 });
        assert_eq!(of(OpenAi, 402, body), Failure::Unauthorized { status: 402 });
        assert_eq!(of(OpenAi, 403, body), Failure::Unauthorized { status: 403 });
        assert_eq!(of(OpenAi, 407, body), Failure::Unauthorized { status: 407 });
        assert_eq!(of(OpenAi, 404, body), Failure::ModelMissing { detail: detail() });
        assert_eq!(of(Mlx, 404, body), Failure::ServerError { status: 404, detail: detail() });
        assert_eq!(of(OpenAi, 405, body), Failure::Misconfigured("HTTP 405: why".into()));
        assert_eq!(of(OpenAi, 413, body), Failure::PromptTooLong { detail: detail() });
        assert_eq!(of(OpenAi, 429, body), Failure::RateLimited { retry_after: None });
        assert_eq!(of(OpenAi, 503, body), Failure::Busy { detail: detail() });
        assert_eq!(of(OpenAi, 500, body), Failure::ServerError { status: 500, detail: detail() });
        assert_eq!(of(OpenAi, 499, body), Failure::ServerError { status: 499, detail: detail() });
        assert_eq!(of(OpenAi, 400, body), Failure::Rejected { status: 400, detail: detail() });
        assert_eq!(of(OpenAi, 501, body), Failure::Rejected { status: 501, detail: detail() });
        let page = "<html><head><title>502 Bad Gateway</title></head></html>";
        let titled = "an HTML page titled \"502 Bad Gateway\"".to_owned();
        assert_eq!(of(OpenAi, 502, page), Failure::ServerError { status: 502, detail: titled });
        let no_path = r#"{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}"#;
        for body in [page, no_path, r#"{"detail":"Not Found"}"#, "404 page not found\n", ""] {
            assert!(matches!(of(OpenAi, 404, body), Failure::Misconfigured(_)), "{body}");
        }
        assert!(matches!(of(OpenAi, 308, ""), Failure::Misconfigured(_)));
        let quota = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
        assert_eq!(of(OpenAi, 429, quota), Failure::Unauthorized { status: 429 });
        let echoed = r#"{"detail":[{"loc":["body","seed"],"msg":"not an integer","input":"out of memory"}]}"#;
        let detail = "body.seed: not an integer".to_owned();
        assert_eq!(of(OpenAi, 422, echoed), Failure::Rejected { status: 422, detail });
    }

    #[test]
    fn the_engines_own_words_are_found() {
        let cases: [(&[u8], &str); 7] = [
            (br#"{"error":"model 'x' not found"}"#, "model 'x' not found"),
            (br#"{"error":{"message":"bad key","code":1}}"#, "bad key"),
            (br#"{"object":"error","message":"too much","code":400}"#, "too much"),
            (br#"{"detail":"Not Found"}"#, "Not Found"),
            (b"Not Found", "Not Found"),
            (b"<!doctype html>\n<TITLE>Hi</TITLE>", "an HTML page titled \"Hi\""),
            (b" \n", "no explanation"),
        ];
        for (body, words) in cases {
            assert_eq!(detail(body), words);
        }
        assert_eq!(detail("é".repeat(1000).as_bytes()).chars().count(), 300);
    }

    #[test]
    fn an_error_is_found_in_a_record_whatever_its_form() {
        let failed = |status, detail: &str| Some(Failure::ServerError { status, detail: detail.into() });
        let cases = [
            (json!({"error": "boom"}), failed(200, "boom")),
            (json!({"error": {"message": "boom", "code": 500}}), failed(500, "boom")),
            (json!({"error": {"message": "boom", "code": "502"}}), failed(502, "boom")),
            (json!({"error": {"message": "boom", "type": "server_error"}}), failed(200, "boom")),
            (json!({"error": {"code": 500}}), failed(500, r#"{"code":500}"#)),
            (json!({"object": "error", "message": "boom", "code": 500}), failed(500, "boom")),
            (json!({"type": "error", "error": {"message": "boom"}}), failed(200, "boom")),
            (json!({"detail": "boom"}), failed(200, "boom")),
            (json!({"detail": [{"loc": ["body"], "msg": "boom"}]}), failed(200, "body: boom")),
            (json!({"message": "boom", "code": 500}), failed(500, "boom")),
            (json!({"choices": [{"error": {"message": "boom", "code": 502}}]}), failed(502, "boom")),
            (json!({"error": {"message": "slow down", "code": 429}}), Some(Failure::RateLimited { retry_after: None })),
            (
                json!({"error": {"message": "bad", "code": 400}}),
                Some(Failure::Rejected { status: 400, detail: "bad".into() }),
            ),
            (
                json!({"error": {"message": "Loading model", "code": 503}}),
                Some(Failure::Loading { detail: "Loading model".into() }),
            ),
            (json!({"error": null, "choices": []}), None),
            (json!({"error": "", "choices": []}), None),
            (json!({"choices": [{"delta": {"content": "error"}}]}), None),
            (json!({"message": {"content": "error"}, "done": false}), None),
            (json!({"choices": [], "detail": "fine"}), None),
            (json!(["error"]), None),
        ];
        for (record, failure) in cases {
            assert_eq!(of_record(OpenAi, &record).map(|refusal| refusal.failure), failure, "{record}");
        }
        let unknown = of_record(Ollama, &json!({"error": "Unexpected endpoint or method. (POST /api/chat)"})).unwrap();
        assert!(matches!(unknown.failure, Failure::Misconfigured(_)) && unknown.status == Some(404));
    }

    #[test]
    fn an_error_event_is_an_error_whatever_its_data() {
        for (data, status, detail) in [
            (r#"{"code":500,"message":"boom","type":"server_error"}"#, 500, "boom"),
            (r#"{"error":{"message":"boom"}}"#, 200, "boom"),
            ("boom", 200, "boom"),
            ("", 200, "no explanation"),
        ] {
            let expected = Failure::ServerError { status, detail: detail.into() };
            assert_eq!(of_event(OpenAi, data.as_bytes()).failure, expected, "{data}");
        }
    }
}
