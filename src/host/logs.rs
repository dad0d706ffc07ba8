//! What a service wrote.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The largest part of a log that an agent hands out.
pub const MOST_LOG_BYTES: u32 = 256 * 1024;

/// Asks for a part of a service's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRequest {
    pub service: String,
    /// Only what was written after this offset, which an earlier answer gave; without it, the end of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so much, up to [`MOST_LOG_BYTES`].
    pub bytes: u32,
}

/// A part of a log: whole lines, without what looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogPart {
    /// Where it is on its host.
    pub file: String,
    pub text: String,
    /// For `after`.
    pub next: u64,
}
