//! A folder looked at once: what it declares and what is wrong with it. Nothing is kept.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    kinds::{Kinds, LocalKind},
    scan,
    schema::SchemaError,
    snapshot::{self, Derive, State},
};
use crate::platform::Problem;

/// What a folder declares.
pub struct Checked {
    /// Files that were read.
    pub files: usize,
    /// The defaulted manifests.
    pub objects: Vec<Value>,
    pub problems: Vec<Problem>,
}

/// Reads a folder, or one file, as `ostler up` would.
pub fn check(folder: &Path, kinds: &[LocalKind], derive: &Derive) -> Result<Checked, SchemaError> {
    let kinds = Kinds::new(kinds)?;
    let read = scan::read(folder);
    let state = State::default();
    let plan = snapshot::plan(&read, &kinds, derive, &state, SignedDuration::ZERO, Timestamp::UNIX_EPOCH, String::new);
    Ok(Checked {
        files: read.files.as_ref().map_or(0, Vec::len),
        objects: plan.puts.into_iter().map(|record| record.manifest).collect(),
        problems: plan.problems,
    })
}
