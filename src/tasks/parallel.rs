//! How many calls a server runs at once, learned from which of its open calls get bytes.
//!
//! An engine that runs one call at a time accepts several and lets the others wait inside it. That gains nothing, hides the
//! queue, and makes a waiting call look like one that hangs. Nothing says how many an engine runs, so it is observed.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Times of bytes are known this late: calls whose last bytes are no further apart get them at once, and a call waits once it
/// has been open for longer without any.
const LATE: SignedDuration = SignedDuration::from_secs(10);
/// How often, and for how long, calls must have been seen to wait.
const OBSERVATIONS: u32 = 3;
const SUSTAINED: SignedDuration = SignedDuration::from_secs(30);
/// Older observations say nothing about now.
const OLD: SignedDuration = SignedDuration::from_mins(3);
/// One more call is tried so often, while more work waits: the engine may have been restarted with other settings.
const BETWEEN_PROBES: SignedDuration = SignedDuration::from_mins(5);

/// A call that runs in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledCall {
    /// Number and epoch of its slot.
    pub slot: (i64, i64),
    pub model: Option<String>,
    pub began_at: Timestamp,
    pub last_byte_at: Option<Timestamp>,
}

type CallId = ((i64, i64), Timestamp);

impl SampledCall {
    fn id(&self) -> CallId {
        (self.slot, self.began_at)
    }
}

/// What a server was seen to do with more calls than it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneQueues {
    /// The most calls that got bytes at once.
    pub runs: i32,
    /// The most that waited for their first byte meanwhile.
    pub waited: i32,
}

impl std::fmt::Display for LaneQueues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { runs, waited } = self;
        let calls = if *runs == 1 { "call" } else { "calls" };
        write!(f, "it runs {runs} {calls} at a time; {waited} waited inside it")
    }
}

/// What was learned of a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parallelism {
    bound: Option<Bound>,
    #[serde(skip)]
    window: Option<Window>,
}

/// No more calls than `most` gain anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bound {
    most: i32,
    seen: LaneQueues,
    moved_at: Timestamp,
}

/// Observations in which some calls got bytes and others waited.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    since: Timestamp,
    observations: u32,
    newest_byte: Timestamp,
    seen: LaneQueues,
    waiting: BTreeSet<CallId>,
    /// A call that had waited got bytes while no more than before did: so it waited for its turn.
    took_turns: bool,
}

impl Parallelism {
    /// The most calls that the server should get; `None`: no bound is known.
    pub fn most(&self) -> Option<i32> {
        self.bound.as_ref().map(|bound| bound.most)
    }

    pub fn seen(&self) -> Option<LaneQueues> {
        self.bound.as_ref().map(|bound| bound.seen)
    }

    /// Takes in the open calls as they are now. `more_waits`: tasks are due that this server could do. Returns what lowered the bound.
    pub fn observe(&mut self, calls: &[SampledCall], more_waits: bool, max: i32, now: Timestamp) -> Option<LaneQueues> {
        self.probe(calls.len(), more_waits, max, now);
        let newest_byte = calls.iter().filter_map(|call| call.last_byte_at).max()?;
        let running: Vec<_> =
            calls.iter().filter(|call| call.last_byte_at.is_some_and(|at| at >= newest_byte - LATE)).collect();
        // A call for another model may wait for that to load.
        let is_loaded = |call: &SampledCall| running.iter().any(|running| running.model == call.model);
        let waiting: Vec<_> = calls
            .iter()
            .filter(|call| call.last_byte_at.is_none() && call.began_at <= newest_byte - LATE && is_loaded(call))
            .collect();
        self.window.take_if(|window| now.duration_since(window.since) > OLD);
        if waiting.is_empty() {
            if running.len() > 1 {
                self.window = None;
            }
            return None;
        }
        let window = self.window.get_or_insert_with(|| Window::new(newest_byte, now));
        if window.observations > 0 && newest_byte <= window.newest_byte {
            return None;
        }
        window.took_turns |= running.iter().any(|call| window.waiting.contains(&call.id()));
        window.waiting.extend(waiting.iter().map(|call| call.id()));
        window.seen.runs = window.seen.runs.max(count(running.len()));
        window.seen.waited = window.seen.waited.max(count(waiting.len()));
        window.newest_byte = newest_byte;
        window.observations += 1;
        let is_sure = window.took_turns
            && window.observations >= OBSERVATIONS
            && now.duration_since(window.since) >= SUSTAINED
            && self.bound.as_ref().is_none_or(|bound| window.seen.runs < bound.most);
        if !is_sure {
            return None;
        }
        let seen = self.window.take()?.seen;
        self.bound = Some(Bound { most: seen.runs, seen, moved_at: now });
        Some(seen)
    }

    fn probe(&mut self, open: usize, more_waits: bool, max: i32, now: Timestamp) {
        let Some(bound) = &mut self.bound else { return };
        let is_due = now.duration_since(bound.moved_at) >= BETWEEN_PROBES;
        if is_due && more_waits && count(open) >= bound.most {
            bound.most += 1;
            bound.moved_at = now;
            self.window = None;
        }
        self.bound.take_if(|bound| bound.most >= max);
    }
}

