//! What happens to every request before an engine's own handler sees it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::json;

use crate::engines::{EngineKind, same_model};

use super::Fault;
use super::asked::SimulatedRequest;
use super::calls::{CallEnd, SimulatedCall};
use super::control::PREFIX;
use super::generate::Context;
use super::replies::{Like, no_chat};
use super::reply;
use super::state::SimulatedState;
use super::wire::Switch;

pub(super) async fn gate(
    State(shared): State<Arc<SimulatedState>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path().starts_with(PREFIX) {
        return next.run(request).await;
    }
    let (asked, mut request) = match SimulatedRequest::read(request).await {
        Ok(read) => read,
        Err(answer) => return answer,
    };
    let call = Arc::new(shared.ledger.open(asked.method.as_str(), &asked.path, asked.inference));
    call.note(|record| {
        record.model = asked.model.clone();
        record.max_tokens = asked.max_tokens;
    });
    if asked.inference {
        shared.review_faults(true);
    }
    if shared.has(|fault| matches!(fault, Fault::Reset { path } if asked.is_at(path.as_deref()))) {
        switch.reset();
        std::future::pending::<()>().await;
    }
    shared.faults.until_none(|fault| matches!(fault, Fault::Hang { path } if asked.is_at(path.as_deref()))).await;
    delay(&shared, &asked).await;
    let instead = replaced(&shared, &asked)
        .or_else(|| unauthorized(&shared, &request))
        .or_else(|| without_length(&shared, &asked, &request));
    if let Some(answer) = instead {
        call.note(|record| record.status = Some(answer.status().as_u16()));
        call.finish();
        return answer;
    }
    request.extensions_mut().insert(Context { call: Arc::clone(&call), switch });
    if asked.inference && ignores_disconnects(&shared, &asked) {
        return detached(&shared, call, request, next).await;
    }
    let answer = next.run(request).await;
    answered(&call, &answer);
    answer
}

/// A generation that is streamed finishes its call itself.
fn answered(call: &SimulatedCall, answer: &Response) {
    call.note(|record| record.status = Some(answer.status().as_u16()));
    if answer.body().size_hint().exact().is_some() {
        call.finish();
    }
}

/// mlx_lm notices that a client went away only when it writes to it.
fn ignores_disconnects(shared: &SimulatedState, asked: &SimulatedRequest) -> bool {
    (shared.options.engine == EngineKind::Mlx && !asked.streams)
        || shared.has(|fault| matches!(fault, Fault::UnnoticedDisconnect {}))
}

/// Runs a call to its end whether or not somebody waits for it.
async fn detached(shared: &Arc<SimulatedState>, call: Arc<SimulatedCall>, request: Request, next: Next) -> Response {
    let mut left = Left(Some(Arc::clone(&call)));
    let (send, receive) = tokio::sync::oneshot::channel();
    let over = shared.over.clone();
    tokio::spawn(over.run_until_cancelled_owned(async move {
        let answer = next.run(request).await;
        answered(&call, &answer);
        if answer.body().size_hint().exact().is_some() {
            let _ = send.send(answer);
            return;
        }
        let (parts, body) = answer.into_parts();
        let (chunks, rest) = tokio::sync::mpsc::unbounded_channel();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(rest);
        if send.send(Response::from_parts(parts, Body::from_stream(stream))).is_err() {
            call.end(CallEnd::Abandoned);
        }
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            if chunks.send(chunk).is_err() {
                call.end(CallEnd::Abandoned);
            }
        }
    }));
    let answer = receive.await;
    left.0 = None;
    answer.unwrap_or_else(|_closed| axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response())
}

/// Dropped while it holds a call, the client went away.
struct Left(Option<Arc<SimulatedCall>>);

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.end(CallEnd::Abandoned);
        }
    }
}

async fn delay(shared: &SimulatedState, asked: &SimulatedRequest) {
    let late = |fault: &Fault| match fault {
        Fault::Latency { millis, path } if asked.is_at(path.as_deref()) => Some(*millis),
        _ => None,
    };
    if let Some(millis) = shared.fault(late) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}

const LOGIN: &str = "/login";

/// The answer that a fault puts in place of the real one.
fn replaced(shared: &SimulatedState, asked: &SimulatedRequest) -> Option<Response> {
    shared.fault(|fault| match fault {
        Fault::Status { code, path, retry_after_seconds } if asked.is_at(path.as_deref()) => {
            let mut answer = reply::json(*code, &json!({"error": format!("simulated {code}")}));
            if let Some(seconds) = retry_after_seconds {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Some(answer)
        }
        Fault::EmptyBody { path } if asked.is_at(path.as_deref()) => Some(reply::text(200, "")),
        Fault::GarbageBody { path } if asked.is_at(path.as_deref()) => Some(page("Welcome to nginx!")),
        Fault::Redirect { to, .. } if to == "login" && asked.path == LOGIN => Some(page("Log in")),
        Fault::Redirect { to, code, path } if asked.is_at(path.as_deref()) => {
            let mut answer = reply::text(*code, "");
            // Checked when the fault was set.
            let location = HeaderValue::try_from(location(to, &asked.path)).ok()?;
            answer.headers_mut().insert(header::LOCATION, location);
            Some(answer)
        }
        Fault::Reply { like, path, model, contains, below_tokens } => {
            let engine = shared.options.engine;
            let same = |only: &String| asked.model.as_ref().is_some_and(|asked| same_model(engine, only, asked));
            let matches = asked.is_at(path.as_deref().or(like.usual_path()))
                && model.as_ref().is_none_or(same)
                && contains.as_ref().is_none_or(|text| asked.contains(text))
                && below_tokens.is_none_or(|below| asked.max_tokens.is_some_and(|most| most < below));
            matches.then(|| like.response())
        }
        Fault::EmbeddingsOnly { code } if asked.is_chat() => Some(no_chat(*code)),
        _ => None,
    })
}

fn page(title: &str) -> Response {
    reply::with_type(200, "text/html", format!("<html><body>{title}</body></html>"))
}

fn location(to: &str, path: &str) -> String {
    match to {
        "login" => LOGIN.to_owned(),
        "loop" => path.to_owned(),
        _ => match to.split_once("://") {
            Some((_, rest)) if !rest.contains('/') => format!("{to}{path}"),
            _ => to.to_owned(),
        },
    }
}

/// mlx_lm reads no chunked bodies.
fn without_length(shared: &SimulatedState, asked: &SimulatedRequest, request: &Request) -> Option<Response> {
    let lacks_length = asked.method == Method::POST && !request.headers().contains_key(header::CONTENT_LENGTH);
    (shared.options.engine == EngineKind::Mlx && lacks_length).then(|| Like::LengthRequired.response())
}

fn unauthorized(shared: &SimulatedState, request: &Request) -> Option<Response> {
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
