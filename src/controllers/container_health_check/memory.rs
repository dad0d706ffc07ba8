//! What is remembered of a check's containers across passes, leaders and restarts: one document, committed before acting.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::quantity::shown;

/// The document of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckMemory {
    /// By name: only containers that something was done or is to be said about.
    pub containers: BTreeMap<String, ContainerMemory>,
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
pub struct ContainerMemory {
    /// Since it was last well for long enough.
    pub attempts: i32,
    pub last_attempt_at: Option<Timestamp>,
    pub healthy_since: Option<Timestamp>,
    pub last_action: Option<LastAction>,
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
    /// When its limit was last raised because a process in it was killed while it lived on.
    pub raised_alive_at: Option<Timestamp>,
    /// The most memory that it was seen to use, in bytes.
    pub peak: Option<i64>,
    /// It is down, and somebody resumed the check afterwards: what it is down for is over.
    pub resumed_at: Option<Timestamp>,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerStep {
    Up,
    Restart,
    Stop,
    /// Bytes, in place.
    Resize(i64),
    /// Bytes, in the workload.
    Patch(i64),
}

impl ContainerStep {
    /// The word for events and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "Up",
            Self::Restart => "Restart",
            Self::Stop => "Stop",
            Self::Resize(_) => "Resize",
            Self::Patch(_) => "PatchWorkload",
        }
    }

    pub fn told(self) -> String {
        match self {
            Self::Resize(bytes) | Self::Patch(bytes) => format!("{} to {}", self.word(), shown(bytes)),
            Self::Up | Self::Restart | Self::Stop => self.word().to_owned(),
        }
    }
}

/// Something that was done.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAction {
    pub todo: ContainerStep,
    pub at: Timestamp,
    /// The same key is the same operation at the host.
    pub key: String,
    /// Its id there, once it was accepted.
    pub operation: Option<String>,
    /// What came of it; absent while it is not known.
    pub outcome: Option<ActionOutcome>,
    /// Which try of the same in a row it is, from 1: those before failed, or nobody told what came of them.
    #[serde(default)]
    pub tries: i32,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionOutcome {
    Done,
    /// Why.
    Failed(String),
    /// Nobody told, and why.
    Lost(String),
}

impl std::fmt::Display for ActionOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}

impl LastAction {
    pub fn is_open(&self) -> bool {
        self.outcome.is_none()
    }

    pub fn is_done(&self) -> bool {
        self.outcome == Some(ActionOutcome::Done)
    }

    /// Why it was not done.
    pub fn failure(&self) -> Option<&str> {
        match &self.outcome {
            Some(ActionOutcome::Failed(why)) => Some(why),
            Some(ActionOutcome::Done | ActionOutcome::Lost(_)) | None => None,
        }
    }

    /// For people.
    pub fn told(&self) -> String {
        match &self.outcome {
            Some(outcome) => format!("{}: {outcome}", self.todo.told()),
            None => format!("{}: begun", self.todo.told()),
        }
    }
}

impl CheckMemory {
    /// Takes in what came of operations that were under way, by container.
    pub fn take_outcomes(&mut self, outcomes: &BTreeMap<String, ActionOutcome>) {
        for (name, outcome) in outcomes {
            if let Some(did) = self.containers.get_mut(name).and_then(|one| one.last_action.as_mut()) {
                did.outcome = Some(outcome.clone());
            }
        }
    }

    /// Containers whose limit somebody took back after it was written into the workload: it is not written again.
    pub fn contested(&self, template: &BTreeMap<String, i64>) -> Option<String> {
        let taken_back = |(name, limit): (&String, &i64)| {
            let has = template.get(name).copied();
            has.is_none_or(|has| has < *limit).then(|| name.clone())
        };
        self.written.iter().find_map(taken_back)
    }
}

impl ContainerMemory {
    /// Whether nothing about it is worth a line any more.
    pub fn is_blank(&self) -> bool {
        self.attempts == 0
            && self.oom_total == 0
            && self.resumed_at.is_none()
            && self.last_action.as_ref().is_none_or(|did| !did.is_open())
    }
}
