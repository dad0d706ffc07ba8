//! How many calls a server gets at once: additive up, multiplicative down, on the time that a token takes, and never more than
//! the server runs at once.
//!
//! A long answer takes many tokens, but not longer for each: so it is no congestion. Each model of a server has its own pace,
//! which follows it slowly: what is slower than usual counts, not what is slow. Failures count too, under different requests:
//! a server that breaks off calls has too many of them, and one request that breaks a server says nothing about others.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::parallel::{LaneQueues, Parallelism, SampledCall};

/// Tokens that take this much longer than usual mean congestion. Filling a batch costs something too, and is none.
const SLOWER: f64 = 2.0;
/// One call in so many that fails means congestion, if they fail under several requests.
const ERRORS: i64 = 5;
const REQUESTS: usize = 2;
/// A pace is known from so many tokens on.
const ENOUGH_TOKENS: i64 = 20;
/// The usual pace moves by this part of the difference with each period that is not congested.
const TOWARDS: f64 = 0.1;
/// While congested it moves too, slowly: what lasts becomes usual (another quantization, a warmer machine).
const TOWARDS_CONGESTED: f64 = 0.02;
/// What is left of the limit after a congested period.
const DOWN: f64 = 0.7;
/// Between two steps down: calls that were under way must end first.
const BETWEEN_DOWN: SignedDuration = SignedDuration::from_secs(15);
/// Without congestion for this long, one more.
const BETWEEN_UP: SignedDuration = SignedDuration::from_secs(30);

/// Bounds of a server's limit, as they are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub min: i32,
    pub max: i32,
    /// False: always `max`.
    pub adaptive: bool,
}

impl Bounds {
    fn within(self, limit: i32) -> i32 {
        limit.clamp(self.min.min(self.max), self.max)
    }
}

/// Calls for one model of a server over a few seconds, from all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub calls: i64,
    /// Of those, the ones that are evidence against the server.
    pub errors: i64,
    pub tokens: i64,
    pub token_millis: i64,
}

/// What was heard of a server since the last time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    /// By model.
    pub samples: BTreeMap<String, Sample>,
    /// Under how many different requests it failed within the last minute.
    pub failed_requests: usize,
    /// Its open calls.
    pub calls: Vec<SampledCall>,
    /// Tasks are due that it could do.
    pub more_waits: bool,
}

impl Sample {
    /// Adds another worker's.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            errors: self.errors + other.errors,
            tokens: self.tokens + other.tokens,
            token_millis: self.token_millis + other.token_millis,
        }
    }

    fn millis_per_token(&self) -> Option<f64> {
        (self.tokens >= ENOUGH_TOKENS).then(|| self.token_millis as f64 / self.tokens as f64)
    }
}

/// What is remembered of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adaptive {
    /// In force; between the bounds.
    pub limit: i32,
    /// By pace and failures alone.
    paced: i32,
    /// Why that is below the maximum.
    congested: Option<Congested>,
    /// What the server was seen to run at once.
    parallelism: Parallelism,
    /// The declared maximum that it was made for.
    max: i32,
    /// Usual milliseconds per token, by model.
    usual: BTreeMap<String, f64>,
    /// When it was last moved, or last seen congested.
    moved_at: Timestamp,
}

/// Why a limit went down.
#[derive(Clone, Debug, PartialEq)]
pub enum LoweredBy {
    Congested(Congested),
    LaneQueues(LaneQueues),
}

impl std::fmt::Display for LoweredBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Congested(why) => why.fmt(f),
            Self::LaneQueues(why) => why.fmt(f),
        }
    }
}

/// Signs of too many calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Congested {
    /// Milliseconds per token: now, and usually.
    Slow {
        model: String,
        millis: f64,
        usual: f64,
    },
    Errors {
        errors: i64,
        calls: i64,
    },
}

