use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde_json::Value;

use super::Fault;
use super::calls::CallEnd;
use super::faults::{DONE, Shape};
use super::generate::Generation;
use super::replies::RUNNER_STOPPED;
use super::replies::SimulatedRefusal;

pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const EVENT_STREAM: &str = "text/event-stream";

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
    /// So many of the prompt's tokens are read.
    Progress(u32, u32),
    Token(String),
    End,
}

/// Streams a generation. The head of the answer goes out with the first text, as the real engines do: a hung one sends
/// nothing at all.
pub(super) async fn streamed<R>(generation: Generation, content_type: &'static str, render: R) -> Response
where
    R: FnMut(&Generation, Piece) -> String + Send + 'static,
{
    let sse = content_type == EVENT_STREAM;
    let mut start = Writing { generation, render, sse, begun: false, state: State::Open };
    let first = start.next().await;
    let rest = stream::unfold(start, |mut writing| async move {
        let chunk = writing.next().await?;
        Some((chunk, writing))
    });
    let chunks = stream::iter(first).chain(rest).map(|text| Ok::<_, std::io::Error>(Bytes::from(text)));
    with_type(200, content_type, Body::from_stream(chunks))
}

struct Writing<R> {
    generation: Generation,
    render: R,
    sse: bool,
    begun: bool,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Open,
    Ended,
    /// All is said, and the connection stays open.
    Lingers,
}

impl<R: FnMut(&Generation, Piece) -> String> Writing<R> {
    async fn next(&mut self) -> Option<String> {
        loop {
            match self.state {
                State::Open => (),
                State::Ended => return None,
                State::Lingers => std::future::pending().await,
            }
            let text = self.text().await;
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// The next text; it may be empty.
    async fn text(&mut self) -> String {
        let shape = self.generation.shape();
        if let Some(last) = shape.and_then(|shape| shape.last_text(self.sse)) {
            self.state = State::Ended;
            self.generation.end(CallEnd::Failed);
            return last;
        }
        let empty = shape == Some(Shape::NoContent);
        let Some(piece) = (if empty { Some(Piece::End) } else { self.piece().await }) else {
            self.state = State::Ended;
            self.generation.end(CallEnd::Failed);
            return runner_stopped(self.sse);
        };
        if matches!(piece, Piece::End) {
            self.state = State::Ended;
            // Before the caller can know of the end: whoever asks next finds the runner released.
            self.generation.finish();
        }
        let ends = matches!(piece, Piece::End);
        let mut text = (self.render)(&self.generation, piece);
        if ends && shape == Some(Shape::NeverCloses) {
            self.state = State::Lingers;
            text = text.replace(DONE, "");
        }
        if let Some(shape) = shape {
            text = misshapen(shape, text, !self.begun);
        }
        self.begun |= !text.is_empty();
        text
    }

    /// `None` when the runner stopped.
    async fn piece(&mut self) -> Option<Piece> {
        if self.sse
            && let Some((done, total)) = self.generation.progress().await
        {
            return Some(Piece::Progress(done, total));
        }
        Some(unless_stopped(&mut self.generation).await?.map_or(Piece::End, Piece::Token))
    }
}

/// The next token, or `None` when the runner stopped.
async fn unless_stopped(generation: &mut Generation) -> Option<Option<String>> {
    let shared = Arc::clone(&generation.shared);
    tokio::select! {
        biased;
        () = shared.faults.until_some(|fault| matches!(fault, Fault::RunnerStopped {})) => None,
        token = generation.next() => Some(token),
    }
}

fn runner_stopped(sse: bool) -> String {
    if sse {
        format!(
            "data: {{\"error\":{{\"message\":\"{RUNNER_STOPPED}\",\"type\":\"api_error\",\"param\":null,\"code\":null}}}}\n\n"
        )
    } else {
        format!("{{\"error\":\"{RUNNER_STOPPED}\"}}\n")
    }
}

/// What a shape makes of well-formed text.
fn misshapen(shape: Shape, text: String, first: bool) -> String {
    match shape {
        Shape::MessageForDelta => text.replace("\"delta\":", "\"message\":"),
        Shape::ByteOrderMark if first && !text.is_empty() => format!("\u{feff}{text}"),
        Shape::CrLf => text.replace('\n', "\r\n"),
        _ => text,
    }
}

/// Runs a generation to its end and returns its text.
pub(super) async fn whole(generation: &mut Generation) -> Result<String, SimulatedRefusal> {
    let mut text = String::new();
    loop {
        match unless_stopped(generation).await {
            Some(Some(token)) => text.push_str(&token),
            Some(None) => break,
            None => {
                generation.end(CallEnd::Failed);
                return Err(SimulatedRefusal::RunnerStopped);
            }
        }
    }
    generation.finish();
    Ok(text)
}
