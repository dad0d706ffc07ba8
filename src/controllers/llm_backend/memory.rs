//! What is remembered of a backend across passes, leaders and restarts: one document, committed before acting.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// How many attempts the document keeps.
const HISTORY: usize = 20;

/// The document of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendMemory {
    /// The generation that was seen last, and since when.
    pub generation: i64,
    pub generation_since: Option<Timestamp>,
    /// The last proof that it serves.
    pub proof: Option<Proof>,
    /// When an inference last succeeded, ours or somebody's.
    pub served_at: Option<Timestamp>,
    /// Since when it has said that it has too much to do, with nothing served since.
    pub full_since: Option<Timestamp>,
    /// Models that ran on a device: when one is found on the CPU alone, somebody is told.
    pub on_device: BTreeSet<String>,
    /// Since when it has been well.
    pub healthy_since: Option<Timestamp>,
    pub episode: Option<Episode>,
    /// Starts of attempts in the last 24 hours, for `maxPerDay`.
    pub attempts_today: Vec<Timestamp>,
    pub history: VecDeque<RecoveryAttempt>,
    /// Success of each step per cause.
    pub tallies: BTreeMap<RecoveryCause, BTreeMap<RecoveryStep, RecoveryTally>>,
    /// How far the limit is lowered after lack of memory.
    pub lowered: Option<Lowered>,
    /// The last `reconcile` token that was acted on.
    pub handled_reconcile: Option<String>,
    /// The agent's own starts, as they were counted last.
    pub self_starts: Option<u64>,
}

/// An inference, or a listing where canaries are never sent, proved this generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    pub generation: i64,
    /// When the call that proved it began.
    pub at: Timestamp,
    /// That call, in words.
    pub served: String,
    /// The process that was proved, where an agent tells.
    pub instance: Option<String>,
}

/// Why a backend does not serve, where a step might mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum RecoveryCause {
    /// Its host agent saw the process end.
    Exited,
    Refused,
    Reset,
    /// Inferences fail, and one that was sent to find out failed too.
    ServerError,
    OutOfMemory,
    Hung,
}

impl RecoveryCause {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A rung of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum RecoveryStep {
    /// Ollama's `keep_alive: 0`.
    Unload,
    /// Through host agent, workload or webhook.
    Restart,
}

impl RecoveryStep {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// From the first failure to a success that lasted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Episode {
    /// Part of every idempotency key of this episode.
    pub id: String,
    pub cause: RecoveryCause,
    pub since: Timestamp,
    /// What was seen when it began, or when it last got worse.
    pub evidence: String,
    /// Restarts begun, silent ones aside.
    pub attempts: i32,
    /// Every step begun, for the idempotency keys.
    pub steps_begun: i32,
    /// Steps that were tried in this episode.
    pub tried: Vec<RecoveryStep>,
    /// The step that runs now.
    pub running: Option<RecoveryRun>,
    /// When the last restart began.
    pub last_restart_at: Option<Timestamp>,
    /// Since when it serves again; attempts count on until that has lasted.
    pub resolved_at: Option<Timestamp>,
    /// Since when it is a human's turn.
    pub deferred_at: Option<Timestamp>,
    /// What `mode: Observe` last said it would do.
    pub would: Option<RecoveryStep>,
    /// A human was told that nothing can be done: the agent does not answer, or a storm lasts.
    #[serde(default)]
    pub told_blocked: bool,
    /// Restarts since it last served: the wait before the next one grows with them.
    #[serde(default)]
    pub waits: i32,
}

/// A step that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryRun {
    pub step: RecoveryStep,
    /// The same key is the same operation, whoever sends it.
    pub key: String,
    pub started_at: Timestamp,
    /// By when an inference must have succeeded.
    pub deadline: Timestamp,
    pub phase: RecoveryPhase,
    /// A silent attempt after a human was asked.
    pub silent: bool,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub enum RecoveryPhase {
    /// Committed; it may or may not have been sent.
    Committed,
    /// The agent took it; followed by its id.
    Sent { operation: String },
    /// Pods of a workload are replaced one at a time: `left` are still to be deleted, `waiting` says that one is awaited.
    Replacing { left: Vec<PodId>, waiting: bool },
    /// Done; an inference must prove it.
    Verifying { since: Timestamp },
}

/// A pod by name and uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodId {
    pub name: String,
    pub uid: String,
}

