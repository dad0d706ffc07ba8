//! Ollama's own Messages and Responses: a chat in other words.

use std::sync::Arc;

use axum::{
    Extension,
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{StatusCode, header},
    response::Response,
};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    asked::Lenient,
    chat::{self, ChatRequest},
    generate::Context,
    reply,
    state::SimulatedState,
};
use crate::protocols::{AnswerTranslator, Ask, Framing, Meter, Operation, Passage, Refusal, RefusalReason, chat_of};

/// An answer is as long as its options say.
const LONGEST: usize = 64 << 20;

pub(super) async fn messages(state: State<Arc<SimulatedState>>, context: Extension<Context>, body: Bytes) -> Response {
    answered(Operation::Messages, state, context, &body).await
}

pub(super) async fn responses(state: State<Arc<SimulatedState>>, context: Extension<Context>, body: Bytes) -> Response {
    answered(Operation::Responses, state, context, &body).await
}

async fn answered(
    operation: Operation,
    state: State<Arc<SimulatedState>>,
    context: Extension<Context>,
    body: &[u8],
) -> Response {
    let refused = |status, why: String| {
        reply::json(status, &Refusal::new(RefusalReason::Invalid, why).body(operation.protocol()))
    };
    let ask = match Ask::read(operation, body) {
        Ok(ask) => ask,
        Err(error) => return refused(400, error.message),
    };
    let (request, translator) = match put_over(&ask) {
        Ok(both) => both,
        Err(why) => return refused(400, why),
    };
    let answer = chat::chat(state, context, Lenient(request)).await;
    let (head, body) = answer.into_parts();
    let is_streamed = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == reply::EVENT_STREAM);
    if is_streamed {
        return Response::from_parts(head, streamed(body, Passage::framed(Framing::Sse, &ask, Some(translator))));
    }
    let status = head.status;
    let Ok(whole) = to_bytes(body, LONGEST).await else { return refused(500, "it broke off".to_owned()) };
    let (mut passage, mut meter) = (Passage::whole(&ask, Some(translator), false), Meter::default());
    passage.push(&whole, &mut meter);
    match passage.end(&mut meter) {
        Ok(answer) if status == StatusCode::OK => reply::with_type(200, "application/json", answer),
        _ => {
            let told: Value = serde_json::from_slice(&whole).unwrap_or_default();
            let why = told.pointer("/error/message").or_else(|| told.get("error")).and_then(Value::as_str);
            refused(status.as_u16(), why.unwrap_or("no explanation").to_owned())
        }
    }
}

fn put_over(ask: &Ask<'_>) -> Result<(ChatRequest, AnswerTranslator), String> {
    let unknown = || "this call is not simulated".to_owned();
    let chat = chat_of(ask).ok_or_else(unknown)?.map_err(|error| error.message)?;
    let mut chat: Value = serde_json::from_str(&chat).map_err(|error| error.to_string())?;
    chat["stream_options"] = json!({"include_usage": true});
    let request = serde_json::from_value(chat).map_err(|error| error.to_string())?;
    let translator = AnswerTranslator::new(ask, "simulated", &ask.model, Timestamp::now()).ok_or_else(unknown)?;
    Ok((request, translator))
}

fn streamed(body: Body, mut passage: Passage) -> Body {
    let mut meter = Meter::default();
    let pieces = body
        .into_data_stream()
        .map(move |piece| piece.map(|piece| Bytes::from(passage.push(&piece, &mut meter).0.unwrap_or_default())));
    Body::from_stream(pieces)
}
