//! The way in: credentials, a body of bounded size, an id that is new; refusals are answered, logged, counted.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{ConnectInfo, FromRequest, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;
use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::{app::App, routes::CARE};
use crate::{
    agent::gate::{self, Refused, RequestAdmission, RequestCredentials},
    host::{
        AgentRefusal, ErrorBody, MAX_BODY_BYTES, header as names,
        sign::{HEADER_ID, HEADER_SIGNATURE, HEADER_TIMESTAMP, Signature},
    },
};

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.reason.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let body = ErrorBody { error: self.message.clone(), reason: self.reason };
        let mut response = (status, Json(body)).into_response();
        // For the middleware that logs and counts.
        response.extensions_mut().insert(self);
        response
    }
}

/// Logs and counts what was refused.
pub async fn watch(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = shown(request.uri().path());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|c| c.0);
    let response = next.run(request).await;
    if let Some(refused) = response.extensions().get::<Refused>() {
        app.metrics.agent.refused(&app.name, refused.reason.as_str());
        if app.refusals.is_first(refused.reason, peer.map(|peer| peer.ip()), Instant::now()) {
            let peer = peer.map(|peer| peer.to_string());
            tracing::warn!(%method, path, peer, reason = refused.reason.as_str(), error = refused.message, "request refused");
        }
    }
    response
}

/// A path for the log: short, and without the token that `/recover/TOKEN` ends in.
fn shown(path: &str) -> String {
    if path.trim_start_matches('/').starts_with("recover/") {
        return "/recover/…".to_owned();
    }
    path.chars().take(120).collect()
}

/// A request of which nothing is believed yet.
#[derive(Debug)]
pub struct UnverifiedRequest {
    pub headers: HeaderMap,
    method: Method,
    uri: Uri,
    body: Body,
}

impl<S: Send + Sync> FromRequest<S> for UnverifiedRequest {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        Ok(Self { headers: parts.headers, method: parts.method, uri: parts.uri, body })
    }
}

/// Lets a request in and returns its headers and body, or says why not. Its signature covers all that it asks.
pub async fn admit(app: &Arc<App>, asked: UnverifiedRequest) -> Result<(HeaderMap, Bytes), Refused> {
    let header = |name: &str| text(&asked.headers, name).unwrap_or_default().to_owned();
    let request = gate::RequestHead {
        method: asked.method.as_str().to_owned(),
        path: asked.uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default(),
        agent: header(names::AGENT),
        installation: header(names::INSTALLATION),
        epoch: header(names::EPOCH),
        idempotency_key: header(names::IDEMPOTENCY_KEY),
    };
    admit_as(app, asked, |headers| RequestCredentials { request: Some(request), ..presented(headers, None) }).await
}

/// The same for a webhook of another program: it signs the body alone, or has its token in the path.
pub async fn admit_webhook(
    app: &Arc<App>,
    asked: UnverifiedRequest,
    path_token: Option<String>,
) -> Result<(HeaderMap, Bytes), Refused> {
    admit_as(app, asked, |headers| presented(headers, path_token)).await
}

async fn admit_as(
    app: &Arc<App>,
    asked: UnverifiedRequest,
    presented: impl FnOnce(&HeaderMap) -> RequestCredentials,
) -> Result<(HeaderMap, Bytes), Refused> {
    let given = presented(&asked.headers);
    // What comes again after a restart of a read does nothing, and of care little: it lasts a minute. So an idle agent writes nothing.
    let harmless = given.request.is_some() && (asked.method == Method::GET || asked.uri.path() == CARE);
    gate::before_body(&app.keys, &given, Timestamp::now())?;
    let body = bounded(&asked.headers, asked.body).await?;
    let now = Timestamp::now();
    if let RequestAdmission::Signed { id } = gate::admit(&app.name, &app.keys, &given, &body, now)? {
        if harmless {
            app.replay_guard.take_id_until_restart(&id, now)?;
        } else {
            on_disk(app, move |app| app.replay_guard.take_id(&id, now)).await?;
        }
    }
    Ok((asked.headers, body))
}

async fn bounded(headers: &HeaderMap, body: Body) -> Result<Bytes, Refused> {
    let too_large = || {
        Refused::new(
            AgentRefusal::BodyTooLarge,
            format!("the body has more than {MAX_BODY_BYTES} bytes: send a smaller one"),
        )
    };
    let announced = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|l| l.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    match timeout(BODY_TIME, read(body)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) => Err(Refused::new(AgentRefusal::BadRequest, format!("the body broke off: {error}"))),
        Err(_) => Err(Refused::new(AgentRefusal::BadRequest, "the body took more than 10 s to arrive")),
    }
}

/// The whole body; `None`: it has more than is read.
async fn read(body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut chunks = body.into_data_stream();
    let mut read = Vec::new();
    while let Some(chunk) = chunks.try_next().await? {
        if read.len() + chunk.len() > MAX_BODY_BYTES {
            return Ok(None);
        }
        read.extend_from_slice(&chunk);
    }
    Ok(Some(read.into()))
}

