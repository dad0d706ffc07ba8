//! What goes over the wire of one attempt: the engine's answer on its way to whoever asked, in their protocol.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    answer,
    attempt::{AttemptEnd, Failed},
    client::Client,
    core::GatewayCore,
    failover::Trouble,
    line::LentSlot,
};
use crate::{
    calls,
    engines::{EngineKind, Failure, failure_of, failure_of_response, words_of},
    net::{Broken, HttpReply},
    protocols::{AnswerTranslator, Ask, Meter, Operation, Passage, PassageError, Refusal, RefusalReason},
    store::BootInstant,
};

/// The leader judges a silence of `stallSeconds` by everything that it knows; a call gives up by itself only after so many of them.
const LEADER_FIRST: u32 = 2;
/// An engine that sent something within this notices soon that its client left, also MLX.
const NOTICES: Duration = Duration::from_secs(1);
/// The longest that a slot counts on after its call was aborted.
const LONGEST_LINGER: Duration = Duration::from_secs(30);
/// What happened to a call that waits for its engine.
enum Step<T> {
    Came(T),
    /// The slot was taken away, or its time is over, or the gateway ends.
    Stopped,
    Gone,
}

pub(super) struct Exchange<'a> {
    pub core: &'a Arc<GatewayCore>,
    /// What the engine is asked.
    pub ask: &'a Ask<'a>,
    /// Puts what it answers into the protocol of whoever asked, where that is another one.
    pub translator: Option<AnswerTranslator>,
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
    /// The engine answered a part of the prompt.
    pub is_cut: bool,
}

