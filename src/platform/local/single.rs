//! One manifest by itself, read and validated as a folder's are.

use serde_json::Value;

use super::{
    kinds::{Kinds, LocalKind},
    manifest::{self, Declared},
};
use crate::platform::{ObjectKey, Problem};

/// Reads a file that holds exactly one manifest of this kind. Returns its key and the defaulted document.
pub fn read_single(file: &str, text: &str, kind: LocalKind) -> Result<(ObjectKey, Value), Vec<Problem>> {
    let wanted = kind.kind.clone();
    let kinds = Kinds::new(&[kind]).map_err(|e| vec![Problem::error(e.to_string()).at(file, 0)])?;
    let reading = manifest::read(file, text, &kinds);
    if !reading.problems.is_empty() {
        return Err(reading.problems);
    }
    let mut found = reading.manifests.into_iter().map(|m| (m.key, m.place, m.content));
    match (found.next(), found.next()) {
        (Some((key, _, Declared::Resource(object))), None) if key.kind == wanted => Ok((key, object)),
        (Some((key, place, _)), None) => {
            Err(vec![Problem::error(format!("{key} is no {wanted}: name another file")).at(file, place.line)])
        }
        (Some(_), Some((_, place, _))) => {
            let message = format!("a second manifest: this file holds one {wanted} and nothing else");
            Err(vec![Problem::error(message).at(file, place.line)])
        }
        (None, _) => Err(vec![Problem::error(format!("there is no {wanted} in it")).at(file, 0)]),
    }
}
