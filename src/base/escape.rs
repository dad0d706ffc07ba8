//! Text from outside (prompts, answers, errors of servers, names of fields) must not steer whoever shows it: neither a terminal by
//! control sequences, nor a reader by characters that reorder what stands there. Every door to the outside uses this.

use std::{borrow::Cow, fmt::Write};

/// Controls but for line breaks and tabs, line separators that only some programs heed, and what changes the direction of text.
fn is_unsafe(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fff9}'..='\u{fffb}' => true,
        _ => c.is_control(),
    }
}

/// As `\u001b`: for a terminal, where line breaks and tabs stay what they are.
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    // A line break of another system is one.
    let text = if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) };
    if !text.contains(is_unsafe) {
        return text;
    }
    Cow::Owned(escaped(&text, is_unsafe))
}

/// The same in one line, as log lines and cells of tables are: line breaks and tabs are escaped, too.
pub fn for_line(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| is_unsafe(c) || matches!(c, '\n' | '\t');
    if text.contains(breaks) { Cow::Owned(escaped(text, breaks)) } else { Cow::Borrowed(text) }
}

/// JSON that was written already: what JSON lets through within its strings is written as its own escapes, so it means the same.
pub fn for_json(json: String) -> String {
    if json.contains(is_unsafe) { escaped(&json, is_unsafe) } else { json }
}

fn escaped(text: &str, which: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if which(c) => out.push_str("\\n"),
            '\t' if which(c) => out.push_str("\\t"),
            c if which(c) => {
                // None of them lies beyond the first plane, so four digits do.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVIL: &str = "a\u{1b}[2J\u{1b}]52;c;AA==\u{7}\u{9b}31m\u{202e}gnp\u{2066}\u{85}\u{7f}\u{2028}\0z";

    #[test]
    fn nothing_that_steers_a_terminal_or_a_reader_is_left() {
        for text in [for_terminal(EVIL), for_line(EVIL)] {
            assert_eq!(
                text,
                "a\\u001b[2J\\u001b]52;c;AA==\\u0007\\u009b31m\\u202egnp\\u2066\\u0085\\u007f\\u2028\\u0000z"
            );
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["größer – 日本語 👩‍👩‍👧 e\u{301}", "two\nlines\tand a tab"] {
            assert_eq!(for_terminal(text), text);
        }
        assert_eq!(for_terminal("a\r\nb\rc"), "a\nb\\u000dc", "a lone return goes back over what stands there");
        assert_eq!(for_line("a\nb\tc"), "a\\nb\\tc");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let json = serde_json::to_string(&serde_json::json!({"k\u{9b}": EVIL, "n": "ä\n"})).unwrap();
        let safe = for_json(json.clone());
        assert!(!safe.contains(is_unsafe), "{safe}");
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&safe), parse(&json));
    }
}
