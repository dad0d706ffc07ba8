//! The side of whoever asked: an answer that begins when something is known, signs of life until then and in between, and refusals in the
//! protocol's shape wherever the answer stands.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    asker::Asker,
    cache::{self, CACHE},
    core::GatewayTimings,
    pipe::{PipeReceiver, PipeSender, pipe},
};
use crate::{
    protocols::{Framing, Operation, Refusal, RefusalReason, beat, early_beat},
    store::{OpenCall, OpenCallState},
};

pub(super) const CALL_ID: HeaderName = HeaderName::from_static("ostler-call-id");
const MODEL: HeaderName = HeaderName::from_static("ostler-model");
const BACKEND: HeaderName = HeaderName::from_static("ostler-backend");
const WAIT: HeaderName = HeaderName::from_static("ostler-wait-ms");
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Of so many signs of life in front of an answer one is an event, also where not everybody takes one there: Codex gives up after five
/// minutes without any.
const EVENT_EVERY: u32 = 24;

/// What whoever asked is answered with.
pub(super) enum Head {
    Whole(Response<Bytes>),
    /// The body follows in the pipe.
    Begun(Response<()>),
}

/// What the handler of a request waits for. Dropped, it tells the call that its client left.
pub(super) struct Waiting {
    head: oneshot::Receiver<Head>,
    pipe: PipeReceiver,
    gone: CancellationToken,
}

impl Waiting {
    pub async fn response(self) -> Response<Body> {
        let Self { head, pipe, gone } = self;
        let guard = gone.drop_guard();
        match head.await {
            Ok(Head::Whole(response)) => response.map(Body::from),
            Ok(Head::Begun(response)) => response.map(|()| pipe.body(guard)),
            Err(_) => {
                let mut response = Response::new(Body::from("the call ended without an answer"));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }
        }
    }
}

pub(super) struct Client {
    pub operation: Operation,
    pub id: String,
    pub asker: Asker,
    pub gone: CancellationToken,
    pipe: PipeSender,
    timings: GatewayTimings,
    asked: Instant,
    asked_at: Timestamp,
    state: Mutex<ClientState>,
}

struct ClientState {
    /// `None`: the answer has begun.
    head: Option<oneshot::Sender<Head>>,
    /// How the answer is framed; `None`: it is not streamed.
    framing: Option<Framing>,
    alias: String,
    /// How long it waited for its slot.
    waited: Option<Duration>,
    /// Where it runs.
    backend: Option<String>,
    last_byte: Instant,
    /// Something of the engine's was sent.
    is_answered: bool,
    /// Signs of life so far.
    beats: u32,
    /// Nothing of a frame is under way.
    between: bool,
    /// No more of it comes.
    whole: bool,
    /// What it was sent, where that may be kept; cleared once it is too long.
    record: Option<Vec<u8>>,
    content_type: String,
    /// An engine answered all of it, to all that was asked.
    served: bool,
    /// It was ended from outside: nothing of the engine's is sent any more.
    ended: bool,
}

impl Client {
    pub fn new(operation: Operation, id: String, asker: Asker, timings: GatewayTimings) -> (Self, Waiting) {
        let (head, answered) = oneshot::channel();
        let (sender, receiver) = pipe();
        let gone = CancellationToken::new();
        let now = Instant::now();
        let state = ClientState {
            head: Some(head),
            framing: None,
            alias: String::new(),
            waited: None,
            backend: None,
            last_byte: now,
            is_answered: false,
            beats: 0,
            between: true,
            whole: false,
            record: None,
            content_type: String::new(),
            served: false,
            ended: false,
        };
        let client = Self {
            operation,
            id,
            asker,
            gone: gone.clone(),
            pipe: sender,
            timings,
            asked: now,
            asked_at: Timestamp::now(),
            state: Mutex::new(state),
        };
        (client, Waiting { head: answered, pipe: receiver, gone })
    }

    /// What was asked for, once that is known.
    pub fn asks(&self, alias: &str, streams: bool) {
        let mut state = self.state.lock();
        state.alias = alias.to_owned();
        state.framing = self.operation.framing().filter(|_| streams);
    }

    /// It has a slot of a backend.
    pub fn has_slot(&self, backend: &str) {
        let mut state = self.state.lock();
        state.waited = Some(self.asked.elapsed());
        state.backend = Some(backend.to_owned());
    }

    /// It waits again.
    pub fn has_no_slot(&self) {
        self.state.lock().backend = None;
    }

    /// For whoever looks on.
    pub fn shown(&self) -> OpenCall {
        let state = self.state.lock();
        OpenCall {
            id: self.id.clone(),
            namespace: self.asker.caller.namespace.clone(),
            caller: self.asker.caller.name.clone(),
            path: self.operation.path().to_owned(),
            model: state.alias.clone(),
            state: if state.backend.is_some() { OpenCallState::Running } else { OpenCallState::Waiting },
            backend: state.backend.clone(),
            asked_at: self.asked_at,
        }
    }

    pub fn framing(&self) -> Option<Framing> {
        self.state.lock().framing
    }