impl std::fmt::Display for Congested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slow { model, millis, usual } => {
                write!(f, "{model} takes {millis:.0} ms/token, usually {usual:.0}")
            }
            Self::Errors { errors, calls } => write!(f, "{errors} of the last {calls} calls failed"),
        }
    }
}

impl Adaptive {
    /// Starts at the declared maximum.
    pub fn new(bounds: Bounds, now: Timestamp) -> Self {
        Self {
            limit: bounds.max,
            paced: bounds.max,
            congested: None,
            parallelism: Parallelism::default(),
            max: bounds.max,
            usual: BTreeMap::new(),
            moved_at: now,
        }
    }

    /// Why the limit is below the declared maximum.
    pub fn limited_by(&self) -> Option<String> {
        if self.limit >= self.max {
            return None;
        }
        match (self.parallelism.seen(), &self.congested) {
            (Some(seen), _) if self.parallelism.most().is_some_and(|most| most <= self.paced) => Some(seen.to_string()),
            (_, congested) => congested.as_ref().map(ToString::to_string),
        }
    }

    /// Takes in what the last seconds were like. Returns why the limit went down, if it did.
    pub fn observe(&mut self, bounds: Bounds, heard: &Heard, now: Timestamp) -> Option<LoweredBy> {
        if !bounds.adaptive || bounds.max != self.max {
            (self.paced, self.max, self.moved_at) = (bounds.max, bounds.max, now);
            self.parallelism = Parallelism::default();
        }
        let before = self.limit;
        let congested = self.pace(bounds, heard, now);
        let queues = if bounds.adaptive {
            self.parallelism.observe(&heard.calls, heard.more_waits, bounds.max, now)
        } else {
            None
        };
        self.limit = bounds.within(self.parallelism.most().map_or(self.paced, |most| most.min(self.paced)));
        if self.limit >= before {
            return None;
        }
        queues.map(LoweredBy::LaneQueues).or(congested.map(LoweredBy::Congested))
    }

    /// Moves the limit by pace and failures alone. Returns why it went down.
    fn pace(&mut self, bounds: Bounds, heard: &Heard, now: Timestamp) -> Option<Congested> {
        self.paced = bounds.within(self.paced);
        let congested = self.judge(heard).filter(|_| bounds.adaptive);
        let since = now.duration_since(self.moved_at);
        let Some(why) = congested else {
            if since >= BETWEEN_UP {
                self.moved_at = now;
                self.paced = bounds.within(self.paced + 1);
            }
            if self.paced >= self.max {
                self.congested = None;
            }
            return None;
        };
        let held = self.paced < self.max && since < BETWEEN_DOWN;
        if held {
            return None;
        }
        self.moved_at = now;
        let before = self.paced;
        self.paced = bounds.within((f64::from(before) * DOWN).floor() as i32);
        if self.paced < before {
            self.congested = Some(why);
        }
        self.congested.clone().filter(|_| self.paced < before)
    }

    /// Moves the usual paces, and says whether this was congestion.
    fn judge(&mut self, heard: &Heard) -> Option<Congested> {
        let samples = &heard.samples;
        let mut congested = None;
        for (model, sample) in samples {
            let Some(millis) = sample.millis_per_token() else { continue };
            let usual = *self.usual.entry(model.clone()).or_insert(millis);
            let slow = millis > usual * SLOWER;
            let towards = if slow { TOWARDS_CONGESTED } else { TOWARDS };
            self.usual.insert(model.clone(), usual + (millis - usual) * towards);
            if slow {
                congested = Some(Congested::Slow { model: model.clone(), millis, usual });
            }
        }
        let all = samples.values().fold(Sample::default(), |sum, sample| sum.plus(*sample));
        if heard.failed_requests >= REQUESTS && all.errors > 0 && all.errors * ERRORS >= all.calls {
            congested = Some(Congested::Errors { errors: all.errors, calls: all.calls.max(all.errors) });
        }
        congested
    }
}
