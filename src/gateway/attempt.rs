//! One attempt: the request is sent in a slot, and its answer streamed as it comes.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    answer,
    client::{CALL_ID, Client},
    core::GatewayCore,
    failover::Trouble,
    line::LentSlot,
};
use crate::{
    calls,
    engines::{EngineKind, Failure, failure_of, failure_of_response},
    net::{Broken, HttpReply},
    protocols::{Ask, Meter, Passage, Refusal, RefusalReason, edited},
    store::BootInstant,
};

/// The leader judges a silence of `stallSeconds` by everything that it knows; a call gives up by itself only after so many of them.
const LEADER_FIRST: u32 = 2;
/// An engine that sent something within this notices soon that its client left, also MLX.
const NOTICES: Duration = Duration::from_secs(1);
/// The longest that a slot counts on after its call was aborted.
const LONGEST_LINGER: Duration = Duration::from_secs(30);
/// A whole answer that is longer is not read for its counts.
const MOST_READ: usize = 1 << 20;

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

/// What happened to a call that waits for its engine.
enum Step<T> {
    Came(T),
    /// The slot was taken away, or its time is over, or the gateway ends.
    Stopped,
    Gone,
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
    let body = match edited(ask, target.kind, model.as_str()) {
        Ok(body) => body,
        Err(error) => {
            let refusal = Refusal { field: error.field, ..Refusal::new(RefusalReason::Invalid, error.message) };
            return (AttemptEnd::Refused(refusal), Duration::ZERO);
        }
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
    };
    let ended = exchange.run(headers, body).await;
    lent.held.end_call(!ended.1.is_zero() && !exchange.leaving_is_noticed());
    exchange.count();
    ended
}

pub(super) struct Exchange<'a> {
    pub core: &'a Arc<GatewayCore>,
    pub ask: &'a Ask<'a>,
    pub lent: &'a LentSlot,
    pub client: &'a Client,
    pub began: Instant,
    pub began_at: Timestamp,
    /// The last byte from the engine, or when it was asked.
    pub last_byte: Instant,
    pub longest_silence: Duration,
    /// The client left; where the engine would not notice, it is read on.
    pub gone: bool,
    pub meter: Meter,
    pub first_token: Option<Duration>,
    pub is_served: bool,
}

