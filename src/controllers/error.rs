//! What can go wrong in a step of a pass, and what that means for the next one.

use crate::{
    platform::PlatformError,
    store::{StoreClass, StoreError},
};

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may pass: again, with backoff.
    Retry,
    /// Something else must change first; its change triggers the next pass.
    Wait,
    /// A defect or a setting that only a person can mend.
    Tell,
}

/// A step that could not be done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StepError {
    /// What cannot be recorded is not done.
    #[error("nothing is done that can't be recorded: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Platform(#[from] PlatformError),
    /// Everything else of the pass was done.
    #[error("status not written: {0}")]
    Status(PlatformError),
    #[error("what is remembered of {what} can't be read: {why}")]
    Memory { what: String, why: String },
    /// A person asked for something else since this pass began.
    #[error("a person's request came meanwhile; looked at again with it")]
    Overtaken,
    /// Other passes go on meanwhile.
    #[error(
        "{step} did not end within {seconds} s and was stopped: look whether the database, the API server or an agent hangs"
    )]
    Timeout { step: &'static str, seconds: u64 },
    #[error("{step} panicked: {message}; this is a defect of Ostler: report it with the object's manifest")]
    Panic { step: &'static str, message: String },
}

/// What a panic said.
pub fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}

impl StepError {
    /// Each variant is named, so that a new one is a decision.
    pub fn class(&self) -> Class {
        match self {
            Self::Store(error) => match error.class() {
                StoreClass::Passing => Class::Retry,
                // Somebody else leads: this process stops acting by itself.
                StoreClass::Lost => Class::Wait,
                StoreClass::Refusal | StoreClass::Person => Class::Tell,
            },
            Self::Platform(error) | Self::Status(error) => match error {
                PlatformError::Unavailable(_) => Class::Retry,
                // The watch brings the newer object, or its deletion.
                PlatformError::Conflict(_) | PlatformError::NotFound(_) => Class::Wait,
                PlatformError::Forbidden(_) | PlatformError::Invalid(_) | PlatformError::OlderSchema { .. } => {
                    Class::Tell
                }
            },
            Self::Timeout { .. } => Class::Retry,
            // The request triggers the next pass.
            Self::Overtaken => Class::Wait,
            Self::Memory { .. } | Self::Panic { .. } => Class::Tell,
        }
    }

    /// The CamelCase word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store(error) => match error.class() {
                StoreClass::Passing => "StoreUnavailable",
                StoreClass::Lost => "NotLeading",
                StoreClass::Refusal => "StoreRefused",
                StoreClass::Person => "StoreBroken",
            },
            Self::Status(PlatformError::OlderSchema { .. }) => "CRDOlder",
            Self::Status(_) => "StatusNotWritten",
            Self::Platform(PlatformError::Unavailable(_)) => "PlatformUnavailable",
            Self::Platform(PlatformError::Conflict(_)) => "Conflict",
            Self::Platform(PlatformError::NotFound(_)) => "NotFound",
            Self::Platform(PlatformError::Forbidden(_)) => "Forbidden",
            Self::Platform(PlatformError::Invalid(_) | PlatformError::OlderSchema { .. }) => "Invalid",
            Self::Memory { .. } => "MemoryUnreadable",
            Self::Timeout { .. } => "Timeout",
            Self::Overtaken => "Overtaken",
            Self::Panic { .. } => "Panic",
        }
    }
}
