//! What handlers take from a request. Whatever is wrong with it is an [`ApiError`], as every other refusal.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    http::{HeaderMap, header, request::Parts},
};
use futures::TryStreamExt;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Api, ApiError};
use crate::json;

/// Bytes of a body that a request may bring where its route says nothing else.
pub const USUAL_BODY: BodyLimit = BodyLimit(64 * 1024);
/// Bytes of large bodies that are in memory at once, of all requests.
pub const BODIES_BYTES: usize = 32 * 1024 * 1024;
/// A request waits for memory so long.
const ROOM_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// The largest body of a route, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimit(pub usize);

/// Memory for large bodies, a permit for each KiB.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_BYTES / 1024)))
    }
}

impl Bodies {
    /// Room for a body, for as long as the permit lives. Small ones need none.
    async fn room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes <= USUAL_BODY.0 {
            return Ok(None);
        }
        let permits = u32::try_from(bytes.min(BODIES_BYTES) / 1024).unwrap_or(u32::MAX);
        match tokio::time::timeout(ROOM_WITHIN, Arc::clone(&self.0).acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            _ => Err(ApiError::Busy(format!(
                "other requests have {} MiB of bodies under way, and none ended within {} s",
                BODIES_BYTES >> 20,
                ROOM_WITHIN.as_secs()
            ))),
        }
    }
}

/// The parameters of a path.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Api> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Api) -> Result<Self, ApiError> {
        let read = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(path)| Self(path)).map_err(|error| bad_path(&error))
    }
}

fn bad_path(error: &PathRejection) -> ApiError {
    let text = error.body_text();
    ApiError::BadRequest(format!("path: {}", json::plainly(text.strip_prefix("Invalid URL: ").unwrap_or(&text))))
}

/// The parameters of a query.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let read = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        read.map(|axum::extract::Query(query)| Self(query)).map_err(|error| {
            let text = error.body_text();
            ApiError::BadRequest(format!(
                "query: {}",
                text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text)
            ))
        })
    }
}

/// A parameter that is there but empty is none, as Kubernetes has it: `namespace=` means all of them.
pub fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}

/// A body that is a JSON object.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Api) -> Result<Self, ApiError> {
        match OptionalBody::from_request(request, state).await?.0 {
            Some(body) => Ok(Self(body)),
            None => Err(ApiError::BadRequest("body: is empty: send a JSON object".to_owned())),
        }
    }
}

/// A body that is a JSON object, or is left out.
pub struct OptionalBody<T>(pub Option<T>);

impl<T: DeserializeOwned> FromRequest<Api> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Api) -> Result<Self, ApiError> {
        let kind = content_type(request.headers());
        let RawBody { bytes, room: _room } = RawBody::from_request(request, state).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(None));
        }
        if let Some(kind) = kind.filter(|kind| kind != "application/json" && !kind.ends_with("+json")) {
            return Err(ApiError::UnsupportedMedia(format!("the body is {kind}: send application/json")));
        }
        let bad = |text: String| ApiError::BadRequest(format!("body: {text}"));
        // Serde takes a list for an object, field by field.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("is no JSON object: write {…}".to_owned()));
        }
        json::read(&bytes).map(|body| Self(Some(body))).map_err(|flaw| bad(flaw.to_string()))
    }
}

/// A body as it came, within the limit of its route.
pub struct RawBody {
    pub bytes: Bytes,
    /// Memory that it takes, until dropped.
    pub room: Option<OwnedSemaphorePermit>,
}

impl FromRequest<Api> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &Api) -> Result<Self, ApiError> {
        if let Some(coding) = text(request.headers(), header::CONTENT_ENCODING)
            && !coding.eq_ignore_ascii_case("identity")
        {
            return Err(ApiError::UnsupportedMedia(format!("the body is compressed ({coding}): send it as it is")));
        }
        let BodyLimit(limit) = request.extensions().get().copied().unwrap_or(USUAL_BODY);
        let announced = match text(request.headers(), header::CONTENT_LENGTH).map(str::parse::<usize>) {
            Some(Ok(length)) if length > limit => return Err(too_large(limit)),
            Some(Ok(length)) => length,
            // It comes in chunks: as much as may come is kept free.
            _ => limit,
        };
        let bodies: Bodies = request.extensions().get().cloned().unwrap_or_default();
        let is_empty = axum::body::HttpBody::is_end_stream(request.body());
        let room = bodies.room(if is_empty { 0 } else { announced }).await?;
        let bytes = collected(request.into_body(), announced, limit).await?;
        Ok(Self { bytes, room })
    }
}

async fn collected(body: Body, expected: usize, limit: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut all = Vec::new();
    while let Some(chunk) = chunks.try_next().await.map_err(broken_off)? {
        if all.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        if all.is_empty() {
            // Whoever announces much has not sent it yet.
            all.reserve_exact(expected.min(USUAL_BODY.0).max(chunk.len()));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.into())
}

fn broken_off(error: axum::Error) -> ApiError {
    let late = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::TimedOut);
    if late { ApiError::Late(error.to_string()) } else { ApiError::BadRequest(format!("body: broke off: {error}")) }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::TooLarge(format!("the body has more than {limit} bytes"))
}

/// `application/json`, without parameters.
pub fn content_type(headers: &HeaderMap) -> Option<String> {
    let essence =
        text(headers, header::CONTENT_TYPE)?.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    (!essence.is_empty()).then_some(essence)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("not a text"))
}
