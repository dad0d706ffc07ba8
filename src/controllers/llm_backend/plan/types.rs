//! What a plan is made of: acts, what came of them, why nothing is done, and what is worth an event.

use jiff::Timestamp;

use crate::host::HoldOwner;

use super::super::memory::{PodId, RecoveryCause, RecoveryStep};

/// One thing to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryAct {
    /// Mark open slots as aborted, then unload what is loaded.
    Unload { key: String },
    /// Restart through host agent, workload or webhook. Sent again with the same key, it is the same operation.
    Restart { key: String, attempt: i32, cause: RecoveryCause, evidence: String },
    /// Ask the agent how far its operation is.
    Follow { operation: String },
    /// Delete this pod; its replacement is awaited.
    DeletePod { pod: PodId },
}

impl RecoveryAct {
    /// Whether somebody may want to keep it from happening.
    pub fn changes_something(&self) -> bool {
        !matches!(self, Self::Follow { .. })
    }
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryWait {
    pub why: WaitReason,
    pub until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    Suspended,
    Paused,
    /// A person holds the service at the agent.
    Held,
    JustWoke,
    AgentUnreachable,
    /// The agent carries out somebody else's operation on the service.
    Operation,
    /// More than half of an agent's backends fail: host or network is suspected until the agent was heard.
    Storm,
    /// `periodSeconds` between attempts.
    Period,
    /// `retryDeferredSeconds` between silent attempts.
    Deferred,
    /// A step runs, and has time left.
    Step,
}

impl WaitReason {
    /// In words without ages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Paused => "nothing acts until `ostler unpause`",
            Self::Held => "its service is held at the agent",
            Self::JustWoke => "this machine just woke",
            Self::AgentUnreachable => "its host agent is not heard, so that nothing can restart it",
            Self::Operation => "the agent carries out an operation on its service",
            Self::Storm => "more than half of this agent's backends fail: host or network is suspected",
            Self::Period => "the next attempt comes after a wait that doubles to recovery.periodSeconds",
            Self::Deferred => "a silent attempt comes after recovery.retryDeferredSeconds",
            Self::Step => "a step is running",
        }
    }
}

/// Something worth an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanNote {
    Attempt {
        step: RecoveryStep,
        attempt: i32,
        most: i32,
        cause: RecoveryCause,
        silent: bool,
    },
    Helped {
        step: RecoveryStep,
        cause: RecoveryCause,
        evidence: String,
    },
    DidNotHelp {
        step: RecoveryStep,
        cause: RecoveryCause,
        evidence: String,
    },
    Inconclusive {
        step: RecoveryStep,
        cause: RecoveryCause,
        evidence: String,
    },
    /// Nothing can be done for a while, by what keeps it from acting.
    Blocked {
        evidence: String,
    },
    Deferred {
        evidence: String,
    },
    Recovered {
        was_deferred: bool,
    },
    WouldDo {
        step: RecoveryStep,
        cause: RecoveryCause,
    },
    LimitLowered {
        to: i32,
    },
    AgentStarted {
        times: u64,
    },
}

/// A hold of ours to set or to clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldChange {
    pub owner: HoldOwner,
    pub set: bool,
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// The step's action is done; an inference must prove it.
    Done,
    /// The agent took the operation, or still works on it.
    Sent {
        operation: String,
    },
    /// These pods are to be replaced.
    Pods(Vec<PodId>),
    PodDeleted,
    /// The step failed, and trying it again in this attempt is of no use.
    Failed {
        why: String,
    },
    /// It may or may not have arrived: tried again with the same key.
    Unclear {
        why: String,
    },
}
