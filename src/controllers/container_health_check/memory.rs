//! What is remembered of a check's containers across passes, leaders and restarts: one document, committed before acting.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The document of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// By name: only containers that something was done or is to be said about.
    pub containers: BTreeMap<String, Remembered>,
    /// Limits that containers should have, in bytes: raised by us, or proposed.
    pub limits: BTreeMap<String, i64>,
    /// Limits that were written into the workload, in bytes, by container.
    pub written: BTreeMap<String, i64>,
    /// No action before this: there were too many unhealthy ones at once.
    pub cooling_until: Option<Timestamp>,
    /// The last `reconcile` token that was acted on.
    pub handled_reconcile: Option<String>,
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Remembered {
    /// Since it was last well for long enough.
    pub attempts: i32,
    pub last_attempt_at: Option<Timestamp>,
    pub healthy_since: Option<Timestamp>,
    pub last_action: Option<Did>,
    /// The instance that the counts of `oom_seen` are about.
    pub instance: String,
    /// Of that instance: how many times out of memory were answered.
    pub oom_seen: u64,
    /// Of all instances.
    pub oom_total: u64,
    pub last_oom_at: Option<Timestamp>,
    /// Of that instance: since when it was seen to have the limit that it should have.
    pub enough_since: Option<Timestamp>,
    /// Of that instance: how often it ran out of memory again before it had the limit that it should have.
    pub missed: u32,
    /// The most memory that it was seen to use, in bytes.
    pub peak: Option<i64>,
    /// A person stopped it, and somebody resumed the check afterwards: that stop is over.
    pub resumed_at: Option<Timestamp>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Did {
    pub action: String,
    pub at: Timestamp,
    /// The same key is the same operation at the host.
    pub key: String,
    /// Its id there, once it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// What came of it; absent while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Which try of the same in a row it is, from 1: those before failed, or nobody told what came of them.
    #[serde(default)]
    pub tries: i32,
}

/// The outcome of what succeeded.
pub const DONE: &str = "done";

impl Did {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    pub fn is_done(&self) -> bool {
        self.outcome.as_deref() == Some(DONE)
    }

    /// For people.
    pub fn told(&self) -> String {
        match &self.outcome {
            Some(outcome) => format!("{}: {outcome}", self.action),
            None => format!("{}: begun", self.action),
        }
    }
}

impl Memory {
    /// Containers whose limit somebody took back after it was written into the workload: it is not written again.
    pub fn contested(&self, template: &BTreeMap<String, i64>) -> Option<String> {
        let taken_back = |(name, limit): (&String, &i64)| {
            let has = template.get(name).copied();
            has.is_none_or(|has| has < *limit).then(|| name.clone())
        };
        self.written.iter().find_map(taken_back)
    }
}

impl Remembered {
    /// Whether nothing about it is worth a line any more.
    pub fn is_blank(&self) -> bool {
        self.attempts == 0
            && self.oom_total == 0
            && self.resumed_at.is_none()
            && self.last_action.as_ref().is_none_or(|did| !did.is_open())
    }
}
