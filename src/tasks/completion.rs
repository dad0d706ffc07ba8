//! The end of an execution.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Attempt, TaskId};

/// What becomes of a task, as whoever executed it decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    Completed {
        result: Value,
    },
    /// Pending again after a while; one attempt was used.
    Retry {
        after: Duration,
        reason: String,
    },
    /// Pending again after a while; no attempt was used.
    Requeue {
        after: Duration,
        reason: String,
    },
    Failed {
        reason: String,
    },
    DeferredToHuman {
        reason: String,
    },
    /// Somebody asked for it while it ran.
    Cancelled {
        reason: String,
    },
}

impl Verdict {
    /// Whether the task has ended with it.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Completed { .. } | Self::Failed { .. } | Self::Cancelled { .. } => true,
            Self::Retry { .. } | Self::Requeue { .. } | Self::DeferredToHuman { .. } => false,
        }
    }
}

/// The end of one execution. It changes nothing when the epoch is an old one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub task: TaskId,
    pub epoch: i64,
    pub verdict: Verdict,
    pub attempt: Attempt,
}
