//! JSON from outside: tasks, requests, answers of models and webhooks.
//!
//! What JSON leaves open is settled here, before anything is built from the text: how deep it may be, that no name stands twice in an
//! object, and that each number can be kept as it is written. Everything that was let in can be stored, read and sent on.

mod number;
mod scan;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use number::is_kept;
pub use scan::{JsonBounds, scan};

/// Levels of lists and objects. Readers take 128, and what is let in is wrapped in some more of them: lists, results, requests.
pub const MAX_DEPTH: usize = 64;

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// From 1.
    pub line: usize,
    /// `data.items[3].id`; empty where the text as a whole is meant.
    pub field: String,
    /// Why, and how to mend it.
    pub message: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}: ", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads a text from outside.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Flaw> {
    let text = text(bytes)?;
    scan(text, JsonBounds::default())?;
    let mut input = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let field = error.path().to_string();
        // The path of the whole is a full stop.
        Flaw { field: if field == "." { String::new() } else { field }, ..broken(error.inner()) }
    })?;
    input.end().map_err(|error| broken(&error))?;
    Ok(value)
}

/// A value from outside, whatever it is.
pub fn value(bytes: &[u8]) -> Result<Value, Flaw> {
    read(bytes)
}

/// The text of bytes.
pub fn text(bytes: &[u8]) -> Result<&str, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Flaw { line, field: String::new(), message: "is not UTF-8".to_owned() }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A message of serde's, with words in place of the names of types.
pub fn plainly(text: &str) -> String {
    let mut text = text.to_owned();
    for kind in ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "usize"] {
        for (before, after) in
            [(format!("expected {kind}"), "expected a whole number"), (format!("to a `{kind}`"), "as a whole number")]
        {
            text = text.replace(&before, after);
        }
    }
    let Some((before, rest)) = text.split_once("expected struct ") else { return text };
    let name = rest.chars().take_while(|c| c.is_alphanumeric()).count();
    format!("{before}expected an object{}", &rest[name..])
}

/// What serde says, with its column; the line stands in the flaw.
pub fn broken(error: &serde_json::Error) -> Flaw {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    let message = match error.classify() {
        serde_json::error::Category::Data => plainly(what),
        _ => format!("is no JSON: {what} at column {}", error.column()),
    };
    Flaw { line: error.line().max(1), field: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Pause {
        #[serde(rename = "forSeconds")]
        _seconds: i64,
    }

    #[test]
    fn what_does_not_fit_is_told_by_field_and_in_plain_words() {
        for (text, expected) in [
            (r#"{"forSeconds": "1h"}"#, "forSeconds: invalid type: string \"1h\", expected a whole number"),
            (r#""x""#, "invalid type: string \"x\", expected an object"),
            (
                "{\n\"forSeconds\": 1, \"forSeconds\": 2}",
                "line 2: forSeconds: stands twice in this object: leave one of them out",
            ),
            (r#"{"forSeconds": 1} x"#, "is no JSON: trailing characters at column 19"),
        ] {
            assert_eq!(read::<Pause>(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
        }
        assert_eq!(read::<Pause>(b"\n\xff").unwrap_err().to_string(), "line 2: is not UTF-8");
        assert_eq!(plainly("Cannot parse `abc` to a `i64`"), "Cannot parse `abc` as a whole number");
    }
}
