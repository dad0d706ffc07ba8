use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::Instant;

use super::Fault;
use super::calls::Call;
use super::models::Keep;
use super::sample;
use super::state::{Lease, QueueFull, Shared};
use super::wire::Switch;

const WORDS: [&str; 16] = [
    "the", "horse", "drinks", "at", "noon", "and", "rests", "while", "hay", "is", "brought", "from", "a", "dry",
    "loft", "again",
];

/// Characters of a prompt that the log keeps.
const LOGGED: usize = 200;

/// What a request came in with.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) call: Arc<Call>,
    pub(super) switch: Switch,
}

/// What an inference asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) model: String,
    pub(super) keep: Option<Keep>,
    pub(super) max_tokens: Option<u32>,
    pub(super) prompt_tokens: u32,
    /// For the log.
    pub(super) prompt: String,
    pub(super) options: Option<Value>,
    /// The answer is made to match it.
    pub(super) schema: Option<Value>,
}

/// Why no inference begins.
#[derive(Debug)]
pub(super) enum NotBegun {
    UnknownModel,
    QueueFull,
}

/// An inference that runs: tokens at their pace, or what the faults make of them.
#[derive(Debug)]
pub(super) struct Generation {
    shared: Arc<Shared>,
    context: Context,
    lease: Option<Lease>,
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
}

impl Generation {
    pub(super) async fn begin(shared: &Arc<Shared>, context: Context, wanted: Wanted) -> Result<Self, NotBegun> {
        let started = Instant::now();
        context.call.note(|record| {
            record.model = Some(wanted.model.clone());
            record.max_tokens = wanted.max_tokens;
            record.prompt = Some(wanted.prompt.chars().take(LOGGED).collect());
            record.options = wanted.options.clone();
        });
        let model = shared.find(&wanted.model).ok_or(NotBegun::UnknownModel)?;
        let lease = shared.acquire(&model, wanted.keep).await.map_err(|QueueFull| NotBegun::QueueFull)?;
        // The same call gets the same words, whatever ran beside it.
        let mut rng = StdRng::seed_from_u64(shared.options.seed ^ u64::from(wanted.prompt_tokens));
        let scripted = wanted.schema.as_ref().map(sample::pieces);
        let natural = scripted.as_ref().map_or_else(|| rng.random_range(20..60), |said| length(said));
        // A model that answers in a format ends where the format ends.
        let most = wanted.max_tokens.unwrap_or(u32::MAX);
        let stopped = wanted.max_tokens.is_none() || (scripted.is_some() && natural <= most);
        let length = if stopped { natural } else { most };
        Ok(Self {
            shared: Arc::clone(shared),
            context,
            load: lease.load,
            lease: Some(lease),
            rng,
            scripted,
            length,
            produced: 0,
            model: wanted.model,
            prompt_tokens: wanted.prompt_tokens,
            stopped,
            started,
            answering: Instant::now(),
        })
    }

    /// The next token, or `None` at the end.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.shared.until_none(|fault| self.is_held_by(fault)).await;
        if self.produced >= self.length {
            return None;
        }
        let cut = |fault: &Fault| match fault {
            Fault::ResetAfter { tokens } if *tokens <= self.produced => Some(()),
            _ => None,
        };
        if self.shared.fault(cut).is_some() {
            self.context.switch.reset();
            // The connection's end drops this.
            std::future::pending::<()>().await;
        }
        let slow = |fault: &Fault| match fault {
            Fault::SlowTokens { tokens_per_second } => Some(*tokens_per_second),
            _ => None,
        };
        let rate = self.shared.fault(slow).unwrap_or(self.shared.options.tokens_per_second);
        tokio::time::sleep(Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX)).await;
        // It may have begun to hang meanwhile.
        self.shared.until_none(|fault| self.is_held_by(fault)).await;
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

    /// Holds while inference hangs, for what yields no tokens (embeddings).
    pub(super) async fn until_free(&self) {
        self.shared.until_none(|fault| self.is_held_by(fault)).await;
    }

    fn is_held_by(&self, fault: &Fault) -> bool {
        match fault {
            Fault::HangInference { .. } => true,
            Fault::StallAfter { tokens } => *tokens <= self.produced,
            _ => false,
        }
    }

    /// Ends the call in good order.
    pub(super) fn finish(&mut self) {
        self.lease = None;
        self.context.call.finish();
    }

    pub(super) fn total(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn answering(&self) -> Duration {
        self.answering.elapsed()
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
