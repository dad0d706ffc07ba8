use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::Instant;

use crate::engines::EngineKind;

use super::Fault;
use super::calls::{CallEnd, SimulatedCall};
use super::chat;
use super::faults::Shape;
use super::in_force::checked;
use super::models::Keep;
use super::replies::SimulatedRefusal;
use super::state::{RunnerLease, SimulatedState};
use super::wire::Switch;

const WORDS: [&str; 16] = [
    "the", "horse", "drinks", "at", "noon", "and", "rests", "while", "hay", "is", "brought", "from", "a", "dry",
    "loft", "again",
];

/// A limit from which on an answer ends by itself.
const NOBODY_WANTS: u32 = 4096;
/// What mlx_lm takes for a limit where none is given.
const MLX_MAX_TOKENS: u32 = 512;

/// Ollama's own context where memory is short.
pub(super) const OLLAMA_CONTEXT: u32 = 4096;

const AFTER_RESET: Duration = Duration::from_secs(1);

/// Characters of a prompt that the log keeps.
const LOGGED: usize = 200;

/// What a request came in with.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) call: Arc<SimulatedCall>,
    pub(super) switch: Switch,
}

/// What an inference asks for.
#[derive(Debug, Default)]
pub(super) struct WantedAnswer {
    pub(super) model: String,
    pub(super) keep: Option<Keep>,
    pub(super) max_tokens: Option<u32>,
    /// Tokens of each input.
    pub(super) inputs: Vec<u32>,
    /// Ollama's `num_ctx`, and that a longer input is refused rather than cut.
    pub(super) context: Option<u32>,
    pub(super) refuse_long: bool,
    /// For the log.
    pub(super) prompt: String,
    pub(super) options: Option<Value>,
    /// The answer is made to match it.
    pub(super) schema: Option<Value>,
}

/// An inference that runs: tokens at their pace, or what the faults make of them.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) shared: Arc<SimulatedState>,
    context: Context,
    lease: Option<RunnerLease>,
    rng: StdRng,
    scripted: Option<Vec<String>>,
    length: u32,
    pub(super) produced: u32,
    pub(super) model: String,
    pub(super) prompt_tokens: u32,
    pub(super) load: Duration,
    /// The text's end, rather than the caller's limit.
    pub(super) stopped: bool,
    started: Instant,
    answering: Instant,
    prefill: Option<Prefill>,
}

/// Work on the prompt that is still to do.
#[derive(Debug)]
struct Prefill {
    ends: Instant,
    time: Duration,
    /// When the next comment is due, where there are any.
    comment: Option<Instant>,
}

/// For ever, as far as an instant can tell.
const A_YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Between two comments of a prefill.
const COMMENTS: Duration = Duration::from_secs(1);

impl Generation {
    pub(super) async fn begin(
        shared: &Arc<SimulatedState>,
        context: Context,
        wanted: WantedAnswer,
    ) -> Result<Self, SimulatedRefusal> {
        let started = Instant::now();
        context.call.note(|record| {
            record.model = Some(wanted.model.clone());
            record.max_tokens = wanted.max_tokens;
            record.prompt = Some(wanted.prompt.chars().take(LOGGED).collect());
            record.options = wanted.options.clone();
        });
        let model = shared.find(&wanted.model).ok_or(SimulatedRefusal::UnknownModel)?;
        let prompt_tokens = prompt_tokens(shared, &wanted)?;
        if shared.has(|fault| matches!(fault, Fault::RunnerStopped {})) {
            shared.evict_all();
            return Err(SimulatedRefusal::RunnerStopped);
        }
        let lease = match shared.cloud_model() {
            Some(cloud) if cloud == model => None,
            _ => Some(shared.acquire(&model, wanted.keep).await?),
        };
        // The same call gets the same words, whatever ran beside it.
        let mut rng = StdRng::seed_from_u64(shared.options.seed ^ u64::from(prompt_tokens));
        let scripted = wanted.schema.as_ref().map(chat::pieces);
        // A model that answers in a format ends where the format ends; of others a limit that is given is reached, unless it is so high
        // that nobody wants as much: coding agents and the gateway name one with each request.
        let said = scripted.as_deref().map(length).or_else(|| shared.long_answer());
        let natural = said.unwrap_or_else(|| {
            let is_reached = wanted.max_tokens.is_some_and(|most| most < NOBODY_WANTS);
            if is_reached { u32::MAX } else { rng.random_range(20..60) }
        });
        let usual = if shared.options.engine == EngineKind::Mlx { MLX_MAX_TOKENS } else { u32::MAX };
        let most = wanted.max_tokens.unwrap_or(usual);
        let answering = Instant::now();
        Ok(Self {
            prefill: shared.prefill(prompt_tokens).map(|(time, comments)| Prefill {
                ends: answering.checked_add(time).unwrap_or_else(|| answering + A_YEAR),
                time,
                comment: comments.then_some(answering),
            }),
            shared: Arc::clone(shared),
            context,
            load: lease.as_ref().map_or(Duration::ZERO, |lease| lease.load),
            lease,
            rng,
            scripted,
            length: natural.min(most),
            produced: 0,
            model: wanted.model,
            prompt_tokens,
            stopped: natural <= most,
            started,
            answering,
        })
    }

    /// How far the prompt is, when the server says so before its first token: at once and then each second.
    pub(super) async fn progress(&mut self) -> Option<(u32, u32)> {
        let prefill = self.prefill.as_mut()?;
        let due = prefill.comment?;
        tokio::time::sleep_until(due.min(prefill.ends)).await;
        if Instant::now() >= prefill.ends {
            self.prefill = None;
            return None;
        }
        prefill.comment = Some(due + COMMENTS);
        let total = self.prompt_tokens.max(1);
        let spent = prefill.time.saturating_sub(prefill.ends.duration_since(due)).as_millis();
        let done = u128::from(total) * spent / prefill.time.as_millis().max(1);
        Some((u32::try_from(done).unwrap_or(total), total))
    }