fn presented(headers: &HeaderMap, path_token: Option<String>) -> RequestCredentials {
    let own = |name: &str| text(headers, name).map(str::to_owned);
    let signature = match (own(HEADER_ID), own(HEADER_TIMESTAMP), own(HEADER_SIGNATURE)) {
        (None, None, None) => None,
        (id, timestamp, signature) => Some(Signature {
            id: id.unwrap_or_default(),
            timestamp: timestamp.unwrap_or_default(),
            signature: signature.unwrap_or_default(),
        }),
    };
    let bearer = text(headers, header::AUTHORIZATION.as_str()).map(|value| match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim().to_owned(),
        // Some other scheme: credentials, but none that can be right.
        _ => String::new(),
    });
    RequestCredentials {
        request: None,
        signature,
        token: path_token.or(bearer),
        origin: own(header::ORIGIN.as_str()),
        host: own(header::HOST.as_str()),
    }
}

/// A header's text. One that is no text counts as empty: it is there, and can't be right.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|v| v.to_str().unwrap_or_default())
}

/// Does what waits for the disk off the threads that serve requests.
pub async fn on_disk<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    let app = Arc::clone(app);
    let done = tokio::task::spawn_blocking(move || work(&app)).await;
    done.unwrap_or_else(|e| Err(Refused::new(AgentRefusal::NotRecorded, format!("the agent broke off: {e}"))))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::agent::callers;
    use crate::host::{
        Credentials, Token,
        sign::{Bound, SigningSecret, named_claim, sign, sign_request, verify_claim},
    };

    /// The lines of an example: method, path, agent, installation, epoch, key, how it is proven, the proof. `SIGN` stands for a good
    /// signature of all of it.
    #[test]
    fn any_bytes_are_let_in_by_a_good_signature_alone() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        crate::testing::any_bytes("requests", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
            let mut lines = head.split('\n');
            let mut line = || lines.next().unwrap_or_default().to_owned();
            let request = gate::RequestHead {
                method: line(),
                path: line(),
                agent: line(),
                installation: line(),
                epoch: line(),
                idempotency_key: line(),
            };
            let (way, proof) = (line(), line());
            let good = (way == "secret" && proof == "SIGN").then(|| {
                let gate::RequestHead { method, path, agent, installation, epoch, idempotency_key } = &request;
                let bound = Bound { agent: "mac", method, path, installation, epoch, idempotency_key };
                match agent.as_str() {
                    "" => sign(&secret, body.as_bytes(), now),
                    _ => sign_request(&secret, bound, body.as_bytes(), now),
                }
            });
            let mut headers = HeaderMap::new();
            let mut set = |name: &'static str, value: &str| {
                HeaderValue::from_bytes(value.as_bytes()).ok().map(|value| headers.insert(name, value));
            };
            let mut words = proof.splitn(3, ' ');
            match (&good, way.as_str()) {
                (Some(good), _) => good.headers().into_iter().for_each(|(name, value)| set(name, value)),
                (None, "secret") => [HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE]
                    .into_iter()
                    .for_each(|name| set(name, words.next().unwrap_or_default())),
                (None, "token") => set(header::AUTHORIZATION.as_str(), &proof),
                _ => set(header::HOST.as_str(), &proof),
            }
            let covered = (!request.agent.is_empty()).then(|| request.clone());
            let given = RequestCredentials { request: covered, ..presented(&headers, None) };
            let mut keys = Credentials { signing_secret: Some(secret.clone()), token: None };
            if way == "token" {
                keys.token = Some(Token::new("correct-horse-battery-staple"));
            }
            let admitted = gate::admit("mac", &keys, &given, body.as_bytes(), now);
            assert!(admitted.is_err() || good.is_some() || proof.contains("correct-horse"), "{admitted:?}");
            let open = gate::admit("mac", &Credentials::default(), &given, body.as_bytes(), now);
            let caller = callers::caller(Some(&request.installation), Some(&request.epoch));
            let claim = named_claim(body);
            assert!(!verify_claim(&secret, body) || claim.is_some());
            let secret = SigningSecret::parse(body).map(|secret| secret.expose());
            assert!(secret.as_ref().is_ok_and(|told| told == body.trim()) || secret.is_err(), "{secret:?}");
            let reason = |refused: &Refused| {
                assert!(refused.message.len() < 2_048, "{}", refused.message.len());
                refused.reason.as_str()
            };
            format!(
                "{}{}{:?}{}{:?}",
                admitted.as_ref().map_or_else(reason, |_| "in"),
                open.as_ref().map_or_else(reason, |_| "in"),
                caller.as_ref().map_err(reason).map(Option::is_some),
                claim.is_some(),
                secret.err(),
            )
        });
    }
}
