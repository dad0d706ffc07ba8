//! Signing in by a one-time link or a token, and out.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    bits::clean,
    door::{UiDoor, cookie_name},
    frame::{self, UiPage},
    session::{LINK_LASTS, MOST_TOKEN_BYTES, SESSION_LASTS, UiGrant, UiSession},
    visit::{UiVisit, link, own_page, see_other},
};
use crate::{
    api::Kind,
    http::{
        Access, Api, ApiError, ErrorReply, Person, ResourceHome, extract::OptionalBody, resources::InNamespace,
        routes::bearer,
    },
};

/// Body of `POST /api/v1/links`; may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LinkRequest {
    /// The session may only look.
    pub look_only: bool,
}

/// A link that signs in whoever opens it, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignInLink {
    /// Follows the address of this API.
    pub path: String,
    /// The whole link, where the dashboard has an external address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// It is worth nothing after that.
    pub expires_in_seconds: u64,
}

/// Makes a link that signs in at the dashboard, once, as whoever asks for it.
#[utoipa::path(post, path = "/api/v1/links", params(InNamespace), request_body = Option<LinkRequest>,
    responses((status = 201, body = SignInLink), (status = 400, body = ErrorReply)))]
pub async fn create_link(
    State(api): State<Api>,
    Extension(door): Extension<UiDoor>,
    Extension(Person(person)): Extension<Person>,
    headers: HeaderMap,
    OptionalBody(body): OptionalBody<LinkRequest>,
) -> Result<(StatusCode, Json<SignInLink>), ApiError> {
    let token = bearer(&headers).unwrap_or_default();
    let operate = !body.unwrap_or_default().look_only;
    let grant = UiGrant { person, token: kept(api.home, token)?, operate };
    let code = door.sessions.link(grant);
    let code = code.ok_or_else(|| ApiError::Busy("too many links wait to be opened".to_owned()))?;
    let path = link(&["link", &code], []);
    let url = api.external_url.as_ref().map(|external| format!("{}{path}", external.origin()));
    Ok((StatusCode::CREATED, Json(SignInLink { path, url, expires_in_seconds: LINK_LASTS.as_secs() })))
}

/// What a session keeps of a token. That of a folder may do everything, and is another one after a restart: it is not kept.
fn kept(home: ResourceHome, token: &str) -> Result<Option<String>, ApiError> {
    match home {
        ResourceHome::Folder => Ok(None),
        ResourceHome::Cluster if token.len() <= MOST_TOKEN_BYTES => Ok(Some(token.to_owned())),
        ResourceHome::Cluster => Err(ApiError::BadRequest(format!(
            "the token has {} bytes, {MOST_TOKEN_BYTES} fit in a session: use a token of a service account, as `kubectl create \
             token` makes it",
            token.len()
        ))),
    }
}

/// Who would be signed in; only the form's button opens the link, for programs look at links before people do.
pub async fn show_link(Extension(visit): Extension<UiVisit>) -> Response {
    let Some(grant) = visit.door.sessions.of_link(visit.param("code")) else { return spent() };
    let body = html! {
        section.sign-in {
            h1 { "Sign in as " (clean(&grant.person)) }
            p { @if grant.operate { "This session may change things." } @else { "This session may only look." } }
            form method="post" action=(link(&["link", visit.param("code")], [])) { button.act autofocus { "Sign in" } }
        }
    };
    visit.answer(Ok(UiPage { title: "Sign in".to_owned(), tab: None, body }))
}

pub async fn open_link(Extension(visit): Extension<UiVisit>) -> Response {
    match visit.door.sessions.open_link(visit.param("code")) {
        Some(grant) => begin(&visit, grant, "/ui"),
        None => spent(),
    }
}

fn spent() -> Response {
    let how = "A link signs in once, within a minute. Run `ostler dashboard` for another one.";
    frame::refusal(StatusCode::GONE, "This link was used, or is too old", how)
}

