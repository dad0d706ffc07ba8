//! What a worker tells the leader of its calls, and what keeps it from doing more. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{api::LimitedBy, engines::InferOutcome, store::CallStats};

use super::load::Allowance;

/// Calls since the last report, by server and model.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<BTreeMap<(String, String), CallStats>>>);

impl Stats {
    /// A call that ended well. Of a chat the tokens, and the time that they took: as the engine measured it, else from the
    /// first one on, so that neither loading nor a long prompt counts as slowness.
    pub fn ended(&self, server_url: &str, model: &str, outcome: Option<&InferOutcome>) {
        self.note(server_url, model, |stats| {
            stats.calls += 1;
            if let Some((tokens, time)) = outcome.and_then(pace) {
                stats.tokens += tokens;
                stats.token_millis += i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            }
        });
    }

    /// A call whose failure is evidence against the server.
    pub fn failed(&self, server_url: &str, model: &str) {
        self.note(server_url, model, |stats| {
            stats.calls += 1;
            stats.errors += 1;
        });
    }

    /// Everything since the last time.
    pub fn take(&self) -> Vec<CallStats> {
        std::mem::take(&mut *self.0.lock()).into_values().collect()
    }

    /// Puts back what could not be reported.
    pub fn put_back(&self, taken: Vec<CallStats>) {
        for old in taken {
            self.note(&old.server_url, &old.model, |stats| {
                stats.calls += old.calls;
                stats.errors += old.errors;
                stats.tokens += old.tokens;
                stats.token_millis += old.token_millis;
            });
        }
    }

    fn note(&self, server_url: &str, model: &str, change: impl FnOnce(&mut CallStats)) {
        let mut all = self.0.lock();
        let key = (server_url.to_owned(), model.to_owned());
        change(all.entry(key).or_insert_with(|| CallStats {
            server_url: server_url.to_owned(),
            model: model.to_owned(),
            calls: 0,
            errors: 0,
            tokens: 0,
            token_millis: 0,
        }));
    }
}

/// Tokens and the time that they took. One token alone tells nothing where the engine does not measure.
fn pace(outcome: &InferOutcome) -> Option<(i64, Duration)> {
    match outcome.eval_duration_per_token {
        Some(each) if outcome.tokens > 0 => Some((i64::from(outcome.tokens), each * outcome.tokens)),
        Some(_) => None,
        None if outcome.tokens > 1 => {
            Some((i64::from(outcome.tokens) - 1, outcome.total.saturating_sub(outcome.first_token_after)))
        }
        None => None,
    }
}

/// What the last round of claiming met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerRoom {
    /// Some server had no free slot, gave none, or can't be called.
    pub servers_short: bool,
}

/// What keeps a worker from doing more.
pub fn limited_by(draining: bool, allowance: Allowance, in_flight: i32, round: ServerRoom) -> LimitedBy {
    if draining {
        LimitedBy::Draining
    } else if in_flight >= allowance.most {
        allowance.limited_by
    } else if round.servers_short {
        LimitedBy::Backends
    } else {
        LimitedBy::Tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(tokens: u32, each: Option<u64>) -> InferOutcome {
        InferOutcome {
            text: String::new(),
            reasoning: String::new(),
            tool_calls: 0,
            finish: None,
            tokens,
            prompt_tokens: None,
            cut_off: false,
            first_token_after: Duration::from_secs(5),
            total: Duration::from_secs(6),
            eval_duration_per_token: each.map(Duration::from_millis),
        }
    }

    #[test]
    fn loading_and_the_prompt_are_no_slowness() {
        let stats = Stats::default();
        stats.ended("s", "m", Some(&outcome(11, None)));
        stats.ended("s", "m", Some(&outcome(4, Some(20))));
        stats.ended("s", "m", Some(&outcome(1, None)));
        stats.ended("s", "m", None);
        stats.failed("s", "m");
        stats.failed("t", "m");
        let of = |server: &str, calls, errors, tokens, token_millis| CallStats {
            server_url: server.into(),
            model: "m".into(),
            calls,
            errors,
            tokens,
            token_millis,
        };
        let expected = [of("s", 5, 1, 14, 1_080), of("t", 1, 1, 0, 0)];
        let taken = stats.take();
        assert_eq!(taken, expected);
        assert_eq!(stats.take(), []);
        stats.put_back(taken);
        assert_eq!(stats.take(), expected);
    }

    #[test]
    fn what_limits_is_named_nearest_first() {
        let allowance = Allowance { most: 4, limited_by: LimitedBy::Cpu };
        let short = ServerRoom { servers_short: true };
        for (draining, in_flight, round, expected) in [
            (true, 4, short, LimitedBy::Draining),
            (false, 4, short, LimitedBy::Cpu),
            (false, 3, short, LimitedBy::Backends),
            (false, 3, ServerRoom::default(), LimitedBy::Tasks),
        ] {
            assert_eq!(limited_by(draining, allowance, in_flight, round), expected);
        }
    }

    #[test]
    fn every_word_is_read_back() {
        use LimitedBy::{Backends, Concurrency, Cpu, Disk, Draining, Memory, Replicas, Tasks};
        for one in [Concurrency, Replicas, Cpu, Memory, Disk, Backends, Tasks, Draining] {
            assert_eq!(LimitedBy::parse(one.into()), Some(one));
        }
    }
}
