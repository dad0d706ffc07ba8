//! How many calls a server gets at once: additive up, multiplicative down, on the time that a token takes, and never more than
//! the server runs at once.
//!
//! A long answer takes many tokens, but not longer for each: so it is no congestion. Each model of a server has its own pace,
//! which follows it slowly: what is slower than usual counts, not what is slow. Failures count too, under different requests:
//! a server that breaks off calls has too many of them, and one request that breaks a server says nothing about others.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const EIGHT: Bounds = Bounds { min: 2, max: 8, adaptive: true };

    fn heard(model: &str, sample: Sample) -> Heard {
        let failed_requests = usize::try_from(sample.errors).unwrap();
        Heard { samples: BTreeMap::from([(model.to_owned(), sample)]), failed_requests, ..Heard::default() }
    }

    /// Each failure under a request of its own.
    fn one(calls: i64, errors: i64, tokens: i64, millis_per_token: i64) -> Heard {
        heard("m", Sample { calls, errors, tokens, token_millis: tokens * millis_per_token })
    }

    /// A server that was watched for five minutes at 30 ms/token.
    fn used() -> Adaptive {
        let mut server = Adaptive::new(EIGHT, at(0));
        for second in (0..300).step_by(5) {
            assert_eq!(server.observe(EIGHT, &one(4, 0, 400, 30), at(second)), None);
        }
        server
    }

    #[test]
    fn long_answers_are_not_taken_for_congestion_and_slow_tokens_and_errors_are() {
        for (samples, limit, what) in [
            (one(1, 0, 1_900, 30), 8, "one long answer"),
            (one(4, 0, 7_600, 31), 8, "four long answers"),
            (one(4, 0, 400, 55), 8, "a fuller batch"),
            (one(4, 0, 10, 500), 8, "too few tokens to tell"),
            (one(4, 0, 400, 70), 5, "more than twice as slow"),
            (one(10, 1, 400, 30), 8, "one error in ten"),
            (one(10, 2, 400, 30), 5, "one error in five"),
            (one(3, 3, 0, 0), 5, "nothing but errors"),
            (Heard { failed_requests: 1, ..one(3, 3, 0, 0) }, 8, "all under one request"),
            (Heard::default(), 8, "nothing to do"),
        ] {
            let mut server = used();
            server.observe(EIGHT, &samples, at(305));
            assert_eq!(server.limit, limit, "{what}");
        }
    }

    #[test]
    fn another_model_has_its_own_pace() {
        let mut server = used();
        let large = heard("large", Sample { calls: 1, errors: 0, tokens: 100, token_millis: 40_000 });
        assert_eq!(server.observe(EIGHT, &large, at(305)), None);
        assert_eq!(server.limit, 8);
    }

    #[test]
    fn it_goes_down_by_parts_to_the_minimum_and_up_by_ones() {
        let mut server = used();
        let mut limits = Vec::new();
        for second in (305..365).step_by(5) {
            let why = server.observe(EIGHT, &one(4, 0, 400, 200), at(second));
            limits.push(server.limit);
            assert_eq!(why.is_some(), [305, 320, 335].contains(&second), "{second}: {why:?}");
        }
        assert_eq!(limits, [5, 5, 5, 3, 3, 3, 2, 2, 2, 2, 2, 2]);
        for (second, limit) in
            [(370, 2), (380, 3), (409, 3), (411, 4), (441, 5), (471, 6), (501, 7), (531, 8), (561, 8)]
        {
            server.observe(EIGHT, &one(4, 0, 400, 30), at(second));
            assert_eq!(server.limit, limit, "at {second}");
        }
    }

    #[test]
    fn what_lasts_becomes_usual() {
        let mut server = used();
        for second in (305..3_600).step_by(5) {
            server.observe(EIGHT, &one(4, 0, 400, 75), at(second));
        }
        assert_eq!(server.limit, 8);
    }

    #[test]
    fn another_declared_maximum_holds_at_once_and_so_does_a_fixed_limit() {
        let mut server = used();
        server.observe(EIGHT, &one(4, 4, 0, 0), at(305));
        assert_eq!(server.limit, 5);
        server.observe(Bounds { max: 16, ..EIGHT }, &Heard::default(), at(306));
        assert_eq!(server.limit, 16);
        server.observe(Bounds { max: 4, ..EIGHT }, &Heard::default(), at(307));
        assert_eq!(server.limit, 4);
        let fixed = Bounds { max: 4, adaptive: false, ..EIGHT };
        assert_eq!(server.observe(fixed, &one(9, 9, 0, 0), at(400)), None);
        assert_eq!(server.limit, 4);
    }

    #[test]
    fn why_it_is_limited_is_told_until_it_is_not() {
        let mut server = used();
        assert_eq!(server.limited_by(), None);
        server.observe(EIGHT, &one(4, 0, 400, 80), at(305));
        assert_eq!(server.limited_by().as_deref(), Some("m takes 80 ms/token, usually 30"));
        server.observe(EIGHT, &one(4, 2, 0, 0), at(325));
        assert_eq!((server.limit, server.limited_by().as_deref()), (3, Some("2 of the last 4 calls failed")));
        for second in (330..600).step_by(5) {
            server.observe(EIGHT, &one(4, 0, 400, 30), at(second));
        }
        assert_eq!((server.limit, server.limited_by()), (8, None));
    }

    #[test]
    fn it_stays_below_what_the_server_runs_at_once_unless_it_is_fixed() {
        let bounds = Bounds { min: 1, max: 4, adaptive: true };
        let mut server = Adaptive::new(bounds, at(0));
        // Two calls get bytes in turns of twenty seconds.
        let call = |number, began: i64, byte: Option<i64>| SampledCall {
            slot: (number, 1),
            model: Some("m".into()),
            began_at: at(began),
            last_byte_at: byte.map(at),
        };
        let mut lowered = Vec::new();
        for second in (20..80).step_by(2) {
            let turn = (second - 20) / 20;
            let calls = vec![call(turn, 0, Some(second)), call(turn + 1, 0, None), call(turn + 2, 0, None)];
            let heard = Heard { calls, more_waits: true, ..Heard::default() };
            lowered.extend(server.observe(bounds, &heard, at(second)).map(|why| (second, why.to_string())));
        }
        assert_eq!(lowered, [(50, "it runs 1 call at a time; 2 waited inside it".to_owned())]);
        assert_eq!((server.limit, server.limited_by()), (1, Some(lowered[0].1.clone())));
        let kept: Adaptive = serde_json::from_value(serde_json::to_value(&server).unwrap()).unwrap();
        assert_eq!((kept.limit, kept.limited_by()), (1, Some(lowered[0].1.clone())));
        server.observe(Bounds { adaptive: false, ..bounds }, &Heard::default(), at(100));
        assert_eq!((server.limit, server.limited_by()), (4, None));
    }

    #[test]
    fn what_is_remembered_survives_a_change_of_leader() {
        let mut server = used();
        server.observe(EIGHT, &one(4, 4, 0, 0), at(305));
        let document = serde_json::to_value(&server).unwrap();
        assert_eq!(serde_json::from_value::<Adaptive>(document).unwrap(), server);
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_its_bounds(
            steps in proptest::collection::vec((0_i64..20, 0_i64..20, 0_i64..3_000, 0_i64..90_000, 1_i64..60), 1..80),
            min in 1_i32..4,
            more in 0_i32..12,
        ) {
            let bounds = Bounds { min, max: min + more, adaptive: true };
            let mut server = Adaptive::new(bounds, at(0));
            let mut second = 0;
            for (calls, errors, tokens, token_millis, later) in steps {
                second += later;
                let before = server.limit;
                let heard = heard("m", Sample { calls, errors, tokens, token_millis });
                let why = server.observe(bounds, &heard, at(second));
                prop_assert!((bounds.min..=bounds.max).contains(&server.limit));
                prop_assert!(server.limit <= before + 1);
                prop_assert_eq!(why.is_some(), server.limit < before);
            }
        }
    }
}
