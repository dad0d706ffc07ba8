use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::reply;

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
