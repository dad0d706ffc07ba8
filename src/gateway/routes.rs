//! What may be asked, and what everything else is told.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Extension, Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::{get, post},
};
use serde_json::Value;
use uuid::Uuid;

use super::{
    answer,
    asker::Asker,
    cache::CacheWish,
    call::{self, CallRequest},
    catalog,
    client::{CALL_ID, Client, refusal_headers},
    core::GatewayCore,
    door::{self, Visitor},
    intake,
};
use crate::protocols::{Operation, Protocol, Refusal, RefusalReason};

pub(super) fn router(core: Arc<GatewayCore>) -> Router {
    let mut router = Router::new()
        .route("/", get(async || "Ollama is running"))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/api/tags", get(tags))
        .route("/api/ps", get(loaded))
        .route("/api/version", get(version))
        .route("/api/show", post(show))
        .route("/v1/messages/count_tokens", post(count_tokens));
    for operation in Operation::ALL {
        let serve = async move |State(core): State<Arc<GatewayCore>>,
                                Extension(asker): Extension<Asker>,
                                request: Request| { infer(core, operation, asker, request).await };
        router = router.route(operation.path(), post(serve));
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(middleware::from_fn_with_state(Arc::clone(&core), at_the_door))
        .with_state(core)
}

/// Admits a request, and tells a page's browser that it may read the answer.
async fn at_the_door(
    State(core): State<Arc<GatewayCore>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let protocol = Protocol::of_path(request.uri().path());
    let Visitor { origin, is_beside, presented } =
        match door::admit(peer, request.method(), request.headers(), &core.origins) {
            Ok(visitor) => visitor,
            Err(refusal) => return refused(protocol, &refusal),
        };
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if *request.method() == Method::OPTIONS {
        preflight(wanted)
    } else if request.headers().contains_key(CALL_ID) {
        let why = "this call came from a gateway already: a backend's URL must be an engine's, not a gateway's";
        refused(protocol, &Refusal::new(RefusalReason::Loop, why))
    } else if request.headers().contains_key(header::UPGRADE) {
        let why = "no protocol but HTTP is spoken here: ask without an upgrade";
        refused(protocol, &Refusal::new(RefusalReason::Upgrade, why))
    } else {
        match core.view().asker(&presented, is_beside.then_some(&core.namespace)) {
            Ok(asker) => {
                request.extensions_mut().insert(asker);
                next.run(request).await
            }
            Err(refusal) => refused(protocol, &refusal),
        }
    };
    let allowed = origin.and_then(|origin| HeaderValue::from_str(&origin).ok());
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

fn preflight(wanted: Option<HeaderValue>) -> Response<Body> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(HeaderValue::from_static("*")));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

async fn infer(core: Arc<GatewayCore>, operation: Operation, asker: Asker, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let (body, room) = match intake::read(&core.bodies, &parts.headers, body).await {
        Ok(read) => read,
        Err(refusal) => return refused(operation.protocol(), &refusal),
    };
    let id = Uuid::now_v7().simple().to_string();
    let (client, waiting) = Client::new(operation, id, asker, core.timings.clone());
    let request = CallRequest {
        body,
        headers: answer::to_engine(&parts.headers),
        cache: CacheWish::of(&parts.headers),
        session: answer::session(&parts.headers),
        _room: room,
    };
    // The call outlives this handler, which is dropped when its client leaves: its slot is given back whatever happens.
    core.calls.spawn(call::run(Arc::clone(&core), request, Arc::new(client)));
    waiting.response().await
}

async fn models(State(core): State<Arc<GatewayCore>>, Extension(asker): Extension<Asker>) -> Response<Body> {
    answered(Protocol::OpenAi, catalog::models(&core, &asker.caller).await)
}

async fn model(
    State(core): State<Arc<GatewayCore>>,
    Extension(asker): Extension<Asker>,
    Path(id): Path<String>,
) -> Response<Body> {
    answered(Protocol::OpenAi, catalog::model(&core, &asker.caller, &id).await)
}

async fn tags(State(core): State<Arc<GatewayCore>>, Extension(asker): Extension<Asker>) -> Response<Body> {
    answered(Protocol::Ollama, catalog::tags(&core, &asker.caller).await)
}

async fn loaded(State(core): State<Arc<GatewayCore>>, Extension(asker): Extension<Asker>) -> Response<Body> {
    answered(Protocol::Ollama, catalog::loaded(&core, &asker.caller).await)
}

async fn version(State(core): State<Arc<GatewayCore>>, Extension(asker): Extension<Asker>) -> Response<Body> {
    answered(Protocol::Ollama, catalog::version(&core, &asker.caller).await)
}

async fn show(
    State(core): State<Arc<GatewayCore>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let shown = match intake::read(&core.bodies, &parts.headers, body).await {
        Ok((body, _room)) => catalog::show(&core, &asker.caller, &body).await,
        Err(refusal) => Err(refusal),
    };
    answered(Protocol::Ollama, shown)
}

async fn count_tokens(
    State(core): State<Arc<GatewayCore>>,
    Extension(asker): Extension<Asker>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let counted = match intake::read(&core.bodies, &parts.headers, body).await {
        Ok((body, _room)) => catalog::count_tokens(&core, &asker.caller, &body),
        Err(refusal) => Err(refusal),
    };
    answered(Protocol::Anthropic, counted)
}

/// Whatever is not served, with a sentence that says why.
async fn unknown(request: Request) -> Response<Body> {
    let (method, path) = (request.method(), request.uri().path());
    let shown: String = path.chars().take(200).collect();
    let why = match path {
        "/api/pull" | "/api/create" | "/api/delete" | "/api/copy" | "/api/push" => {
            format!("{path} changes a server's models: those are declared, in the models of its LLMBackend")
        }
        _ if path.starts_with("/api/blobs") => {
            format!("{shown} uploads a model: models are declared, in their LLMBackend")
        }
        _ if path.starts_with("/v1/responses/") => format!("{shown}: nothing is kept between calls here"),
        _ => match meant(path) {
            Some(meant) => format!("{method} {shown} is not served: did you mean POST {meant}?"),
            None => format!(
                "{method} {shown} is not served: what OpenAI, Anthropic and Ollama have for chats, completions, embeddings and listings is"
            ),
        },
    };
    refused(Protocol::of_path(path), &Refusal::new(RefusalReason::UnknownPath, why))
}

/// The call whose path this one ends with: a base URL had too much or too little of it.
fn meant(path: &str) -> Option<&'static str> {
    let paths = Operation::ALL.map(Operation::path);
    let within = |whole: &str, end: &str| !end.is_empty() && whole.ends_with(&format!("/{end}"));
    let path = path.trim_matches('/');
    paths
        .into_iter()
        .find(|known| *known == format!("/{path}"))
        .or_else(|| paths.into_iter().find(|known| within(known, path)))
        .or_else(|| paths.into_iter().find(|known| path.ends_with(&known[1..])))
}

fn answered(protocol: Protocol, answer: Result<Value, Refusal>) -> Response<Body> {
    match answer {
        Ok(value) => {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            whole(StatusCode::OK, headers, value.to_string().into())
        }
        Err(refusal) => refused(protocol, &refusal),
    }
}

fn refused(protocol: Protocol, refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    whole(status, refusal_headers(refusal), refusal.body(protocol).to_string().into())
}

fn whole(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_too_much_or_too_little_is_understood() {
        for (path, known) in [
            ("/chat/completions", Some("/v1/chat/completions")),
            ("/v1/v1/chat/completions", Some("/v1/chat/completions")),
            ("/v1/messages/v1/messages", Some("/v1/messages")),
            ("/v1/api/chat", Some("/api/chat")),
            ("/v1/chat/completions/", Some("/v1/chat/completions")),
            ("/", None),
            ("/v1/audio/speech", None),
        ] {
            assert_eq!(meant(path), known, "{path}");
        }
    }
}
