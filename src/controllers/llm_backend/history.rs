//! What probes, canaries and samples of CPU time were like, folded one by one.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::engines::{Failure, Listing, ProbeVerdict};

/// Failed canaries that are remembered.
const CANARY_ROW: usize = 32;

/// The last moment before: what began at `at` counts as after it.
pub fn just_before(at: Timestamp) -> Timestamp {
    at - SignedDuration::from_micros(1)
}

/// The last probes, folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeHistory {
    pub last: Option<ProbeResult>,
    /// The last verdict that was no failure.
    pub last_good: Option<ProbeResult>,
    /// Answers (`Some(true)`) or is down by the thresholds; `None` before either was reached.
    pub answering: Option<bool>,
    pub failures_in_row: i32,
    pub successes_in_row: i32,
    /// When the current row of failures began.
    pub failing_since: Option<Timestamp>,
    /// When the failure threshold was reached.
    pub down_since: Option<Timestamp>,
    /// Since when it answers.
    pub answering_since: Option<Timestamp>,
    /// When it was last down because it refused, whatever came after.
    pub last_down_at: Option<Timestamp>,
    /// Since when it has said 503 to every probe: it is busy, or loads a model.
    pub full_since: Option<Timestamp>,
    /// When a probe was last answered otherwise after that.
    pub full_until: Option<Timestamp>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    pub at: Timestamp,
    pub verdict: ProbeVerdict,
    pub millis: i64,
    /// The server asked not to be probed before this.
    pub not_before: Option<Timestamp>,
}

impl ProbeHistory {
    /// Folds one more probe in; thresholds are counts in a row, at least 1.
    pub fn push(&mut self, probed: ProbeResult, failure_threshold: i32, success_threshold: i32) {
        match probed.verdict {
            ProbeVerdict::Busy | ProbeVerdict::Loading => self.full_since = self.full_since.or(Some(probed.at)),
            _ if self.full_since.take().is_some() => self.full_until = Some(probed.at),
            _ => {}
        }
        if probed.verdict.is_failure() {
            self.successes_in_row = 0;
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            self.failing_since.get_or_insert(probed.at);
            if self.failures_in_row >= failure_threshold && self.answering != Some(false) {
                self.answering = Some(false);
                self.down_since = Some(probed.at);
                // Silence may be work: only a refusal means that another process answers next.
                if probed.verdict.is_refusal() {
                    self.last_down_at = Some(probed.at);
                }
            }
        } else {
            self.failures_in_row = 0;
            self.failing_since = None;
            self.successes_in_row = self.successes_in_row.saturating_add(1);
            if self.answering != Some(false) || self.successes_in_row >= success_threshold {
                if self.answering != Some(true) {
                    self.answering_since = Some(probed.at);
                }
                self.answering = Some(true);
                self.down_since = None;
            }
            self.last_good = Some(probed.clone());
        }
        self.last = Some(probed);
    }

    /// The models that the server listed last, if a listing proved any.
    pub fn listed(&self) -> Option<&[String]> {
        self.listing().map(|listing| listing.models.as_slice())
    }

    /// The last listing, with which of its models run elsewhere.
    pub fn listing(&self) -> Option<&Listing> {
        match &self.last_good.as_ref()?.verdict {
            ProbeVerdict::Models(listing) => Some(listing),
            _ => None,
        }
    }
}

/// The inferences that were sent to prove that the server serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryHistory {
    pub last: Option<CanaryResult>,
    /// Since when one is under way.
    pub running_since: Option<Timestamp>,
    /// How many have ended, or got no slot.
    pub finished: u64,
    /// When the last one got no slot.
    pub no_slot_at: Option<Timestamp>,
    /// The current row of failures, oldest first: when each began, and whether it got no answer.
    row: VecDeque<(Timestamp, bool)>,
    /// The server asked not to be asked before this.
    pub not_before: Option<Timestamp>,
}

/// One canary.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryResult {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub model: String,
    /// It had the time that loading a model may take.
    pub loads: bool,
    pub result: Result<(), Failure>,
}

impl CanaryHistory {
    /// Folds one more canary in.
    pub fn push(&mut self, canaried: CanaryResult) {
        match &canaried.result {
            Ok(()) => self.row.clear(),
            Err(failure) => {
                if self.row.len() == CANARY_ROW {
                    // The oldest stays: it says since when.
                    self.row.remove(1);
                }
                self.row.push_back((canaried.started_at, matches!(failure, Failure::Timeout { .. })));
            }
        }
        self.last = Some(canaried);
    }

    /// Failures in a row that began after `since`; counted up to 32.
    pub fn failures_after(&self, since: Option<Timestamp>) -> usize {
        self.row.iter().filter(|(began, _)| Some(*began) > since).count()
    }

    /// Of those the last ones that got no answer: how many, and when the first of them began.
    pub fn silent_after(&self, since: Option<Timestamp>) -> (usize, Option<Timestamp>) {
        let silent = self.row.iter().rev().take_while(|(began, silent)| *silent && Some(*began) > since);
        silent.fold((0, None), |(count, _), (began, _)| (count + 1, Some(*began)))
    }

    /// The failure of the last canary, if that began at `since` or later.
    pub fn failure_from(&self, since: Timestamp) -> Option<(&CanaryResult, &Failure)> {
        self.failure_since(Some(just_before(since)))
    }

    /// The failure of the last canary, unless something was served since it began.
    pub fn failure_since(&self, served_at: Option<Timestamp>) -> Option<(&CanaryResult, &Failure)> {
        let last = self.last.as_ref().filter(|last| Some(last.started_at) > served_at)?;
        Some((last, last.result.as_ref().err()?))
    }
}

/// Whether the processes of a server use CPU, sampled while it is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuHistory {
    /// The process that was sampled, as `pid@start`.
    pub instance: Option<String>,
    pub advanced_at: Option<Timestamp>,
    /// Since when every sample has shown none.
    pub idle_since: Option<Timestamp>,
    pub sampled_at: Option<Timestamp>,
}

impl CpuHistory {
    /// Folds in a sample over the time from `since` to `now`.
    pub fn push(&mut self, instance: String, advanced: bool, since: Timestamp, now: Timestamp) {
        // What was not watched in between says nothing of the time in between.
        let gap = self.sampled_at.is_none_or(|at| since > at + SignedDuration::from_secs(1));
        if gap || self.instance.as_ref() != Some(&instance) {
            *self = Self { instance: Some(instance), ..Self::default() };
        }
        self.sampled_at = Some(now);
        if advanced {
            self.advanced_at = Some(now);
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(since);
        }
    }
}
