//! Everybody who comes to the dashboard comes in here: by which name, from which page, in which session, and whether that person may.

use std::collections::HashMap;

use axum::{
    extract::{FromRequest, RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use reqwest::Url;
use uuid::Uuid;

use super::{
    frame,
    rights::UiRights,
    session::{UiSession, UiSessions},
    snapshots::UiSnapshots,
    visit::UiVisit,
};
use crate::http::{
    Access, Api, ApiError, AuthError, ExternalUrl, Person, auth::Rule, extract::RawBody, routes::query_namespace,
};

/// The only sources of anything: what this process serves itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// The script's own requests: they are told that a session is over, and not led to the page that begins one.
pub const REFRESH: &str = "ostler-refresh";

/// What decides who comes in.
#[derive(Clone)]
pub struct UiDoor {
    pub sessions: UiSessions,
    pub snapshots: UiSnapshots,
    pub rights: UiRights,
}

impl UiDoor {
    pub fn new(api: &Api) -> Self {
        Self {
            sessions: UiSessions::new(api.sealing.clone()),
            snapshots: UiSnapshots::default(),
            rights: UiRights::new(std::sync::Arc::clone(&api.authorizer)),
        }
    }
}

/// The name of the session's cookie: cookies don't know ports, and several installations may be on one host.
pub fn cookie_name(installation: Uuid) -> String {
    format!("ostler_{}", &installation.simple().to_string()[..8])
}

/// Lets a request through to its handler as a [`UiVisit`], or answers it.
pub async fn enter(
    State((api, door, rule)): State<(Api, UiDoor, Rule)>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let path = path.map(|path| path.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    let changes = changes(request.method());
    match admitted(&api, door.clone(), rule, path.unwrap_or_default(), request).await {
        Ok(request) => {
            let response = next.run(request).await;
            if changes {
                door.snapshots.forget().await;
            }
            response
        }
        Err(response) => response,
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

async fn admitted(
    api: &Api,
    door: UiDoor,
    rule: Rule,
    path: HashMap<String, String>,
    request: Request,
) -> Result<Request, Response> {
    let (parts, body) = request.into_parts();
    let host = text(&parts.headers, header::HOST).unwrap_or_default().to_owned();
    let external = api.external_url.as_ref().filter(|url| url.is_host(&host));
    if external.is_none() && !is_own_host(&host) {
        return Err(frame::refusal(
            StatusCode::MISDIRECTED_REQUEST,
            &format!("The dashboard is not served as {host:?}"),
            "Open it as `ostler dashboard` prints it: by a loopback address, or by that of --external-url.",
        ));
    }
    let changes = changes(&parts.method);
    if changes && !is_own_origin(&parts.headers, &host) {
        return Err(frame::refusal(
            StatusCode::FORBIDDEN,
            "The form was sent by another page",
            "Nothing was done. Open the dashboard itself, and send its form.",
        ));
    }
    let failed = |error: ApiError| frame::refusal_of(&error);
    let installation = api.store.installation().await.map_err(|error| failed(error.into()))?;
    let session = session(&door, &parts.headers, installation);
    let form = match changes {
        true => form(api, &parts, body).await.map_err(failed)?,
        false => Vec::new(),
    };
    let namespace = query_namespace(parts.uri.query().unwrap_or_default()).filter(|text| !text.is_empty());
    let access = rule.access(&path, namespace.as_deref());
    let known = text(&parts.headers, header::IF_NONE_MATCH).map(str::to_owned);
    let is_secure = external.is_some_and(ExternalUrl::is_secure);
    let uri = parts.uri.clone();
    let visit = UiVisit { door, installation, is_secure, session, path, namespace, form, known, uri };
    if let Some(access) = &access {
        may(&visit, access, changes, parts.headers.contains_key(REFRESH)).await?;
    }
    let mut request = Request::from_parts(parts, axum::body::Body::empty());
    if let Some(session) = &visit.session {
        request.extensions_mut().insert(Person(session.grant.person.clone()));
    }
    request.extensions_mut().insert(visit);
    Ok(request)
}

/// Whether the session's person may do this; the answer to give when not.
async fn may(visit: &UiVisit, access: &Access, changes: bool, is_refresh: bool) -> Result<(), Response> {
    let Some(session) = &visit.session else { return Err(visit.to_sign_in(changes || is_refresh)) };
    if changes && visit.field("token") != Some(session.form_token().as_str()) {
        return Err(frame::refusal(
            StatusCode::FORBIDDEN,
            "The form is of another session",
            "Nothing was done. Go back, load the page again, and send its form once more.",
        ));
    }
    match visit.door.rights.check(&session.grant, access).await {
        Ok(_) => Ok(()),
        Err(AuthError::BadToken | AuthError::NoToken) => Err(visit.to_sign_in(changes || is_refresh)),
        Err(error) => Err(visit.answer(Err(ApiError::Auth(error)))),
    }
}

fn session(door: &UiDoor, headers: &HeaderMap, installation: Uuid) -> Option<UiSession> {
    let name = cookie_name(installation);
    let all = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    door.sessions.open(value, Timestamp::now())
}

async fn form(api: &Api, parts: &Parts, body: axum::body::Body) -> Result<Vec<(String, String)>, ApiError> {
    let mut request = Request::new(body);
    request.headers_mut().clone_from(&parts.headers);
    request.extensions_mut().clone_from(&parts.extensions);
    let RawBody { bytes, room: _room } = RawBody::from_request(request, api).await?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::BadRequest("the form is no UTF-8".to_owned()))?;
    Ok(pairs(text))
}

/// The fields of a form or a query, in their order.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let Ok(mut url) = Url::parse("http://form/") else { return Vec::new() };
    url.set_query(Some(text));
    url.query_pairs().into_owned().collect()
}

/// A page whose name was made to resolve to this machine is told by the host that it calls.
fn is_own_host(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return false };
    let name = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => name == "localhost",
    }
}

/// Whether a form was sent by one of our own pages. Every browser says where a form comes from.
fn is_own_origin(headers: &HeaderMap, host: &str) -> bool {
    match text(headers, header::ORIGIN) {
        Some(origin) => {
            let called = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            called.is_some_and(|called| called.eq_ignore_ascii_case(host))
        }
        None => headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin"),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What every answer of the dashboard says to the browser.
pub async fn secured(response: Response) -> Response {
    let mut response = response.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // `no-referrer` would hide from ourselves where a form comes from.
        (header::REFERRER_POLICY, "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_our_own_name() {
        for (host, own) in [
            ("127.0.0.1:9180", true),
            ("localhost:9180", true),
            ("LOCALHOST", true),
            ("[::1]:9180", true),
            ("127.9.9.9", true),
            ("evil.example:9180", false),
            ("localhost.evil.example", false),
            ("10.0.0.7:9180", false),
            ("127.0.0.1@evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_own_host(host), own, "{host}");
        }
    }

    #[test]
    fn a_form_comes_from_a_page_of_the_same_host_and_port() {
        let headers = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
        };
        for (name, value, own) in [
            ("origin", "http://127.0.0.1:9180", true),
            ("origin", "https://127.0.0.1:9180", true),
            ("origin", "http://127.0.0.1:9181", false),
            ("origin", "http://localhost:9180", false),
            ("origin", "http://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "same-origin", true),
            ("sec-fetch-site", "same-site", false),
            ("accept", "text/html", false),
        ] {
            assert_eq!(is_own_origin(&headers(name, value), "127.0.0.1:9180"), own, "{name}: {value}");
        }
    }

    #[test]
    fn fields_are_read_as_browsers_write_them() {
        let read = pairs("ids=1&ids=2&why=a+b%26c%C3%A4&empty=");
        let read: Vec<(&str, &str)> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(read, [("ids", "1"), ("ids", "2"), ("why", "a b&cä"), ("empty", "")]);
    }
}