    pub fn waited(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Begins the answer, if it has not begun. `given` are headers of the engine that may pass.
    pub fn begin(&self, status: StatusCode, given: HeaderMap, backend: Option<&str>) {
        let mut state = self.state.lock();
        let Some(head) = state.head.take() else { return };
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = self.headers(&state, given, backend);
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        state.content_type = kind.unwrap_or_default().to_owned();
        state.last_byte = Instant::now();
        // Whoever is gone needs no answer.
        let _ = head.send(Head::Begun(response));
    }

    /// Answers at once, with this body alone. False: the answer has begun already.
    pub fn answer(&self, status: StatusCode, given: HeaderMap, backend: Option<&str>, body: Bytes) -> bool {
        let mut state = self.state.lock();
        let Some(head) = state.head.take() else { return false };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = self.headers(&state, given, backend);
        // Whoever is gone needs no answer.
        let _ = head.send(Head::Whole(response));
        true
    }

    fn headers(&self, state: &ClientState, given: HeaderMap, backend: Option<&str>) -> HeaderMap {
        let mut headers = given;
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        put(CALL_ID, &self.id);
        put(MODEL, &state.alias);
        if state.record.is_some() {
            put(CACHE, "miss");
        }
        if let Some(backend) = backend {
            put(BACKEND, backend);
            put(WAIT, &state.waited.unwrap_or_default().as_millis().to_string());
        }
        if let Some(framing) = state.framing {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(framing.content_type()));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
            headers.insert(BUFFERING, HeaderValue::from_static("no"));
        }
        headers
    }

    /// Sends what the engine sent; `between`: a frame ended with it. False: the client is gone, or reads nothing.
    pub async fn send(&self, bytes: Bytes, between: bool) -> bool {
        let is_ended = {
            let mut state = self.state.lock();
            state.is_answered = true;
            match &mut state.record {
                Some(record) if record.len() + bytes.len() <= cache::MOST => record.extend_from_slice(&bytes),
                _ => state.record = None,
            }
            state.ended
        };
        !is_ended && self.push(bytes, between).await
    }

    /// Its answer may be kept.
    pub fn keeps(&self) {
        self.state.lock().record = Some(Vec::new());
    }

    /// An engine answered.
    pub fn is_served(&self) {
        self.state.lock().served = true;
    }

    /// What it was sent, without signs of life, and of which type; where that may be kept.
    pub fn kept(&self) -> Option<(String, Vec<u8>)> {
        let mut state = self.state.lock();
        let record = state.record.take().filter(|record| state.served && !state.ended && !record.is_empty())?;
        Some((state.content_type.clone(), record))
    }

    async fn push(&self, bytes: Bytes, between: bool) -> bool {
        {
            let mut state = self.state.lock();
            state.last_byte = Instant::now();
            state.between = between;
        }
        self.pipe.send(bytes, self.timings.unread).await
    }

    /// The answer is whole: no sign of life follows.
    pub fn is_whole(&self) {
        self.state.lock().whole = true;
    }

    /// Refuses: as an answer, or in a stream that has begun as its last frame.
    pub async fn refuse(&self, refusal: &Refusal) {
        let protocol = self.operation.protocol();
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Bytes::from(refusal.body(protocol).to_string());
        if self.answer(status, refusal_headers(refusal), None, body) {
            return;
        }
        self.is_whole();
        let (framing, between) = {
            let state = self.state.lock();
            (state.framing, state.between)
        };
        match framing {
            Some(framing) => {
                // A frame that was cut short must not swallow this one.
                let end = match (between, framing) {
                    (true, _) => "",
                    (false, Framing::Sse) => "\n\n",
                    (false, Framing::Ndjson) => "\n",
                };
                let frame = format!("{end}{}", refusal.frame(self.operation));
                self.push(Bytes::from(frame), true).await;
            }
            None => self.pipe.break_off(),
        }
    }

    /// Ends the call as if its client had left, who is told why.
    pub async fn end(&self, refusal: &Refusal) {
        self.state.lock().ended = true;
        self.gone.cancel();
        self.refuse(refusal).await;
        self.pipe.end();
    }

    /// Sends signs of life for as long as the call goes on, where its protocol has any.
    pub async fn keep_alive(&self) -> Infallible {
        loop {
            let (framing, begun, last_byte) = {
                let state = self.state.lock();
                (state.framing, state.head.is_none(), state.last_byte)
            };
            let due = match (framing, begun) {
                // What it asks for is not known yet, or there is nothing to send.
                (None, _) => Instant::now() + self.timings.beat,
                (Some(_), false) => self.asked + self.timings.commit,
                (Some(_), true) => last_byte + self.timings.beat,
            };
            if Instant::now() < due {
                sleep_until(due).await;
                continue;
            }
            if !begun {
                self.begin(StatusCode::OK, HeaderMap::new(), None);
            }
            match self.beat() {
                Some(beat) => drop(self.push(beat, true).await),
                None => self.state.lock().last_byte = Instant::now(),
            }
        }
    }

    /// The next sign of life, where one may stand.
    fn beat(&self) -> Option<Bytes> {
        let mut state = self.state.lock();
        if !state.between || state.whole || state.ended {
            return None;
        }
        state.beats += 1;
        let early =
            early_beat(self.operation).filter(|_| !state.is_answered && !state.beats.is_multiple_of(EVENT_EVERY));
        match early {
            Some(early) => Some(Bytes::from_static(early.as_bytes())),
            None => beat(self.operation, &self.id, &state.alias, Timestamp::now()).map(Bytes::from),
        }
    }
}

/// The headers of a refusal.
pub(super) fn refusal_headers(refusal: &Refusal) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(after) = refusal.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if matches!(refusal.reason, RefusalReason::Full | RefusalReason::Spent | RefusalReason::Cancelled) {
        // A client would ask again at once, and get the same.
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    headers
}
