//! What a call's end shows of its server. Pure.

use std::time::Duration;

use crate::{engines::Failure, store::CallFault};

/// What a call showed of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallShown {
    /// Nothing: it was the request's failure, or the call was stopped.
    Nothing,
    Served,
    Failed {
        fault: CallFault,
        message: String,
    },
}

/// What became of a call while it was open, where it ran out of time.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// Since its last byte; since it was sent, where none came.
    pub silent: Duration,
    pub bytes: bool,
    pub tokens: bool,
    /// The server answered other calls of this worker meanwhile.
    pub others_served: bool,
    /// Its task's deadline ended it before its own time was over.
    pub cut_short: bool,
    /// The longest silence that is no failure: `stallSeconds`.
    pub stall: Duration,
}

/// Whose fault a failed call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// The server failed under the request, which may be what made it fail.
    Broke(CallFault),
    /// The server takes no request now, whatever it asks for.
    Away(Option<CallFault>),
    /// The request waited for its turn, or had too little time.
    Waited,
    /// The answer took longer than it may.
    TooLong,
    /// The request is wrong.
    Refused,
}

impl FaultCause {
    /// The next call to the server would fail too.
    pub const fn is_servers(self) -> bool {
        matches!(self, Self::Broke(_) | Self::Away(_))
    }
}

/// Whose fault a failure is.
pub fn cause(failure: &Failure, waited: Waited) -> FaultCause {
    match failure {
        Failure::Timeout { .. } => waited.cause(),
        Failure::Reset { .. } | Failure::ServerError { .. } | Failure::BadBody { .. } | Failure::NoContent { .. } => {
            FaultCause::Broke(CallFault::Failed)
        }
        Failure::OutOfMemory { .. } => FaultCause::Broke(CallFault::OutOfMemory),
        // No request makes these happen.
        Failure::Refused | Failure::CannotLoad { .. } => FaultCause::Away(Some(CallFault::Failed)),
        Failure::ModelTooLarge { .. } => FaultCause::Away(Some(CallFault::ModelTooLarge)),
        Failure::Busy { .. } | Failure::RateLimited { .. } | Failure::Loading { .. } => {
            FaultCause::Away(Some(CallFault::Full))
        }
        // The leader sees these too, and tells a human.
        Failure::Unauthorized { .. }
        | Failure::ModelMissing { .. }
        | Failure::Misconfigured(_)
        | Failure::Unreachable(_) => FaultCause::Away(None),
        Failure::Rejected { .. } | Failure::Unsupported { .. } | Failure::PromptTooLong { .. } => FaultCause::Refused,
    }
}

impl Waited {
    /// Whose fault it is that a call ran out of time.
    pub fn cause(self) -> FaultCause {
        let is_silent = self.silent >= self.stall;
        if self.bytes && !is_silent {
            FaultCause::TooLong
        } else if (!self.tokens && self.others_served) || (self.cut_short && !is_silent) {
            FaultCause::Waited
        } else {
            FaultCause::Broke(CallFault::Failed)
        }
    }
}

/// What the leader is told of a failed call.
pub fn shown(cause: FaultCause, why: &str) -> CallShown {
    match cause {
        FaultCause::Broke(fault) | FaultCause::Away(Some(fault)) => {
            CallShown::Failed { fault, message: why.to_owned() }
        }
        FaultCause::Away(None) | FaultCause::Waited | FaultCause::TooLong | FaultCause::Refused => CallShown::Nothing,
    }
}

/// Whether a call broke off while the server may still be at it: its slot lingers.
pub fn may_still_run(failure: &Failure) -> bool {
    matches!(failure, Failure::Timeout { .. } | Failure::BadBody { .. })
}