pub async fn show(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    visit.answer(Ok(sign_in_page(&api, &visit, None)))
}

fn sign_in_page(api: &Api, visit: &UiVisit, refused: Option<&ApiError>) -> UiPage {
    let asked = visit.query();
    let next = asked.iter().find(|(name, _)| name == "next").map(|(_, next)| next.as_str());
    let next = own_page(visit.field("next").or(next).unwrap_or_default());
    let body = html! {
        section.sign-in {
            h1 { "Sign in" }
            @if let Some(error) = refused { p.notice.bad role="alert" { (clean(&error.to_string())) } }
            (how(api.home))
            details open[refused.is_some()] #by-token {
                summary { "Sign in with a token" }
                form method="post" action="/ui/sign-in" {
                    input type="hidden" name="next" value=(next);
                    p { label { "Token" input type="password" name="secret" autocomplete="off" required; } }
                    @if api.home == ResourceHome::Cluster {
                        p { label { "Namespace, if you may not see all" input name="namespace" autocomplete="off"; } }
                    }
                    p { label { input type="checkbox" name="look" value="only"; " Only look" } }
                    button.act { "Sign in" }
                }
            }
        }
    };
    UiPage { title: "Sign in".to_owned(), tab: None, body }
}

fn how(home: ResourceHome) -> Markup {
    html! {
        @match home {
            ResourceHome::Folder => p { "Run " code { "ostler dashboard" } " where " code { "ostler up" } " runs: it prints a link that signs you in." },
            ResourceHome::Cluster => p { "Run " code { "kubectl ostler dashboard" } ": it forwards a port, and prints a link that signs you in." },
        }
    }
}

pub async fn sign_in(State(api): State<Api>, Extension(visit): Extension<UiVisit>) -> Response {
    let next = own_page(visit.field("next").unwrap_or_default()).to_owned();
    let namespace = visit.field("namespace").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    match granted(&api, &visit, namespace.clone()).await {
        Ok(grant) => {
            let first = namespace.map(|namespace| link(&[], [("namespace", namespace.as_str())]));
            begin(&visit, grant, first.as_deref().filter(|_| next == "/ui").unwrap_or(&next))
        }
        Err(error) => {
            let mut response = visit.answer(Ok(sign_in_page(&api, &visit, Some(&error))));
            *response.status_mut() = error.status_code();
            response
        }
    }
}

async fn granted(api: &Api, visit: &UiVisit, namespace: Option<String>) -> Result<UiGrant, ApiError> {
    let token = visit.field("secret").unwrap_or_default().trim();
    let resource = Kind::LLMBackend.plural().to_owned();
    let access = Access { verb: "list", resource, subresource: None, namespace, name: None };
    let token_kept = kept(api.home, token)?;
    let Person(person) = api.authorizer.authorize(token, &access).await?;
    Ok(UiGrant { person, token: token_kept, operate: visit.field("look").is_none() })
}

fn begin(visit: &UiVisit, grant: UiGrant, next: &str) -> Response {
    let session = UiSession::new(grant, Timestamp::now());
    let Some(value) = visit.door.sessions.seal(&session) else {
        return frame::refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "No session can be made",
            "See the log: this is a defect.",
        );
    };
    with_cookie(see_other(next), visit, &value, SESSION_LASTS.as_secs())
}

/// The cookie goes; what it held ends by itself within its hours.
pub async fn sign_out(Extension(visit): Extension<UiVisit>) -> Response {
    with_cookie(see_other("/ui/sign-in"), &visit, "", 0)
}

fn with_cookie(response: Response, visit: &UiVisit, value: &str, seconds: i64) -> Response {
    let (name, secure) = (cookie_name(visit.installation), if visit.is_secure { "; Secure" } else { "" });
    let cookie = format!("{name}={value}; Path=/ui; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    match HeaderValue::from_str(&cookie) {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], response).into_response(),
        Err(_) => response,
    }
}
