//! One attempt: the request is sent in a slot, and its answer streamed as it comes.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    client::{CALL_ID, Client},
    core::GatewayCore,
    exchange::Exchange,
    failover::Trouble,
    line::LentSlot,
};
use crate::{
    engines::{EngineKind, Failure},
    protocols::{AnswerTranslator, Ask, AskError, Meter, Operation, Refusal, RefusalReason, chat_of, edited},
    store::BootInstant,
};

/// What became of an attempt.
pub(super) enum AttemptEnd {
    /// The call is over: answered, or its client left.
    Done,
    /// The answer had begun and can't go on, or the engine can't be asked this.
    Refused(Refusal),
    /// Nothing of an answer came.
    Failed(Failed),
}

pub(super) struct Failed {
    pub trouble: Trouble,
    pub backend: String,
    /// Of the engine's answer, where it gave one.
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Sends the request in a slot. Returns how that ended, and how long the engine may still be at it.
pub(super) async fn attempt(
    core: &Arc<GatewayCore>,
    ask: &Ask<'_>,
    headers: &HeaderMap,
    lent: &LentSlot,
    client: &Client,
) -> (AttemptEnd, Duration) {
    let target = &lent.target;
    let nothing = |trouble| (AttemptEnd::Failed(Failed::without_answer(trouble, lent)), Duration::ZERO);
    let model = match target.sendable(&lent.model).await {
        Ok(model) => model,
        Err(why) => {
            target.lacked(&lent.model);
            return nothing(Trouble::Unsent(Failure::Misconfigured(why)));
        }
    };
    let invalid = |error: AskError| {
        let refusal = Refusal { field: error.field, ..Refusal::new(RefusalReason::Invalid, error.message) };
        (AttemptEnd::Refused(refusal), Duration::ZERO)
    };
    // What the engine doesn't have is asked as a chat.
    let chat = if ask.operation.is_native(target.kind) { None } else { chat_of(ask) };
    let chat = match chat.transpose() {
        Ok(chat) => chat,
        Err(error) => return invalid(error),
    };
    let chat = chat.as_ref().map(|chat| Ask::read(Operation::ChatCompletions, chat.as_bytes())).transpose();
    let (asked, ask) = match &chat {
        Ok(Some(chat)) => (ask, chat),
        Ok(None) => (ask, ask),
        Err(error) => return invalid(error.clone()),
    };
    let body = match edited(ask, target.kind, model.as_str()) {
        Ok(body) => body,
        Err(error) => return invalid(error),
    };
    if client.gone.is_cancelled() {
        return (AttemptEnd::Done, Duration::ZERO);
    }
    // The last moment before something is sent.
    if lent.held.may_begin(BootInstant::now()).is_err() {
        return nothing(Trouble::SlotLost);
    }
    let outlives_client = target.kind == EngineKind::Mlx;
    match ask.streams {
        true => lent.held.begin_call(outlives_client),
        false => lent.held.begin_silent_call(outlives_client),
    }
    if !core.slots.announce_call(&lent.held).await {
        lent.held.end_call(false);
        return nothing(Trouble::SlotLost);
    }
    let mut headers = headers.clone();
    if let Ok(id) = HeaderValue::from_str(&client.id) {
        headers.insert(CALL_ID, id);
    }
    let now = Instant::now();
    let mut exchange = Exchange {
        core,
        ask,
        translator: AnswerTranslator::new(asked, &client.id, &lent.alias, Timestamp::now())
            .filter(|_| asked.operation != ask.operation),
        lent,
        client,
        began: now,
        began_at: Timestamp::now(),
        last_byte: now,
        longest_silence: Duration::ZERO,
        gone: false,
        meter: Meter::default(),
        first_token: None,
        is_served: false,
        is_cut: false,
    };
    let ended = exchange.run(headers, body).await;
    lent.held.end_call(!ended.1.is_zero() && !exchange.leaving_is_noticed());
    exchange.count();
    ended
}

impl Failed {
    pub fn without_answer(trouble: Trouble, lent: &LentSlot) -> Self {
        let backend = lent.target.backend.clone();
        Self { trouble, backend, headers: HeaderMap::new(), body: Bytes::new() }
    }
}
