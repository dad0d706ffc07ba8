//! A folder, or one manifest, read and validated once. Nothing is kept.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    kinds::{Kinds, LocalKind},
    manifest::{self, ManifestContent},
    scan,
    schema::SchemaError,
    snapshot::{self, Derive, FolderState},
};
use crate::{api::ObjectKey, platform::PlatformProblem};

/// What a folder declares.
pub struct Checked {
    /// Files that were read.
    pub files: usize,
    /// The defaulted manifests.
    pub objects: Vec<Value>,
    pub problems: Vec<PlatformProblem>,
}

/// Reads a folder, or one file, as `ostler up` would; `-` is standard input.
pub fn check(folder: &Path, kinds: &[LocalKind], derive: &Derive) -> Result<Checked, SchemaError> {
    let kinds = Kinds::new(kinds)?;
    let read = if folder == Path::new("-") { scan::read_input(std::io::stdin().lock()) } else { scan::read(folder) };
    let state = FolderState::default();
    let plan = snapshot::plan(&read, &kinds, derive, &state, SignedDuration::ZERO, Timestamp::UNIX_EPOCH, String::new);
    Ok(Checked {
        files: read.files.as_ref().map_or(0, Vec::len),
        objects: plan.puts.into_iter().map(|record| record.manifest).collect(),
        problems: plan.problems,
    })
}

/// Reads a file that holds exactly one manifest of this kind. Returns its key and the defaulted document.
pub fn read_single(file: &str, text: &str, kind: LocalKind) -> Result<(ObjectKey, Value), Vec<PlatformProblem>> {
    let wanted = kind.kind.clone();
    let kinds = Kinds::new(&[kind]).map_err(|e| vec![PlatformProblem::error(e.to_string()).at(file, 0)])?;
    let reading = manifest::read(file, text, &kinds);
    if !reading.problems.is_empty() {
        return Err(reading.problems);
    }
    let mut found = reading.manifests.into_iter().map(|m| (m.key, m.place, m.content));
    match (found.next(), found.next()) {
        (Some((key, _, ManifestContent::Resource(object))), None) if key.kind == wanted => Ok((key, object)),
        (Some((key, place, _)), None) => {
            Err(vec![PlatformProblem::error(format!("{key} is no {wanted}: name another file")).at(file, place.line)])
        }
        (Some(_), Some((_, place, _))) => {
            let message = format!("a second manifest: this file holds one {wanted} and nothing else");
            Err(vec![PlatformProblem::error(message).at(file, place.line)])
        }
        (None, _) => Err(vec![PlatformProblem::error(format!("there is no {wanted} in it")).at(file, 0)]),
    }
}
