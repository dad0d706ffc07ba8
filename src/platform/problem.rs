//! What a person should mend, as data: printed by `up`, shown by the API.

use std::fmt;

use serde::Serialize;

use crate::api::ObjectKey;

/// Whether something declared is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Severity {
    /// It is not in force until it is mended; the last good version, if any, still is.
    Error,
    /// It is ignored, and nothing is lost.
    Warning,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestPlace {
    /// As seen from the folder: `ollama.yaml`.
    pub file: String,
    /// From 1; 0 when the whole file is meant.
    pub line: usize,
}

/// One thing to mend.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlatformProblem {
    pub severity: Severity,
    pub place: Option<ManifestPlace>,
    /// `LLMBackend default/ollama`, where that much is known.
    pub about: Option<String>,
    /// `spec.models[0].name`.
    pub field: Option<String>,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// The longest message and path of a field, in characters: both repeat what a file says, which may be anything.
const MOST_MESSAGE_CHARS: usize = 2_000;
const MOST_FIELD_CHARS: usize = 500;

impl PlatformProblem {
    pub fn error(message: impl Into<String>) -> Self {
        let message = bounded(message.into(), MOST_MESSAGE_CHARS);
        Self { severity: Severity::Error, place: None, about: None, field: None, message }
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    pub fn at(mut self, file: &str, line: usize) -> Self {
        self.place = Some(ManifestPlace { file: file.to_owned(), line });
        self
    }

    pub fn about(mut self, key: &ObjectKey) -> Self {
        self.about = Some(key.to_string());
        self
    }

    pub fn field(mut self, field: impl fmt::Display) -> Self {
        self.field = Some(bounded(field.to_string(), MOST_FIELD_CHARS));
        self
    }
}

fn bounded(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl fmt::Display for PlatformProblem {
    /// `ollama.yaml:12: LLMBackend default/ollama: spec.url: is required`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(ManifestPlace { file, line: 0 }) => write!(f, "{file}: ")?,
            Some(ManifestPlace { file, line }) => write!(f, "{file}:{line}: ")?,
            None => {}
        }
        if let Some(about) = &self.about {
            write!(f, "{about}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
