//! Why a service could not be started or stopped: shown in operations and in the agent's log.

use crate::agent::keep::StateError;

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(
        "port {port} is held by {owner}, which this agent did not start: end that process, or set adopt: true in the agent's file"
    )]
    Foreign { port: u16, owner: String },
    /// The cause names the program.
    #[error("{cause}")]
    Spawn { cause: String },
    /// It ended before it answered its check.
    #[error("it ended at once ({how}){log}; see its log")]
    ExitedEarly { how: String, log: String },
    #[error("it runs, and did not answer {url} within {seconds} s ({detail}): see its log, or raise startupSeconds")]
    NotUp { url: String, seconds: u64, detail: String },
    #[error("can't signal process {pid}: {cause}; run the agent as root, or as the user of that process")]
    Signal { pid: u32, cause: String },
    #[error(
        "process {pid} is still there after SIGKILL: the kernel holds it (a device or a network file system that hangs)"
    )]
    Unkillable { pid: u32 },
    #[error("{command} {how}{output}")]
    CommandFailed { command: String, how: String, output: String },
    /// The engine, or compose, could not start or stop the container.
    #[error("{0}")]
    Container(String),
    #[error("the container engine tells nothing of its container: {0}")]
    Engine(String),
    #[error("the operating system does not tell about processes or ports: {0}")]
    Look(String),
    #[error(
        "{owner} holds the service ({reason}); `ostler start` ends a person's hold, `ostler resume` and `ostler unpause` the others"
    )]
    Held { owner: &'static str, reason: String },
    #[error("given up: somebody asked to {0} the service meanwhile")]
    Superseded(&'static str),
    /// The agent ends; what is not finished is taken up at its next start.
    #[error("the agent was stopped meanwhile")]
    Interrupted,
    #[error(transparent)]
    State(#[from] StateError),
}

impl ServiceError {
    pub fn exited_early(&self) -> bool {
        matches!(self, Self::ExitedEarly { .. })
    }

    /// Whether it is a failure at all: what somebody wants meanwhile, or the agent's own end, is none.
    pub fn is_failure(&self) -> bool {
        !matches!(self, Self::Held { .. } | Self::Superseded(_) | Self::Interrupted)
    }

    /// Whether a start failed by itself: what somebody else decided meanwhile is no failure.
    pub fn counts_as_failed_start(&self) -> bool {
        match self {
            Self::Spawn { .. }
            | Self::ExitedEarly { .. }
            | Self::NotUp { .. }
            | Self::CommandFailed { .. }
            | Self::Container(_) => true,
            Self::Foreign { .. }
            | Self::Signal { .. }
            | Self::Unkillable { .. }
            | Self::Engine(_)
            | Self::Look(_)
            | Self::Held { .. }
            | Self::Superseded(_)
            | Self::Interrupted
            | Self::State(_) => false,
        }
    }
}