impl Exchange<'_> {
    async fn run(&mut self, headers: HeaderMap, body: String) -> (AttemptEnd, Duration) {
        let target = &self.lent.target;
        let until = self.silent_until();
        let sent = target.endpoint.pass(Method::POST, self.ask.operation.path(), headers, body.into_bytes(), until);
        let mut sent = std::pin::pin!(sent);
        let reply = loop {
            match self.step(sent.as_mut()).await {
                Step::Came(reply) => break reply,
                Step::Gone => {}
                Step::Stopped => return self.silent(Trouble::SlotLost),
            }
            if !self.reads_on() {
                return (AttemptEnd::Done, self.linger());
            }
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(broken) => return self.unanswered(broken),
        };
        let status = reply.status();
        if !status.is_success() {
            return self.refused(reply).await;
        }
        self.stream(status, reply).await
    }

    /// The next thing that happens to the call.
    async fn step<T>(&mut self, engine: impl Future<Output = T>) -> Step<T> {
        let end = Instant::now() + self.lent.held.left(BootInstant::now());
        let gone = async {
            match self.gone {
                true => std::future::pending().await,
                false => self.client.gone.cancelled().await,
            }
        };
        tokio::select! {
            biased;
            came = engine => Step::Came(came),
            () = self.lent.held.lost().cancelled() => Step::Stopped,
            () = self.core.ending.cancelled() => Step::Stopped,
            () = tokio::time::sleep_until(end) => match self.lent.held.may_run(BootInstant::now()) {
                // It was renewed meanwhile.
                Ok(()) => Step::Gone,
                Err(_) => Step::Stopped,
            },
            () = gone => {
                self.gone = true;
                Step::Gone
            }
        }
    }

    /// Whether the engine must be read although nobody listens: it would go on without noticing, and the slot would be given away.
    fn reads_on(&self) -> bool {
        !self.gone || !self.leaving_is_noticed()
    }

    /// Whether the engine soon stops once nobody reads what it writes.
    fn leaving_is_noticed(&self) -> bool {
        let writes = self.ask.streams && self.has_bytes() && self.last_byte.elapsed() < NOTICES;
        self.lent.target.kind != EngineKind::Mlx || writes
    }

    pub fn has_bytes(&self) -> bool {
        self.last_byte > self.began
    }

    /// Until when a silence of the engine is no failure. One that shows no sign of life before its end has the time of its slot.
    fn silent_until(&self) -> Instant {
        let end = Instant::now() + self.lent.held.left(BootInstant::now());
        if self.ask.streams { end.min(self.last_byte + self.lent.target.stall() * LEADER_FIRST) } else { end }
    }

    /// How long the engine may still be at a call that was aborted.
    fn linger(&self) -> Duration {
        let silence = self.longest_silence.max(self.last_byte.elapsed());
        (silence * 3).clamp(self.core.timings.linger, LONGEST_LINGER)
    }

    async fn stream(&mut self, status: StatusCode, reply: HttpReply) -> (AttemptEnd, Duration) {
        let headers = answer::from_engine(reply.headers());
        let mut reply = reply.prolonged(Instant::now() + Duration::from_secs(24 * 3600));
        // An engine may answer at once what was to be streamed.
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let framing = self.client.framing().filter(|_| !is_json);
        let mut passage = framing.map(|framing| Passage::new(framing, self.ask));
        let mut whole = Vec::new();
        loop {
            let until = self.silent_until();
            let mut chunk = match self.step(reply.chunk(until)).await {
                Step::Came(Ok(Some(chunk))) => Bytes::copy_from_slice(chunk.as_ref()),
                Step::Came(Ok(None)) => break,
                Step::Came(Err(Broken::Timeout)) if Instant::now() < self.silent_until() => continue,
                Step::Came(Err(broken)) if !self.has_bytes() => return self.unanswered(broken),
                Step::Came(Err(broken)) => {
                    let failure = failure_of(broken, parts(&self.meter), self.began.elapsed());
                    return self.broken(failure);
                }
                Step::Stopped if !self.has_bytes() => return self.silent(Trouble::SlotLost),
                Step::Stopped => {
                    let refusal =
                        Refusal::new(RefusalReason::Unavailable, "the server is being mended, or the gateway ends");
                    return (AttemptEnd::Refused(refusal), self.linger());
                }
                Step::Gone if self.reads_on() => continue,
                Step::Gone => return (AttemptEnd::Done, self.linger()),
            };
            self.received();
            let between = match &mut passage {
                Some(passage) => {
                    let (meter, operation) = (&mut self.meter, self.ask.operation);
                    let (passed, between) = passage.push(&chunk, |data| meter.read(operation, data));
                    chunk = passed.map_or(chunk, Bytes::from);
                    between
                }
                None => {
                    if whole.len() + chunk.len() <= MOST_READ {
                        whole.extend_from_slice(&chunk);
                    }
                    true
                }
            };
            if self.meter.parts > 0 {
                self.first_token.get_or_insert(self.began.elapsed());
                self.lent.held.token();
                self.lent.target.contact.answers();
            }
            if self.meter.is_whole {
                self.client.is_whole();
            }
            if self.gone {
                // It has just written: it notices soon.
                if self.ask.streams {
                    return (AttemptEnd::Done, self.linger());
                }
                continue;
            }
            if chunk.is_empty() {
                continue;
            }
            self.client.begin(status, headers.clone(), Some(&self.lent.target.backend));
            if !self.client.send(chunk, between).await {
                self.gone = true;
                if !self.reads_on() {
                    return (AttemptEnd::Done, self.linger());
                }
            }
        }
        let rest = passage.map(|mut passage| passage.rest()).unwrap_or_default();
        if !rest.is_empty() && !self.gone {
            self.client.begin(status, headers.clone(), Some(&self.lent.target.backend));
            self.client.send(rest.into(), false).await;
        }
        if framing.is_none() {
            self.meter.read(self.ask.operation, &whole);
        }
        self.ended(status, headers, framing.is_some())
    }

    fn received(&mut self) {
        let now = Instant::now();
        self.longest_silence = self.longest_silence.max(now - self.last_byte);
        self.last_byte = now;
        self.lent.held.byte();
    }

    /// The engine has ended its answer.
    fn ended(&mut self, status: StatusCode, headers: HeaderMap, framed: bool) -> (AttemptEnd, Duration) {
        if framed && !self.meter.is_whole && self.meter.error.is_none() {
            if !self.has_bytes() {
                let failure = Failure::BadBody { detail: "it ended before it began".to_owned() };
                self.note_failure(&failure);
                return self.silent(Trouble::Silent(failure));
            }
            return self.broken(Failure::Reset { tokens_seen: parts(&self.meter) });
        }
        if let Some(why) = self.meter.error.clone().filter(|_| framed) {
            // The engine said so itself: it is passed on, and the client knows.
            let failure = failure_of_response(self.lent.target.kind, StatusCode::OK, &HeaderMap::new(), why.as_bytes());
            self.note_failure(&failure);
            return (AttemptEnd::Done, Duration::ZERO);
        }
        // An answer without a body.
        self.client.begin(status, headers, Some(&self.lent.target.backend));
        self.lent.target.took(self.began.elapsed());
        self.is_served = true;
        self.note_served();
        (AttemptEnd::Done, Duration::ZERO)
    }

    /// The answer broke off after it had begun: it is nobody else's any more.
    fn broken(&self, failure: Failure) -> (AttemptEnd, Duration) {
        self.note_failure(&failure);
        let linger = if calls::may_still_run(&failure) { self.linger() } else { Duration::ZERO };
        if self.gone {
            return (AttemptEnd::Done, linger);
        }
        let reason = match failure {
            Failure::Timeout { .. } => RefusalReason::EngineSilent,
            _ => RefusalReason::EngineFailed,
        };
        (AttemptEnd::Refused(Refusal::new(reason, format!("the engine broke its answer off: {failure}"))), linger)
    }

    /// No answer came.
    fn unanswered(&self, broken: Broken) -> (AttemptEnd, Duration) {
        let unsent = matches!(broken, Broken::Refused | Broken::Unreachable(_) | Broken::Tls(_) | Broken::Invalid(_));
        let failure = failure_of(broken, 0, self.began.elapsed());
        self.note_failure(&failure);
        if unsent {
            return (AttemptEnd::Failed(Failed::without_answer(Trouble::Unsent(failure), self.lent)), Duration::ZERO);
        }
        self.silent(Trouble::Silent(failure))
    }

    fn silent(&self, trouble: Trouble) -> (AttemptEnd, Duration) {
        let linger = self.linger();
        if self.gone {
            return (AttemptEnd::Done, linger);
        }
        (AttemptEnd::Failed(Failed::without_answer(trouble, self.lent)), linger)
    }

    async fn refused(&self, reply: HttpReply) -> (AttemptEnd, Duration) {
        let (status, given) = (reply.status(), reply.headers().clone());
        let body = reply.refusal().await;
        let target = &self.lent.target;
        let failure = failure_of_response(target.kind, status, &given, &body);
        if let Failure::ModelMissing { .. } = failure {
            target.lacked(&self.lent.model);
        }
        self.note_failure(&failure);
        let failed = Failed {
            trouble: Trouble::Refused { status: status.as_u16(), failure },
            backend: target.backend.clone(),
            headers: answer::from_engine(&given),
            body: body.into(),
        };
        (AttemptEnd::Failed(failed), Duration::ZERO)
    }
}

impl Failed {
    fn without_answer(trouble: Trouble, lent: &LentSlot) -> Self {
        let backend = lent.target.backend.clone();
        Self { trouble, backend, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

fn parts(meter: &Meter) -> u32 {
    u32::try_from(meter.parts).unwrap_or(u32::MAX)
}