    /// The next token, or `None` at the end.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.until_free().await;
        if let Some(prefill) = &self.prefill {
            tokio::time::sleep_until(prefill.ends).await;
            self.prefill = None;
            self.until_free().await;
        }
        if self.produced >= self.length {
            return None;
        }
        let cut = |fault: &Fault| match fault {
            Fault::ResetAfter { tokens } if *tokens <= self.produced => Some(()),
            _ => None,
        };
        if self.shared.fault(cut).is_some() {
            self.context.switch.reset();
            // The connection's end drops this, unless the server does not care for its clients.
            tokio::time::sleep(AFTER_RESET).await;
            self.end(CallEnd::Failed);
            return None;
        }
        let slow = |fault: &Fault| match fault {
            Fault::SlowTokens { tokens_per_second } => Some(*tokens_per_second),
            _ => None,
        };
        let rate = self.shared.fault(slow).unwrap_or(self.shared.options.tokens_per_second);
        tokio::time::sleep(Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX)).await;
        // It may have begun to hang meanwhile.
        self.until_free().await;
        let place = usize::try_from(self.produced).unwrap_or(usize::MAX);
        let token = match self.scripted.as_ref().and_then(|said| said.get(place)) {
            Some(piece) => piece.clone(),
            None => self.word(),
        };
        self.produced += 1;
        self.context.call.token();
        Some(token)
    }

    fn word(&mut self) -> String {
        let word = WORDS[self.rng.random_range(0..WORDS.len())];
        let space = if self.produced == 0 { "" } else { " " };
        format!("{space}{word}")
    }

    /// Waits while inference hangs.
    pub(super) async fn until_free(&self) {
        self.shared.faults.until_none(|fault| self.is_held_by(fault)).await;
    }

    fn is_held_by(&self, fault: &Fault) -> bool {
        match fault {
            Fault::HangInference { .. } => true,
            Fault::StallAfter { tokens } => *tokens <= self.produced,
            _ => false,
        }
    }

    /// The shape that a fault gives to a stream from this token on.
    pub(super) fn shape(&self) -> Option<Shape> {
        self.shared.fault(|fault| match fault {
            Fault::Stream { shape, after_tokens } if *after_tokens <= self.produced => Some(*shape),
            _ => None,
        })
    }

    /// Ends the call in good order.
    pub(super) fn finish(&mut self) {
        self.end(CallEnd::Finished);
    }

    /// Ends the call and leaves the runner.
    pub(super) fn end(&mut self, end: CallEnd) {
        self.lease = None;
        self.context.call.end(end);
    }

    pub(super) fn total(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn answering(&self) -> Duration {
        self.answering.elapsed()
    }
}

/// The prompt's tokens as far as the model takes them in.
fn prompt_tokens(shared: &SimulatedState, wanted: &WantedAnswer) -> Result<u32, SimulatedRefusal> {
    let engine = shared.options.engine;
    let Some(limit) =
        shared.context_limit(wanted.context.or(shared.derived(&wanted.model).map(|(_, context)| context)))
    else {
        return Ok(wanted.inputs.iter().sum());
    };
    let refuses = wanted.refuse_long || engine == EngineKind::OpenAi;
    if let Some(&asked) = wanted.inputs.iter().find(|input| refuses && **input > limit) {
        return Err(SimulatedRefusal::TooLong { limit, asked });
    }
    Ok(wanted.inputs.iter().map(|input| (*input).min(limit)).sum())
}

impl SimulatedState {
    /// Tokens of a prompt that a model takes; `asked` is Ollama's `num_ctx`.
    pub(super) fn context_limit(&self, asked: Option<u32>) -> Option<u32> {
        let set = self.fault(|fault| if let Fault::Context { tokens } = fault { Some(*tokens) } else { None });
        match self.options.engine {
            EngineKind::Ollama => set.or(asked).or(Some(OLLAMA_CONTEXT)),
            EngineKind::OpenAi => set,
            EngineKind::Mlx => None,
        }
    }

    fn long_answer(&self) -> Option<u32> {
        self.fault(|fault| if let Fault::LongAnswer { tokens } = fault { Some(*tokens) } else { None })
    }

    /// How long the prompt takes, and whether comments fill the time.
    fn prefill(&self, tokens: u32) -> Option<(Duration, bool)> {
        self.fault(|fault| match fault {
            Fault::Prefill { seconds, tokens_per_second, keepalive } => {
                let by_length = tokens_per_second.map(|rate| f64::from(tokens) / rate);
                Some((checked(seconds.or(by_length)?), *keepalive))
            }
            _ => None,
        })
    }
}

/// A model of numbers that looks like one: as many as small embedding models have, the same for the same text.
pub(super) fn embedding(seed: u64, text: &str) -> Vec<f32> {
    let hash = text.bytes().fold(seed, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut rng = StdRng::seed_from_u64(hash);
    (0..64).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn length(pieces: &[String]) -> u32 {
    u32::try_from(pieces.len()).unwrap_or(u32::MAX)
}

/// All messages, for counting their tokens.
pub(super) fn joined(messages: &[Value]) -> String {
    messages.iter().filter_map(|m| m.get("content")?.as_str()).collect::<Vec<_>>().join(" ")
}

/// A rough count, as no tokenizer is at hand.
pub(super) fn count_tokens(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}
