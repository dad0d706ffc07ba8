//! Tasks by the REST API: given in, seen, changed, followed, and kept and ended by agents that they were handed over to.

mod check;
mod claim_types;
pub(super) mod claims;
pub(super) mod command;
pub(super) mod counts;
pub(super) mod events;
mod fields;
mod filter;
pub(super) mod handover;
pub(super) mod insert;
mod parse;
pub(super) mod read;
mod types;

#[cfg(test)]
pub(super) use check::NAMES as TASK_FIELDS;
pub(super) use counts::queue_counts;
pub(super) use events::Closing;
pub(super) use handover::prove;
pub use parse::MOST_TASKS;
pub use read::FROM_NOW;
pub use types::*;
