//! One call whose answer is streamed: its time limits, and what it has yielded so far.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use tokio::time::Instant;

use super::decoder::{Decoder, StreamItem, no_json};
use super::error::failure;
use super::said::{self, Counts, ServerWords, Tool};
use super::status::{html_title, of_event, of_record, of_response};
use super::thinking::SplitAnswer;
use super::{CallActivity, Endpoint, EngineError, EngineKind, Failure, InferOutcome, InferRequest, SendableModel};
use crate::net::{Broken, HttpReply};
use crate::protocols::{Tokenizer, prompt_cut};

/// A model that says more in one answer has lost its way; `max_tokens` ends it long before.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Tool calls that are told apart.
const MAX_TOOL_CALLS: u32 = 10_000;
/// After the end of an answer: for the counts that were asked for, and for `[DONE]`, so that the connection is used again.
const WAIT_FOR_COUNTS: Duration = Duration::from_secs(1);
const WAIT_FOR_DONE: Duration = Duration::from_millis(200);

/// A failed call, and the HTTP status that it ended with.
#[derive(Debug)]
pub(super) struct CallError {
    pub(super) failure: Failure,
    pub(super) status: Option<u16>,
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        Self { failure, status: None }
    }
}

impl CallError {
    pub(super) fn of_call(self, at: &Endpoint, path: &str, model: &SendableModel) -> EngineError {
        EngineError::new(format!("{} with model {model}", at.describe(&Method::POST, path)), self.failure)
    }
}

/// Sends the request and reads its answer. `counts_follow`: a record with counts was asked for, behind the answer.
pub(super) async fn run(
    engine: EngineKind,
    (at, built): (&Endpoint, RequestBuilder),
    request: &InferRequest,
    counts_follow: bool,
    on_activity: &mut (dyn FnMut(CallActivity) + Send),
) -> Result<InferOutcome, CallError> {
    let mut call = Call::new(engine, request, counts_follow, on_activity);
    let mut reply = call.open(at, built).await?;
    let mut decoder = Decoder::for_answer(request.max_tokens);
    loop {
        let chunk = match reply.chunk(call.deadline()).await {
            Ok(chunk) => chunk,
            // Whatever happens to the connection, the answer is whole.
            Err(_) if call.finished.is_some() => break,
            Err(broken) => return Err(call.broken(broken).into()),
        };
        let Some(chunk) = chunk else {
            let items = decoder.end();
            if call.take(items)? || call.finished.is_some() {
                break;
            }
            return Err(call.ended_early(decoder.plain()).into());
        };
        call.received();
        if call.take(decoder.push(chunk.as_ref()))? {
            break;
        }
    }
    Ok(call.outcome()?)
}

struct Call<'a> {
    engine: EngineKind,
    request: &'a InferRequest,
    counts_follow: bool,
    on_activity: &'a mut (dyn FnMut(CallActivity) + Send),
    started: Instant,
    /// When the last byte of the body came.
    last_byte: Option<Instant>,
    first_token: Option<Duration>,
    tokens: u32,
    records: u32,
    answer: SplitAnswer,
    tool_calls: u32,
    finish: Option<String>,
    /// When the answer was known to be whole.
    finished: Option<Instant>,
    counts: Counts,
}

impl<'a> Call<'a> {
    fn new(
        engine: EngineKind,
        request: &'a InferRequest,
        counts_follow: bool,
        on_activity: &'a mut (dyn FnMut(CallActivity) + Send),
    ) -> Self {
        Self {
            engine,
            request,
            counts_follow,
            on_activity,
            started: Instant::now(),
            last_byte: None,
            first_token: None,
            tokens: 0,
            records: 0,
            answer: SplitAnswer::default(),
            tool_calls: 0,
            finish: None,
            finished: None,
            counts: Counts::default(),
        }
    }

    /// An answer that isn't a success is a failure.
    async fn open(&mut self, at: &Endpoint, built: RequestBuilder) -> Result<HttpReply, CallError> {
        let reply = at.send_until(built, self.deadline()).await.map_err(|broken| self.broken(broken))?;
        (self.on_activity)(CallActivity::Bytes);
        let (status, headers) = (reply.status(), reply.headers().clone());
        if status.is_success() {
            // Beside its own limits, by what arrives.
            return Ok(reply.prolonged(self.started + self.request.timeout));
        }
        let body = reply.refusal().await;
        Err(CallError { failure: of_response(self.engine, status, &headers, &body), status: Some(status.as_u16()) })
    }

    fn received(&mut self) {
        self.last_byte = Some(Instant::now());
        (self.on_activity)(CallActivity::Bytes);
    }

