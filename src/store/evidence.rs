//! What calls to a server showed: reported by workers, read by the leader that judges the server.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What one reporter's calls to one server showed. It is a state, not a change: each report repeats it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CallEvidence {
    /// Normalized URL: the key of the server's row.
    pub server_url: String,
    /// The last call of each model that was served.
    pub served: Vec<ServedCall>,
    /// The last failures that are evidence against the server, oldest first: at most [`MAX_FAILED_CALLS`] of the last ten minutes.
    pub failed: Vec<FailedCall>,
}

/// How many failures a report keeps for a server.
pub const MAX_FAILED_CALLS: usize = 8;

/// A call that got content: a token, a tool call, reasoning, a vector, or a finish reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedCall {
    /// The server's own name for it.
    pub model: String,
    /// By the reporter's clock.
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    /// What was asked: `task 17`, `canary`.
    pub request: String,
}

/// A call whose failure is evidence against the server, not against the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedCall {
    /// The server's own name for it.
    pub model: String,
    /// By the reporter's clock.
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    /// What was asked: `task 17`, `canary`. Two failures count as two only under different requests.
    pub request: String,
    pub fault: CallFault,
    /// The failure in words, at most 300 characters.
    pub message: String,
}

/// What a failed call shows of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CallFault {
    /// A 5xx, a reset, a broken stream, an error record, an empty stream, silence.
    Failed,
    /// 429 or 503: it has too much to do.
    Full,
    /// The server's process ran out of memory.
    OutOfMemory,
    /// The model needs more memory than there is: no restart can help.
    ModelTooLarge,
}
