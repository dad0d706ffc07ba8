use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::Value;

use super::generate::Generation;

pub(super) fn json(status: u16, body: &Value) -> Response {
    with_type(status, "application/json; charset=utf-8", body.to_string())
}

pub(super) fn text(status: u16, body: &'static str) -> Response {
    with_type(status, "text/plain", body)
}

pub(super) fn with_type(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

/// A moment of an answer that is being written.
pub(super) enum Piece {
    Token(String),
    End,
}

/// Streams a generation. The head of the answer goes out with the first token, as the real engines do: a hung one sends
/// nothing at all.
pub(super) async fn streamed<R>(mut generation: Generation, content_type: &'static str, render: R) -> Response
where
    R: FnMut(&Generation, Piece) -> String + Send + 'static,
{
    let first = Some(generation.next().await);
    let start = Writing { generation, render, first, ended: false };
    let chunks = stream::unfold(start, |mut writing| async move {
        let chunk = writing.next().await?;
        Some((Ok::<_, std::io::Error>(Bytes::from(chunk)), writing))
    });
    with_type(200, content_type, Body::from_stream(chunks))
}

struct Writing<R> {
    generation: Generation,
    render: R,
    first: Option<Option<String>>,
    ended: bool,
}

impl<R: FnMut(&Generation, Piece) -> String> Writing<R> {
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let token = match self.first.take() {
            Some(first) => first,
            None => self.generation.next().await,
        };
        let Some(token) = token else {
            self.ended = true;
            // Before the caller can know of the end: whoever asks next finds the runner released.
            self.generation.finish();
            return Some((self.render)(&self.generation, Piece::End));
        };
        Some((self.render)(&self.generation, Piece::Token(token)))
    }
}

/// Runs a generation to its end and returns its text.
pub(super) async fn whole(generation: &mut Generation) -> String {
    let mut text = String::new();
    while let Some(token) = generation.next().await {
        text.push_str(&token);
    }
    generation.finish();
    text
}
