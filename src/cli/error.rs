//! Why a command did not do what it was asked to, and its exit code.

use std::{fmt::Display, process::ExitCode};

/// Errors name the thing, the reason, the mend.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit code 2, as for arguments that can't be parsed.
    #[error("{0}")]
    Misused(String),
    /// Exit code 125, as `env` and `timeout` have it: the program that was to be run was not.
    #[error("{0}")]
    NotRun(String),
    /// Exit code 130, as shells have it for Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Exit code 3: everything was said already.
    #[error("not healthy")]
    NotHealthy,
    /// Exit code 0: whoever read standard output has what they wanted (`| head`).
    #[error("nobody reads standard output")]
    NobodyReads,
}

impl CliError {
    pub fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }

    pub fn misused(error: impl Display) -> Self {
        Self::Misused(error.to_string())
    }

    /// Whether it is told by the exit code alone.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::NotHealthy | Self::NobodyReads)
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::from(1),
            Self::Misused(_) => ExitCode::from(2),
            Self::NotRun(_) => ExitCode::from(125),
            Self::Interrupted(_) => ExitCode::from(130),
            Self::NotHealthy => ExitCode::from(3),
            Self::NobodyReads => ExitCode::SUCCESS,
        }
    }
}

/// For `?` on errors that say everything themselves.
macro_rules! failed_from {
    ($($error:ty),*) => {
        $(impl From<$error> for CliError {
            fn from(error: $error) -> Self {
                Self::failed(error)
            }
        })*
    };
}

failed_from!(
    crate::net::ClientError,
    crate::store::StoreError,
    crate::platform::PlatformError,
    crate::telemetry::LoggingError
);