    /// Whether nothing more is to come. What follows a whole answer changes nothing.
    fn take(&mut self, items: Result<Vec<StreamItem>, Failure>) -> Result<bool, CallError> {
        let items = match items {
            Err(_) if self.finished.is_some() => return Ok(true),
            items => items?,
        };
        for item in items {
            let refusal = match item {
                StreamItem::Done => return self.done().map_err(CallError::from),
                StreamItem::Error(data) => Some(of_event(self.engine, &data)),
                StreamItem::Record { value, framed } => match of_record(self.engine, &value) {
                    None if self.note(&said::read(&value), framed)? => return Ok(true),
                    refusal => refusal,
                },
            };
            if let Some(refusal) = refusal.filter(|_| self.finished.is_none()) {
                return Err(CallError { failure: refusal.failure, status: refusal.status });
            }
        }
        Ok(false)
    }

    fn done(&self) -> Result<bool, Failure> {
        if self.finished.is_none() && self.tokens == 0 {
            return Err(Failure::NoContent { detail: "[DONE], and nothing before it".into() });
        }
        Ok(true)
    }

    fn note(&mut self, said: &ServerWords<'_>, framed: bool) -> Result<bool, Failure> {
        self.records += 1;
        if let Some(text) = &said.content {
            if self.answer.len() + text.len() > MAX_ANSWER_BYTES {
                return Err(Failure::BadBody { detail: format!("an answer longer than {MAX_ANSWER_BYTES} bytes") });
            }
            self.answer.push(text);
        }
        if let Some(text) = said.reasoning {
            self.answer.reason(text);
        }
        for tool in &said.tool_calls {
            self.tool_calls = match tool {
                Tool::Whole => self.tool_calls + 1,
                Tool::Piece(index) => self.tool_calls.max(index.saturating_add(1)),
            }
            .min(MAX_TOOL_CALLS);
        }
        if said.has_token() {
            self.token();
        }
        let Counts { tokens, prompt_tokens, per_token } = said.counts.clone();
        self.counts.tokens = tokens.or(self.counts.tokens);
        self.counts.prompt_tokens = prompt_tokens.or(self.counts.prompt_tokens);
        self.counts.per_token = per_token.or(self.counts.per_token);
        match said.finish.as_deref() {
            // The server's own words for a generation that it broke off.
            Some(reason @ ("error" | "abort")) => {
                let detail = format!("the server ended the answer with the reason {reason:?}");
                return Err(Failure::ServerError { status: 200, detail });
            }
            Some(reason) => {
                self.finish = Some(reason.to_owned());
                self.finished.get_or_insert_with(Instant::now);
            }
            // One JSON value is the whole answer, though it says no reason.
            None if said.whole && !framed && said.has_token() => {
                self.finished.get_or_insert_with(Instant::now);
            }
            None => {}
        }
        Ok(said.done)
    }

    fn token(&mut self) {
        self.first_token.get_or_insert_with(|| self.started.elapsed());
        self.tokens = self.tokens.saturating_add(1);
        (self.on_activity)(CallActivity::Token);
    }

    fn deadline(&self) -> Instant {
        let next = match (self.finished, self.last_byte) {
            (Some(at), _) if self.counts_follow && self.counts.tokens.is_none() => at + WAIT_FOR_COUNTS,
            (Some(at), _) => at + WAIT_FOR_DONE,
            (None, Some(at)) => at + self.request.stall_timeout,
            (None, None) => self.started + self.request.first_byte_timeout,
        };
        next.min(self.started + self.request.timeout)
    }

    /// The body ended, and the answer has no end.
    fn ended_early(&self, plain: &[u8]) -> Failure {
        match (self.records, self.tokens) {
            (0, _) if !plain.is_empty() => match html_title(plain) {
                Some(title) => Failure::Misconfigured(format!("HTTP 200 with an HTML page{title}: another program")),
                None => no_json(plain),
            },
            (0, _) if self.last_byte.is_none() => Failure::BadBody { detail: "200 with an empty body".into() },
            (1.., 0) => Failure::NoContent { detail: "the stream ended without a piece of an answer".into() },
            _ => self.broken(Broken::Reset),
        }
    }

    fn broken(&self, broken: Broken) -> Failure {
        failure(broken, self.tokens, self.started.elapsed())
    }

    fn outcome(mut self) -> Result<InferOutcome, Failure> {
        let texts = self.request.messages.iter().map(|message| message.content.as_str());
        if let Some(detail) = prompt_cut(Tokenizer::Chat, texts, self.counts.prompt_tokens.map(u64::from)) {
            return Err(Failure::PromptTooLong { detail });
        }
        // A token can be half a character, and then no text comes of it.
        if self.tokens == 0 && self.counts.tokens.is_some_and(|n| n > 0) {
            self.token();
        }
        let total = self.started.elapsed();
        let (text, reasoning) = self.answer.finish();
        Ok(InferOutcome {
            text,
            reasoning,
            tool_calls: self.tool_calls,
            tokens: self.counts.tokens.unwrap_or(self.tokens),
            prompt_tokens: self.counts.prompt_tokens,
            cut_off: matches!(self.finish.as_deref(), Some("length" | "max_tokens" | "max_output_tokens")),
            finish: self.finish,
            first_token_after: self.first_token.unwrap_or(total),
            total,
            eval_duration_per_token: self.counts.per_token,
        })
    }
}
