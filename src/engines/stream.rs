use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::probe::read_bounded;
use super::status::of_response;
use super::transport::Broken;
use super::{Activity, EngineKind, Failure, InferOutcome, InferRequest};

/// No engine sends a longer line; one that does is not an engine.
const MAX_LINE_BYTES: usize = 4 << 20;
/// A model that says more in one answer has lost its way; `max_tokens` ends it long before.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// A response body as lines, for NDJSON and for event streams.
pub(super) struct Lines {
    response: Response,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub(super) fn new(response: Response) -> Self {
        Self { response, buffer: Vec::new(), ended: false }
    }

    /// The next line that isn't blank, without its line break; `None` at the end. Safe to drop between two calls, not within one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line.trim_ascii();
                if !line.is_empty() {
                    return Ok(Some(line.to_vec()));
                }
                continue;
            }
            if self.ended {
                let rest = std::mem::take(&mut self.buffer);
                let rest = rest.trim_ascii();
                return Ok((!rest.is_empty()).then(|| rest.to_vec()));
            }
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(LineError::TooLong);
            }
            match self.response.chunk().await.map_err(|e| LineError::Broken(Broken::of(&e)))? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum LineError {
    Broken(Broken),
    TooLong,
}

/// The time limits of one inference and what it has yielded so far.
pub(super) struct Progress<'a> {
    engine: EngineKind,
    started: Instant,
    first_byte_timeout: Duration,
    stall_timeout: Duration,
    timeout: Duration,
    on_activity: &'a mut (dyn FnMut(Activity) + Send),
    tokens: u32,
    first: Option<Duration>,
    last: Instant,
    text: String,
}

/// What an engine says at the end of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Of the answer.
    pub(super) tokens: Option<u32>,
    pub(super) prompt_tokens: Option<u32>,
    pub(super) per_token: Option<Duration>,
    pub(super) cut_off: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(
        engine: EngineKind,
        request: &InferRequest,
        on_activity: &'a mut (dyn FnMut(Activity) + Send),
    ) -> Self {
        let started = Instant::now();
        Self {
            engine,
            started,
            first_byte_timeout: request.first_byte_timeout,
            stall_timeout: request.stall_timeout,
            timeout: request.timeout,
            on_activity,
            tokens: 0,
            first: None,
            last: started,
            text: String::new(),
        }
    }

    /// A piece of the answer; empty when it is something else than text (reasoning, a call of a tool).
    pub(super) fn token(&mut self, text: &str) -> Result<(), Failure> {
        if self.text.len() + text.len() > MAX_ANSWER_BYTES {
            return Err(Failure::BadBody { detail: format!("an answer longer than {MAX_ANSWER_BYTES} bytes") });
        }
        self.text.push_str(text);
        self.last = Instant::now();
        self.first.get_or_insert(self.last - self.started);
        self.tokens += 1;
        (self.on_activity)(Activity::Token);
        Ok(())
    }

    /// Sends the request; an answer that isn't a success is a failure.
    pub(super) async fn open(&mut self, request: RequestBuilder) -> Result<Lines, Failure> {
        let deadline = self.deadline();
        let sent = async {
            let response = request.send().await?;
            (self.on_activity)(Activity::Bytes);
            let (status, headers) = (response.status(), response.headers().clone());
            if status.is_success() {
                return Ok(Ok(Lines::new(response)));
            }
            Ok::<_, reqwest::Error>(Err(of_response(self.engine, status, &headers, &read_bounded(response).await?)))
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => Err(self.broken(Broken::of(&error))),
            Err(_elapsed) => Err(self.broken(Broken::Timeout)),
        }
    }

    pub(super) async fn next(&mut self, lines: &mut Lines) -> Result<Option<Vec<u8>>, Failure> {
        match timeout_at(self.deadline(), lines.next()).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(LineError::TooLong)) => Err(Failure::BadBody { detail: "a line without end".into() }),
            Ok(Err(LineError::Broken(broken))) => Err(self.broken(broken)),
            Err(_elapsed) => Err(self.broken(Broken::Timeout)),
        }
    }

    /// The stream ended before the engine said that it was done.
    pub(super) fn cut_short(&self) -> Failure {
        self.broken(Broken::Reset)
    }

    pub(super) fn outcome(mut self, counts: Counts) -> InferOutcome {
        let Counts { tokens: counted, prompt_tokens, per_token, cut_off } = counts;
        let total = self.started.elapsed();
        // A token can be half a character, and then no text comes of it.
        if self.tokens == 0 && counted.is_some_and(|n| n > 0) {
            self.first.get_or_insert(total);
            self.tokens += 1;
            (self.on_activity)(Activity::Token);
        }
        InferOutcome {
            text: self.text,
            reasoning: String::new(),
            tool_calls: 0,
            finish: None,
            tokens: counted.unwrap_or(self.tokens),
            prompt_tokens,
            cut_off,
            first_token_after: self.first.unwrap_or(total),
            total,
            eval_duration_per_token: per_token,
        }
    }

    fn deadline(&self) -> Instant {
        let next =
            if self.tokens == 0 { self.started + self.first_byte_timeout } else { self.last + self.stall_timeout };
        next.min(self.started + self.timeout)
    }

    fn broken(&self, broken: Broken) -> Failure {
        broken.failure(self.tokens, self.started.elapsed())
    }
}

/// A record that is no JSON, named by its beginning.
pub(super) fn parse(line: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(line).map_err(|_| {
        let start: String = String::from_utf8_lossy(line).chars().take(80).collect();
        Failure::BadBody { detail: format!("expected JSON, got {start:?}") }
    })
}
