//! Documents as text: the driver then sends arrays of them, and the statement casts.

use serde::Serialize;

use crate::store::postgres::text::json;

/// As JSON, without NUL, which jsonb refuses.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_replaced_and_what_only_looks_like_one_is_kept() {
        assert_eq!(json_text(&["a"]), r#"["a"]"#);
        assert_eq!(json_text(&["a\0b"]), "[\"a\u{fffd}b\"]");
        assert_eq!(json_text(&["\\u0000"]), r#"["\\u0000"]"#);
    }
}