/// One attempt and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryAttempt {
    pub at: Timestamp,
    pub cause: RecoveryCause,
    pub step: RecoveryStep,
    pub result: AttemptResult,
    pub evidence: String,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum AttemptResult {
    Running,
    Helped,
    DidNotHelp,
    /// Nothing was asked of the server after the step, so that nobody knows.
    Inconclusive,
    WouldDo,
}

impl AttemptResult {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How often a step helped for a cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryTally {
    pub tried: i32,
    pub helped: i32,
}

/// The limit after lack of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lowered {
    pub by: i32,
    /// It rises by one then.
    pub until: Timestamp,
    /// The lack of memory that was counted last.
    pub seen_at: Timestamp,
}

impl BackendMemory {
    /// Notes an attempt as running, in the history and for `maxPerDay`.
    pub fn begin_attempt(&mut self, attempt: RecoveryAttempt, counts: bool) {
        let day_ago = attempt.at - SignedDuration::from_hours(24);
        self.attempts_today.retain(|at| *at > day_ago);
        if counts {
            self.attempts_today.push(attempt.at);
        }
        self.history.push_back(attempt);
        while self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Writes the result of the running attempt into history and tallies.
    pub fn conclude_attempt(
        &mut self,
        cause: RecoveryCause,
        step: RecoveryStep,
        result: AttemptResult,
        evidence: &str,
    ) {
        if matches!(result, AttemptResult::Helped | AttemptResult::DidNotHelp) {
            let tally = self.tallies.entry(cause).or_default().entry(step).or_default();
            tally.tried += 1;
            tally.helped += i32::from(result == AttemptResult::Helped);
        }
        let running = self.history.iter_mut().rev().find(|a| a.step == step && a.result == AttemptResult::Running);
        if let Some(attempt) = running {
            attempt.result = result;
            attempt.evidence = bounded(&format!("{}; then: {evidence}", attempt.evidence));
        }
    }

    /// Attempts in the 24 hours before `now`.
    pub fn attempts_in_a_day(&self, now: Timestamp) -> usize {
        let day_ago = now - SignedDuration::from_hours(24);
        self.attempts_today.iter().filter(|at| **at > day_ago).count()
    }

    /// How many of the last `attempts` of a step helped, as far as history goes.
    pub fn helped_of_last(&self, attempts: i32, step: RecoveryStep) -> usize {
        let of_step = self.history.iter().rev().filter(|attempt| attempt.step == step);
        let last = of_step.take(usize::try_from(attempts).unwrap_or(0));
        last.filter(|attempt| attempt.result == AttemptResult::Helped).count()
    }

    /// A step that never helped for a cause in ten tries is skipped for it, where another one is left.
    pub fn is_hopeless(&self, cause: RecoveryCause, step: RecoveryStep) -> bool {
        let tally = self.tallies.get(&cause).and_then(|steps| steps.get(&step)).copied().unwrap_or_default();
        tally.tried >= 10 && tally.helped == 0
    }

    pub fn is_deferred(&self) -> bool {
        self.episode.as_ref().is_some_and(|e| e.deferred_at.is_some())
    }
}

/// Evidence is kept short: it is shown in status and events.
pub fn bounded(text: &str) -> String {
    const MOST: usize = 500;
    if text.chars().count() <= MOST { text.to_owned() } else { text.chars().take(MOST - 1).chain(['…']).collect() }
}
