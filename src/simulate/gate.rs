//! What happens to every request before an engine's own handler sees it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use crate::engines::EngineKind;

use super::Fault;
use super::control::PREFIX;
use super::generate::Context;
use super::reply;
use super::state::Shared;
use super::wire::Switch;

pub(super) async fn gate(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    if path.starts_with(PREFIX) {
        return next.run(request).await;
    }
    let call = Arc::new(shared.ledger.open(request.method().as_str(), &path, is_inference(&path)));
    if call.inference {
        shared.crash_if_triggered();
    }
    if shared.fault(|fault| matches!(fault, Fault::Reset {}).then_some(())).is_some() {
        switch.reset();
        std::future::pending::<()>().await;
    }
    shared.until_none(|fault| matches!(fault, Fault::Hang {})).await;
    delay(&shared, &path).await;
    let answer = match replaced(&shared, &path).or_else(|| unauthorized(&shared, &request)) {
        Some(answer) => {
            call.finish();
            answer
        }
        None => {
            request.extensions_mut().insert(Context { call: Arc::clone(&call), switch });
            let answer = next.run(request).await;
            // A generation that is streamed finishes its call itself.
            if answer.body().size_hint().exact().is_some() {
                call.finish();
            }
            answer
        }
    };
    call.note(|record| record.status = Some(answer.status().as_u16()));
    answer
}

fn is_inference(path: &str) -> bool {
    matches!(
        path,
        "/api/chat"
            | "/api/generate"
            | "/api/embed"
            | "/v1/chat/completions"
            | "/chat/completions"
            | "/v1/completions"
            | "/v1/embeddings"
    )
}

fn concerns(fault_path: &Option<String>, path: &str) -> bool {
    fault_path.as_ref().is_none_or(|only| only == path)
}

async fn delay(shared: &Shared, path: &str) {
    let late = |fault: &Fault| match fault {
        Fault::Latency { millis, path: only } if concerns(only, path) => Some(*millis),
        _ => None,
    };
    if let Some(millis) = shared.fault(late) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

/// The answer that a fault puts in place of the real one.
fn replaced(shared: &Shared, path: &str) -> Option<Response> {
    shared.fault(|fault| match fault {
        Fault::Status { code, path: only, retry_after_seconds } if concerns(only, path) => {
            let mut answer = reply::json(*code, &json!({"error": format!("simulated {code}")}));
            if let Some(seconds) = retry_after_seconds {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Some(answer)
        }
        Fault::EmptyBody { path: only } if concerns(only, path) => Some(reply::text(200, "")),
        Fault::GarbageBody { path: only } if concerns(only, path) => {
            Some(reply::with_type(200, "text/html", "<html><body>Welcome to nginx!</body></html>"))
        }
        _ => None,
    })
}

fn unauthorized(shared: &Shared, request: &Request) -> Option<Response> {
    let key = shared.options.api_key.as_ref()?;
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if given.and_then(|value| value.strip_prefix("Bearer ")) == Some(key.expose()) {
        return None;
    }
    let error = json!({"message": "Incorrect API key provided", "type": "invalid_request_error", "param": null, "code": "invalid_api_key"});
    match shared.options.engine {
        EngineKind::OpenAi => Some(reply::json(401, &json!({"error": error}))),
        EngineKind::Ollama | EngineKind::Mlx => Some(reply::json(401, &json!({"error": "unauthorized"}))),
    }
}