impl Exchange<'_> {
    pub async fn run(&mut self, headers: HeaderMap, body: String) -> (AttemptEnd, Duration) {
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
    pub fn leaving_is_noticed(&self) -> bool {
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
        let mut headers = answer::from_engine(reply.headers());
        if headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
            // A page of something else, which no client of ours reads.
            let failure = Failure::Misconfigured("it answers with an HTML page".to_owned());
            self.note_failure(&failure);
            let trouble = Trouble::Refused { status: status.as_u16(), failure };
            return (AttemptEnd::Failed(Failed::without_answer(trouble, self.lent)), Duration::ZERO);
        }
        // An engine may answer at once what was to be streamed.
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let framing = self.client.framing();
        if let Some(framing) = framing.filter(|_| self.translator.is_some()) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(framing.content_type()));
        }
        let translator = self.translator.take();
        let mut passage = match framing.filter(|_| !is_json) {
            Some(framing) => Passage::framed(framing, self.ask, translator),
            None => Passage::whole(self.ask, translator, framing.is_some()),
        };
        let reply = reply.prolonged(Instant::now() + Duration::from_secs(24 * 3600));
        match self.pass_on(reply, &mut passage, (status, &headers)).await {
            Some(ended) => ended,
            None => self.finish(passage, (status, headers)).await,
        }
    }

    /// Passes the answer on as it comes. Returns how the attempt ended, unless with the answer.
    async fn pass_on(
        &mut self,
        mut reply: HttpReply,
        passage: &mut Passage,
        (status, headers): (StatusCode, &HeaderMap),
    ) -> Option<(AttemptEnd, Duration)> {
        loop {
            let until = self.silent_until();
            let chunk = match self.step(reply.chunk(until)).await {
                Step::Came(Ok(Some(chunk))) => chunk,
                Step::Came(Ok(None)) => return None,
                Step::Came(Err(Broken::Timeout)) if Instant::now() < self.silent_until() => continue,
                Step::Came(Err(broken)) if !self.has_bytes() => return Some(self.unanswered(broken)),
                Step::Came(Err(broken)) => {
                    let failure = failure_of(broken, parts(&self.meter), self.began.elapsed());
                    return Some(self.broken(failure));
                }
                Step::Stopped if !self.has_bytes() => return Some(self.silent(Trouble::SlotLost)),
                Step::Stopped => {
                    let refusal = Refusal::new(
                        RefusalReason::Unavailable,
                        "the server is being recovered, or the gateway is shutting down",
                    );
                    return Some((AttemptEnd::Refused(refusal), self.linger()));
                }
                Step::Gone if self.reads_on() => continue,
                Step::Gone => return Some((AttemptEnd::Done, self.linger())),
            };
            self.received();
            let (passed, between) = passage.push(chunk.as_ref(), &mut self.meter);
            let passed = passed.map_or_else(|| Bytes::copy_from_slice(chunk.as_ref()), Bytes::from);
            self.show_progress();
            if !self.gone && !passed.is_empty() {
                self.client.begin(status, headers.clone(), Some(&self.lent.target.backend));
                self.gone = !self.client.send(passed, between).await;
            }
            // Where it streams it has just written: it notices soon.
            if self.gone && (self.ask.streams || !self.reads_on()) {
                return Some((AttemptEnd::Done, self.linger()));
            }
        }
    }

    /// The engine has ended its answer: what is left of it is passed on.
    async fn finish(&mut self, passage: Passage, (status, headers): (StatusCode, HeaderMap)) -> (AttemptEnd, Duration) {
        let is_framed = passage.is_framed();
        let rest = match passage.end(&mut self.meter) {
            Ok(rest) => rest,
            Err(error @ PassageError::TooLong) => {
                // A bound of ours: the engine is not to blame.
                let refusal = Refusal::new(RefusalReason::EngineFailed, error.to_string());
                return (AttemptEnd::Refused(refusal), Duration::ZERO);
            }
            Err(error @ PassageError::NoAnswer) => return self.broken(Failure::BadBody { detail: error.to_string() }),
        };
        if !rest.is_empty() && !self.gone {
            self.client.begin(status, headers.clone(), Some(&self.lent.target.backend));
            self.client.send(rest.into(), false).await;
        }
        self.ended(status, headers, is_framed)
    }

    /// Tells what the bytes that just came show.
    fn show_progress(&mut self) {
        if self.meter.parts > 0 {
            self.first_token.get_or_insert(self.began.elapsed());
            self.lent.held.token();
            self.lent.target.contact.answers();
        }
        if self.meter.is_whole {
            self.client.is_whole();
        }
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
        if framed && self.meter.parts == 0 && self.meter.error.is_none() {
            // The mark of its end alone: nothing was answered.
            return self.broken(Failure::BadBody { detail: "the answer has no content".to_owned() });
        }
        if let Some(why) = self.meter.error.clone().filter(|_| framed) {
            // The engine said so itself: it is passed on, and the client knows.
            let failure = failure_of_response(self.lent.target.kind, StatusCode::OK, &HeaderMap::new(), why.as_bytes());
            self.note_failure(&failure);
            return (AttemptEnd::Done, Duration::ZERO);
        }
        // An answer without a body.
        self.client.begin(status, headers, Some(&self.lent.target.backend));
        self.note_answered();
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
        if !calls::may_still_run(&failure) {
            // It died: nothing of the call goes on there.
            return self.ends_without_answer(Trouble::Silent(failure), Duration::ZERO);
        }
        self.silent(Trouble::Silent(failure))
    }

    fn silent(&self, trouble: Trouble) -> (AttemptEnd, Duration) {
        self.ends_without_answer(trouble, self.linger())
    }

    fn ends_without_answer(&self, trouble: Trouble, linger: Duration) -> (AttemptEnd, Duration) {
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
            body: match self.client.operation {
                operation if operation == self.ask.operation => body.into(),
                operation => put_over(operation, status, &body),
            },
        };
        (AttemptEnd::Failed(failed), Duration::ZERO)
    }
}

/// An engine's refusal in the protocol of whoever asked, which is another one.
fn put_over(operation: Operation, status: StatusCode, body: &[u8]) -> Bytes {
    let reason = match status.as_u16() {
        404 => RefusalReason::UnknownModel,
        413 => RefusalReason::TooLarge,
        429 => RefusalReason::Full,
        503 => RefusalReason::Unavailable,
        500..=599 => RefusalReason::EngineFailed,
        _ => RefusalReason::Invalid,
    };
    Refusal::new(reason, words_of(body)).body(operation.protocol()).to_string().into()
}

fn parts(meter: &Meter) -> u32 {
    u32::try_from(meter.parts).unwrap_or(u32::MAX)
}
