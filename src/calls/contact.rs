//! What the calls of a worker know together of one server: whether it was just failing, and when it last answered.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;

/// After a server failed it is left alone for so long, doubled with each further failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Then one call tries it, for whose end the others wait at most so long.
const TRIAL: Duration = Duration::from_secs(10);

/// Shared by all lanes of one server.
#[derive(Debug, Default)]
pub struct Contact {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row, those at the same time counted once.
    failures: u32,
    wait_until: Option<Instant>,
    trial_until: Option<Instant>,
    /// When a call last got a part of its answer.
    answered_at: Option<Instant>,
}

impl Contact {
    /// A call failed by the server's fault. `retry_after`: the server says when to ask again.
    pub fn failed(&self, retry_after: Option<Duration>) {
        self.state.lock().failed(retry_after, Instant::now(), rand::rng().random_range(0.5..1.0));
    }

    /// A call was served: nothing is wrong any more.
    pub fn served(&self) {
        self.state.lock().served(Instant::now());
    }

    /// A call got a part of its answer: others need not wait for the end of a trial.
    pub fn answers(&self) {
        self.state.lock().answers(Instant::now());
    }

    pub fn answered_since(&self, since: Instant) -> bool {
        self.state.lock().answered_at.is_some_and(|at| at > since)
    }

    /// Nothing is sent now.
    pub fn is_waiting(&self) -> bool {
        self.state.lock().is_waiting(Instant::now())
    }

    /// It failed, and was not proved to work again: one call may try it.
    pub fn is_doubtful(&self) -> bool {
        self.state.lock().failures > 0
    }

    /// A call tries it.
    pub fn tried(&self) {
        self.state.lock().tried(Instant::now());
    }
}

impl State {
    fn failed(&mut self, retry_after: Option<Duration>, now: Instant, chance: f64) {
        let waits = self.wait_until.is_some_and(|until| until > now);
        if !waits || self.trial_until.is_some() {
            self.failures = self.failures.saturating_add(1);
        }
        self.trial_until = None;
        let doublings = self.failures.saturating_sub(1).min(16);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT).mul_f64(chance);
        let until = now + wait.max(retry_after.unwrap_or_default());
        self.wait_until = Some(self.wait_until.map_or(until, |known| known.max(until)));
    }

    fn tried(&mut self, now: Instant) {
        if self.failures > 0 {
            self.trial_until = Some(now + TRIAL);
        }
    }

    fn answers(&mut self, now: Instant) {
        (self.answered_at, self.trial_until) = (Some(now), None);
    }

    fn served(&mut self, now: Instant) {
        *self = Self { answered_at: Some(now), ..Self::default() };
    }

    fn is_waiting(&self, now: Instant) -> bool {
        [self.wait_until, self.trial_until].into_iter().flatten().any(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long the next call waits after each of these failures, in seconds, when a call tries it as soon as one may.
    fn waits(failures: usize) -> Vec<u64> {
        let (mut state, mut now, mut waits) = (State::default(), Instant::now(), Vec::new());
        for _ in 0..failures {
            // Four calls were open, and fail together.
            for _ in 0..4 {
                state.failed(None, now, 1.0);
            }
            let began = now;
            while state.is_waiting(now) {
                now += SECOND;
            }
            waits.push((now - began).as_secs());
            state.tried(now);
        }
        waits
    }

    #[test]
    fn a_failing_server_is_left_alone_for_longer_each_time() {
        assert_eq!(waits(8), [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn one_call_tries_it_and_a_served_one_ends_the_wait() {
        let (mut state, begin) = (State::default(), Instant::now());
        state.tried(begin);
        assert!(!state.is_waiting(begin), "nothing is wrong");
        state.failed(Some(SECOND * 20), begin, 1.0);
        assert!(state.is_waiting(begin + SECOND * 19) && !state.is_waiting(begin + SECOND * 20), "it said when");
        state.tried(begin + SECOND * 20);
        assert!(
            state.is_waiting(begin + SECOND * 29) && !state.is_waiting(begin + SECOND * 30),
            "a trial is under way"
        );
        state.answers(begin + SECOND * 22);
        assert!(!state.is_waiting(begin + SECOND * 23) && state.failures == 1, "it answers, which is no end yet");
        state.served(begin + SECOND * 25);
        assert!(!state.is_waiting(begin + SECOND * 26) && state.failures == 0);
        state.failed(None, begin + SECOND * 40, 1.0);
        assert!(!state.is_waiting(begin + SECOND * 41), "it begins anew");
    }
}
