//! U+0000, which engines do write into their logs. PostgreSQL's text and jsonb hold every character but that one; so that both databases
//! answer the same, U+FFFD is stored in its place in both.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

/// Without NUL.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// Without NUL, in any string or key.
pub(super) fn json(value: &Value) -> Cow<'_, Value> {
    if has_nul(value) { Cow::Owned(without_nul(value)) } else { Cow::Borrowed(value) }
}

/// A document as text, without NUL: as drivers send it, alone or in arrays.
pub(super) fn json_text(document: &impl Serialize) -> String {
    let text = serde_json::to_string(document).unwrap_or_else(|_| "null".to_owned());
    if !text.contains("\\u0000") {
        return text;
    }
    match serde_json::from_str(&text) {
        Ok(value) => json(&value).to_string(),
        Err(_) => text,
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn without_nul(value: &Value) -> Value {
    match value {
        Value::String(string) => Value::String(text(string).into_owned()),
        Value::Array(items) => Value::Array(items.iter().map(without_nul).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (text(key).into_owned(), without_nul(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as value;

    #[test]
    fn a_nul_is_replaced_wherever_it_is() {
        assert!(matches!(text("plain"), Cow::Borrowed("plain")));
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        let clean = value!({"a": [1, null, "x"]});
        assert!(matches!(json(&clean), Cow::Borrowed(_)));
        let dirty = value!({"k\0": ["a\0", {"b": "\0"}], "c": true});
        assert_eq!(*json(&dirty), value!({"k\u{fffd}": ["a\u{fffd}", {"b": "\u{fffd}"}], "c": true}));
    }

    #[test]
    fn in_a_document_what_only_looks_like_one_is_kept() {
        assert_eq!(json_text(&["a"]), r#"["a"]"#);
        assert_eq!(json_text(&["a\0b"]), "[\"a\u{fffd}b\"]");
        assert_eq!(json_text(&["\\u0000"]), r#"["\\u0000"]"#);
    }
}