impl Window {
    const fn new(newest_byte: Timestamp, now: Timestamp) -> Self {
        Self {
            since: now,
            observations: 0,
            newest_byte,
            seen: LaneQueues { runs: 0, waited: 0 },
            waiting: BTreeSet::new(),
            took_turns: false,
        }
    }
}

fn count(calls: usize) -> i32 {
    i32::try_from(calls).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// An engine, as it is seen every two seconds; times of bytes are up to five seconds old.
    struct Engine {
        parallel: usize,
        /// Seconds before the first byte, once it runs; and to the end from there.
        prefill: i64,
        generate: i64,
        models: usize,
    }

    struct Call {
        number: i64,
        began: i64,
        runs_since: Option<i64>,
    }

    impl Engine {
        /// Runs `seconds` with as many calls open as the bound allows; returns what lowered it, and when.
        fn run(&self, learned: &mut Parallelism, max: i32, span: std::ops::Range<i64>) -> Vec<(i64, LaneQueues)> {
            let (mut calls, mut number, mut lowered): (Vec<Call>, i64, _) = (Vec::new(), 0, Vec::new());
            for second in span {
                let ends = self.prefill + self.generate;
                calls.retain(|call| call.runs_since.is_none_or(|since| second < since + ends));
                while calls.len() < usize::try_from(learned.most().unwrap_or(max).min(max)).unwrap() {
                    number += 1;
                    calls.push(Call { number, began: second, runs_since: None });
                }
                let free = self.parallel.saturating_sub(calls.iter().filter(|c| c.runs_since.is_some()).count());
                calls
                    .iter_mut()
                    .filter(|c| c.runs_since.is_none())
                    .take(free)
                    .for_each(|c| c.runs_since = Some(second));
                if second % 2 == 0 {
                    let open: Vec<_> = calls.iter().map(|call| self.seen(call, second)).collect();
                    lowered.extend(learned.observe(&open, true, max, at(second)).map(|why| (second, why)));
                }
            }
            lowered
        }

        fn seen(&self, call: &Call, second: i64) -> SampledCall {
            let first = call.runs_since.map(|since| since + self.prefill).filter(|first| *first <= second);
            SampledCall {
                slot: (call.number, 1),
                model: Some(format!("m{}", usize::try_from(call.number).unwrap() % self.models)),
                began_at: at(call.began),
                last_byte_at: first.map(|first| at(second - (second - first) % 5)),
            }
        }
    }

    #[test]
    fn the_bound_is_what_the_engine_runs_at_once() {
        let slow = |parallel| Engine { parallel, prefill: 23, generate: 22, models: 1 };
        for (engine, max, most, what) in [
            (slow(1), 4, Some(1), "one at a time"),
            (slow(2), 6, Some(2), "two at a time"),
            (slow(4), 4, None, "all at once"),
            (slow(8), 4, None, "more than it gets"),
            (Engine { prefill: 1, ..slow(1) }, 4, Some(1), "one at a time, short prompts"),
            (Engine { prefill: 60, ..slow(4) }, 4, None, "long prompts, all at once"),
            (Engine { generate: 3, prefill: 1, ..slow(1) }, 2, None, "calls that are over before anyone waits"),
            (slow(1), 1, None, "a single call shows nothing"),
            (Engine { models: 4, ..slow(1) }, 4, None, "each waits for a model of its own"),
        ] {
            let mut learned = Parallelism::default();
            let lowered = engine.run(&mut learned, max, 0..290);
            assert_eq!(learned.most(), most, "{what}: {lowered:?}");
            assert_eq!(lowered.len(), usize::from(most.is_some()), "{what}");
        }
    }

    #[test]
    fn one_more_is_tried_every_five_minutes_while_work_waits() {
        let mut learned = Parallelism::default();
        let mut engine = Engine { parallel: 1, prefill: 5, generate: 20, models: 1 };
        let lowered = engine.run(&mut learned, 4, 0..1_000);
        assert_eq!(lowered[0].1.to_string(), "it runs 1 call at a time; 3 waited inside it");
        assert_eq!(lowered[1].1.to_string(), "it runs 1 call at a time; 1 waited inside it");
        assert!(lowered[1].0 - lowered[0].0 >= 300 && lowered[1].0 - lowered[0].0 < 420, "{lowered:?}");
        let mut idle = learned.clone();
        assert_eq!(idle.observe(&[], false, 4, at(90_000)), None);
        assert_eq!(idle.most(), learned.most(), "nothing waits, so nothing is tried");
        engine.parallel = 4;
        engine.run(&mut learned, 4, 1_000..2_500);
        assert_eq!(learned.most(), None, "restarted with other settings");
    }

    #[test]
    fn a_hung_call_is_no_queue() {
        let open = |number, last_byte_at| SampledCall {
            slot: (number, 1),
            model: Some("m".into()),
            began_at: at(0),
            last_byte_at,
        };
        let mut learned = Parallelism::default();
        for second in (20..400).step_by(2) {
            let calls = [open(1, Some(at(20))), open(2, None)];
            assert_eq!(learned.observe(&calls, true, 4, at(second)), None, "the first one got no more bytes");
        }
        let mut learned = Parallelism::default();
        for second in (20..400).step_by(2) {
            let calls = [open(1, Some(at(second))), open(2, None)];
            assert_eq!(learned.observe(&calls, true, 4, at(second)), None, "the second one never had a turn");
        }
    }
}
