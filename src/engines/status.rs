//! What an answer that refuses means: its status, and the words of its body or of a record within a stream.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use serde_json::Value;

use super::{EngineKind, Failure};

/// Longest text of a server that is kept.
const MOST_CHARS: usize = 300;

/// What an answer that isn't a success means for an inference or another POST.
pub(super) fn of_response(engine: EngineKind, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let code = status.as_u16();
    if let Some(why) = misconfigured(status, headers, body) {
        return Failure::Misconfigured(why);
    }
    of_words(engine, code, retry_after(headers), &words(body), &detail(body))
}

/// A redirect, or a page or message that says that this is no API: what is there instead.
pub(super) fn misconfigured(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let code = status.as_u16();
    if status.is_redirection() {
        return Some(format!("HTTP {code} sends the client elsewhere{}", target(headers)));
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

/// ` (host/path)` of `Location`: its query may carry credentials.
fn target(headers: &HeaderMap) -> String {
    let Some(location) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return String::new() };
    let plain = match reqwest::Url::parse(location) {
        Ok(url) => format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()),
        Err(_) => location.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    format!(" ({})", bounded(&plain, 120))
}

/// Whether a body is an HTML page: its title in quotes, or nothing where it has none.
pub(super) fn html_title(body: &[u8]) -> Option<String> {
    let text = beginning(body);
    let start = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    let is_html = ["<!doctype html", "<html", "<head", "<!--"].iter().any(|tag| start.starts_with(tag));
    is_html.then(|| {
        let title = start.find("<title").and_then(|at| {
            let inside = start.get(at..)?.split_once('>')?.1.split_once("</title")?.0.trim().to_owned();
            (!inside.is_empty()).then_some(inside)
        });
        title.map(|title| format!(" titled {:?}", bounded(&title, 80))).unwrap_or_default()
    })
}

/// An error inside a stream or a body that began with 200, whatever its form.
pub(super) fn of_record(engine: EngineKind, record: &Value) -> Option<Refusal> {
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
#[allow(dead_code, reason = "the stream reader comes next")]
pub(super) fn of_event(engine: EngineKind, data: &[u8]) -> Refusal {
    let record = serde_json::from_slice::<Value>(data).ok();
    match &record {
        Some(record @ Value::Object(_)) => of_record(engine, record)
            .unwrap_or_else(|| refusal(engine, record, record.get("message").and_then(Value::as_str))),
        _ => refusal(engine, &Value::Null, Some(&detail(data))),
    }
}

/// An error inside a 200, and the status that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) status: Option<u16>,
}

fn refusal(engine: EngineKind, error: &Value, message: Option<&str>) -> Refusal {
    let status = code_of(error);
    let detail = message.map_or_else(|| bounded(&error.to_string(), MOST_CHARS), |text| bounded(text, MOST_CHARS));
    let kinds = ["code", "type"].map(|key| error.get(key).and_then(Value::as_str).unwrap_or_default());
    let words = format!("{detail} {}", kinds.join(" ")).to_lowercase();
    let failure = of_words(engine, status.unwrap_or(200), None, &words, &detail);
    // LM Studio's 200 for a path that it lacks stands for a 404.
    let unknown_path = matches!(failure, Failure::Misconfigured(_)).then_some(404);
    Refusal { failure, status: status.or(unknown_path) }
}

/// The status that an error names, under the names that servers use.
fn code_of(error: &Value) -> Option<u16> {
    let found = ["code", "status", "status_code", "statusCode"].iter().find_map(|key| {
        let value = error.get(key)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    });
    found.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code))
}

