//! The one HTTP error type.

use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use super::{auth::AuthError, tasks::TaskProblem};
use crate::{
    host::HostError,
    platform::PlatformError,
    store::{StoreClass, StoreError},
};

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error, IntoStaticStr)]
pub enum ApiError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
    /// Tasks that can't be taken.
    #[strum(serialize = "InvalidTasks")]
    #[error("{}", counted(.0))]
    Tasks(Vec<TaskProblem>),
    #[error("{0}")]
    TooLarge(String),
    /// A kind of body that is not read.
    #[strum(serialize = "UnsupportedMediaType")]
    #[error("{0}")]
    UnsupportedMedia(String),
    #[error("{0}")]
    MethodNotAllowed(String),
    /// The body did not come in time.
    #[strum(serialize = "BodyTimeout")]
    #[error("{0}")]
    Late(String),
    /// Too much is under way.
    #[error("{0}")]
    Busy(String),
    /// It can't be done in this home (cluster or folder), or in this state.
    #[error("{message}")]
    NotHere { message: String, hint: String },
    /// A message did not arrive where it was sent.
    #[error("{0}")]
    NotDelivered(String),
    #[error("nobody leads now")]
    NoLeader,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    #[strum(serialize = "PlatformError")]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Agent(#[from] HostError),
    #[error("{0}")]
    Broken(String),
}

/// Body of every reply that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorReply {
    /// What was attempted, on what, and why it failed.
    pub error: String,
    /// One CamelCase word for programs.
    pub reason: String,
    /// What to do.
    pub hint: String,
    /// What is wrong with the tasks that were sent, each by line and field; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<TaskProblem>,
}

/// The only problem, or how many there are.
fn counted(problems: &[TaskProblem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => format!(
            "{} problems, the first: {}",
            many.len(),
            many.first().map_or_else(String::new, ToString::to_string)
        ),
    }
}

impl ApiError {
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::Auth(AuthError::NoToken | AuthError::BadToken) => StatusCode::UNAUTHORIZED,
            Self::Auth(AuthError::Forbidden(_)) => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::Platform(PlatformError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) | Self::Platform(PlatformError::Invalid(_)) => StatusCode::BAD_REQUEST,
            Self::Tasks(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Self::NotHere { .. } | Self::Platform(PlatformError::Conflict(_)) => StatusCode::CONFLICT,
            Self::Auth(AuthError::Unavailable(_))
            | Self::Busy(_)
            | Self::NoLeader
            | Self::Platform(PlatformError::Unavailable(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store(error) => match error.class() {
                StoreClass::Passing => StatusCode::SERVICE_UNAVAILABLE,
                StoreClass::Lost => StatusCode::CONFLICT,
                StoreClass::Refusal => StatusCode::UNPROCESSABLE_ENTITY,
                StoreClass::Person => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::Agent(error) => match error {
                HostError::UnknownService { .. } | HostError::UnknownOperation { .. } => StatusCode::NOT_FOUND,
                HostError::Held { .. } | HostError::StaleEpoch { .. } => StatusCode::CONFLICT,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::NotDelivered(_) => StatusCode::BAD_GATEWAY,
            Self::Platform(PlatformError::Forbidden(_) | PlatformError::OlderSchema { .. }) | Self::Broken(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Auth(error) => error.into(),
            Self::Store(error) => match error.class() {
                StoreClass::Passing => "StoreUnavailable",
                StoreClass::Lost => "NotOurs",
                StoreClass::Refusal => "StoreRefused",
                StoreClass::Person => "StoreBroken",
            },
            Self::Agent(error) => error.reason(),
            other => other.into(),
        }
    }

    pub(super) fn hint(&self) -> &str {
        match self {
            Self::Auth(AuthError::NoToken) => {
                "send the header `Authorization: Bearer TOKEN`; the token of `ostler up` is \
                 in endpoint.json of its data folder"
            }
            Self::Auth(AuthError::BadToken) => {
                "read the token anew: each start of `ostler up` makes a new one, and tokens of a cluster run out"
            }
            Self::Auth(AuthError::Forbidden(_)) => "ask who administers the cluster for a role that allows it",
            Self::Auth(AuthError::Unavailable(_)) => "ask again when the API server answers",
            Self::NotFound(_) => {
                "`ostler get KIND`, `ostler tasks list`, `ostler causes` and `ostler calls` list what is there"
            }
            Self::BadRequest(_) | Self::UnsupportedMedia(_) | Self::MethodNotAllowed(_) => {
                "/api/v1/openapi.json says what can be asked"
            }
            Self::Tasks(_) => "nothing was taken: mend these, and send them all again",
            Self::TooLarge(_) => "nothing was taken: send it in several requests",
            Self::Late(_) => "nothing was taken: send it again, faster or in several requests",
            Self::Busy(_) => "ask again in some seconds",
            Self::NotHere { hint, .. } => hint,
            Self::NoLeader => "ask again in some seconds; `ostler status` says when somebody leads",
            Self::Store(error) => match error.class() {
                StoreClass::Passing => "see that the database runs, can be reached, and has room and connections left",
                StoreClass::Lost => "ask again: somebody else was first",
                StoreClass::Refusal => {
                    "change what is sent: the database takes it as little the next time; a trigger or a constraint of your own \
                     may be the reason"
                }
                StoreClass::Person => "see the log, and the database's: this does not pass by itself",
            },
            Self::NotDelivered(_) => "correct the address and the credentials in its Secret",
            Self::Platform(_) => "see the controller's log",
            Self::Agent(_) => "see the agent's log on its host, and `ostler describe ha/NAME`",
            Self::Broken(_) => "see the log: this is a defect",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status_code();
        if status.is_server_error() {
            tracing::warn!(error = %self, status = status.as_u16(), "request failed");
        }
        let (error, reason, hint) = (self.to_string(), self.reason().to_owned(), self.hint().to_owned());
        let problems = if let Self::Tasks(problems) = self { problems } else { Vec::new() };
        let body = ErrorReply { error, reason, hint, problems };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_refuses_for_good_is_not_said_to_pass() {
        for (error, status, reason) in [
            (StoreError::Unavailable("full".into()), 503, "StoreUnavailable"),
            (StoreError::Refused("no such character".into()), 422, "StoreRefused"),
            (StoreError::Broken("no such table".into()), 500, "StoreBroken"),
            (StoreError::Unfit("not UTF-8".into()), 500, "StoreBroken"),
            (StoreError::Fenced("gone".into()), 409, "NotOurs"),
        ] {
            let error = ApiError::from(error);
            assert_eq!((error.status_code().as_u16(), error.reason()), (status, reason), "{error}");
        }
    }
}
