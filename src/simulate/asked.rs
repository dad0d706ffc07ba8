//! What a request asks for, as far as faults and the log care, whatever engine it speaks to.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::reply;

/// A body is read into memory at once.
const LARGEST_BODY: usize = 64 << 20;

const INFERENCES: [&str; 9] = [
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/v1/chat/completions",
    "/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
];

/// A request as it came.
#[derive(Debug)]
pub(super) struct SimulatedRequest {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) inference: bool,
    pub(super) streams: bool,
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<u32>,
    body: Bytes,
}

impl SimulatedRequest {
    /// Reads the body and gives the request back with it.
    pub(super) async fn read(request: Request) -> Result<(Self, Request), Response> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, LARGEST_BODY)
            .await
            .map_err(|error| reply::json(413, &json!({"error": format!("can't read the body: {error}")})))?;
        let fields: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let asked = Self {
            method: parts.method.clone(),
            inference: INFERENCES.contains(&path.as_str()) && !only_loads(&path, &fields),
            // Ollama's own paths stream unless told otherwise.
            streams: fields.get("stream").and_then(Value::as_bool).unwrap_or(path.starts_with("/api/")),
            model: fields.get("model").and_then(Value::as_str).map(str::to_owned),
            max_tokens: max_tokens(&fields),
            path,
            body: body.clone(),
        };
        Ok((asked, Request::from_parts(parts, Body::from(body))))
    }

    /// Whether a fault's path means this request.
    pub(super) fn is_at(&self, path: Option<&str>) -> bool {
        match path {
            None => true,
            Some("listings") => self.method == Method::GET,
            Some("inferences") => self.inference,
            Some(only) => self.path == only,
        }
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        !text.is_empty() && self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }

    pub(super) fn is_chat(&self) -> bool {
        self.inference && !matches!(self.path.as_str(), "/api/embed" | "/v1/embeddings")
    }
}

/// Without a prompt Ollama loads or unloads the model and infers nothing.
fn only_loads(path: &str, fields: &Value) -> bool {
    match path {
        "/api/chat" => fields.get("messages").and_then(Value::as_array).is_none_or(Vec::is_empty),
        "/api/generate" => fields.get("prompt").and_then(Value::as_str).is_none_or(str::is_empty),
        _ => false,
    }
}

fn max_tokens(fields: &Value) -> Option<u32> {
    let given = ["/max_tokens", "/max_completion_tokens", "/options/num_predict"];
    given.iter().find_map(|key| u32::try_from(fields.pointer(key)?.as_u64()?).ok())
}

/// A JSON body whatever its content type says: `curl -d` names none, and the real engines don't mind.
pub(super) struct Lenient<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Lenient<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        let parsed = serde_json::from_slice(&body);
        parsed.map(Lenient).map_err(|error| reply::json(400, &json!({"error": error.to_string()})))
    }
}