/// What a status and the words beside it mean; `words` are in lower case. 200 is an error within a stream without a code.
fn of_words(engine: EngineKind, status: u16, retry_after: Option<Duration>, words: &str, detail: &str) -> Failure {
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    let detail = detail.to_owned();
    if matches!(status, 401..=403 | 407) || has(&["insufficient_quota"]) {
        return Failure::Unauthorized { status };
    }
    if status == 429 {
        return Failure::RateLimited { retry_after };
    }
    // A 422 repeats what was asked: its words are not the server's.
    if status != 422 && has(TOO_LARGE) {
        return Failure::ModelTooLarge { detail };
    }
    if status != 422 && has(OUT_OF_MEMORY) {
        return Failure::OutOfMemory { detail };
    }
    if status == 413 || has(TOO_LONG) {
        return Failure::PromptTooLong { detail };
    }
    if (status >= 500 || status == 200) && has(LOADING) {
        return Failure::Loading { detail };
    }
    if status == 503 {
        return Failure::Busy { detail };
    }
    if status != 422 && (has(CANNOT_LOAD) || (has(&["model type"]) && has(&["not supported"]))) {
        return Failure::CannotLoad { detail };
    }
    if matches!(status, 400 | 404 | 422 | 200) && is_missing_model(engine, words) {
        return Failure::ModelMissing { detail };
    }
    if has(REQUEST) && (status == 404 || status == 200) {
        return Failure::Rejected { status: if status == 200 { 400 } else { status }, detail };
    }
    match status {
        200 if has(&["rate_limit_exceeded", "rate limit"]) => Failure::RateLimited { retry_after: None },
        404 | 405 | 200 if is_unknown_path(words) => Failure::Misconfigured(format!("HTTP {status}: {detail}")),
        405 => Failure::Misconfigured(format!("HTTP 405: {detail}")),
        404 if engine == EngineKind::Mlx => Failure::ServerError { status, detail },
        404 => Failure::ModelMissing { detail },
        501 => Failure::Rejected { status, detail },
        // 408: a proxy gave up; 424: what is behind it failed; 499: its other client left.
        200 | 408 | 424 | 499 | 500..=599 => Failure::ServerError { status, detail },
        _ => Failure::Rejected { status, detail },
    }
}

const TOO_LARGE: &[&str] = &["requires more system memory", "insufficient system resources"];

/// Metal (MLX), CUDA, ROCm, Vulkan and llama.cpp's allocators.
const OUT_OF_MEMORY: &[&str] = &[
    "metal::malloc",
    "resource limit exceeded",
    "out of memory",
    "outofmemory",
    "outofdevicememory",
    "insufficient memory",
    "cudamalloc failed",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "attempting to allocate",
];

const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size",
    "exceeds the context length",
    "exceeds the available context",
    "exceeds context",
    "exceeds the context",
    "exceeds maximum context",
    "maximum context length",
    "maximum model length",
    "longer than the maximum",
    "context window",
    "when context the overflows",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input too long",
    "input length exceeds",
    "is too large to process",
    "must have less than",
];

const LOADING: &[&str] = &["loading model", "is loading", "still loading", "currently loading", "model not ready"];

const CANNOT_LOAD: &[&str] = &[
    "failed to load model",
    "error loading model",
    "unable to load model",
    "could not load model",
    "failed to load the model",
    "llama runner process has terminated",
    "waiting for llama runner to start",
    "model has crashed",
    "unknown model architecture",
    "no safetensors found",
];

/// Errors of a request that MLX answers with 404: the chat template's, the roles', the parameters'.
const REQUEST: &[&str] = &[
    "roles must alternate",
    "conversation roles",
    "template",
    "jinja",
    "system role",
    "role not supported",
    "unexpected message role",
    "only user",
    "no user query",
    "has no attribute",
    "'role'",
    "'content'",
    "is undefined",
    "content type is supported",
    "must be a list",
    "prompt must not be empty",
    "invalid_request_error",
];

/// mlx_lm's come from the hub's client; it answers 404 to any exception, so that nothing else counts there.
fn is_missing_model(engine: EngineKind, words: &str) -> bool {
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    let from_hub =
        has(&["repository not found", "cached snapshot folder", "snapshot folder", "huggingface", "repo id must"]);
    let named = words.contains("model")
        && has(&["not found", "does not exist", "not exist", "no such model", "model_not_found", "invalid model"]);
    let unloaded = words.contains("no models loaded");
    match engine {
        EngineKind::Mlx => from_hub || (named && !has(REQUEST)),
        EngineKind::Ollama | EngineKind::OpenAi => named || unloaded || words.contains("model_not_found"),
    }
}

/// The words of frameworks for a path that they don't know; LM Studio answers them with 200.
fn is_unknown_path(words: &str) -> bool {
    let words = words.trim().trim_end_matches(['.', '!']);
    ["not found", "404 page not found", "no explanation", "file not found not_found_error", "method not allowed"]
        .contains(&words)
        || [
            "unexpected endpoint",
            "cannot post",
            "no route",
            "invalid url (post",
            "route not found",
            "unknown endpoint",
        ]
        .iter()
        .any(|one| words.contains(one))
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

/// The engine's own words, from whatever form of error a body has, else the body's beginning.
pub fn detail(body: &[u8]) -> String {
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
    format!("{} {}", detail(body), kinds.join(" ")).trim().to_lowercase()
}

fn beginning(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned()
}

fn bounded(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
