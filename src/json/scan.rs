//! One pass over a text that builds nothing. Whether it is JSON at all is for serde to say: what is no JSON passes here.

use std::{borrow::Cow, collections::HashSet};

use super::{Flaw, MAX_DEPTH, number};

/// What a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonBounds {
    pub depth: usize,
    /// Values of lists and objects.
    pub values: usize,
}

impl Default for JsonBounds {
    /// A value takes some hundred bytes of memory, where its text may have two.
    fn default() -> Self {
        Self { depth: MAX_DEPTH, values: 500_000 }
    }
}

/// The longest name that a message repeats, and the number of steps of a path.
const SHOWN_CHARS: usize = 60;
const SHOWN_STEPS: usize = 12;

enum Level<'a> {
    List {
        index: usize,
    },
    Object {
        names: HashSet<Cow<'a, str>>,
        /// Of the member that is read.
        name: Cow<'a, str>,
        awaits_name: bool,
    },
}

/// Refuses what can't be kept, by line and field. Returns how many values there are.
pub fn scan(text: &str, bounds: JsonBounds) -> Result<usize, Flaw> {
    Scan { text, at: 0, levels: Vec::new(), values: 0, bounds }.run()
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    levels: Vec<Level<'a>>,
    values: usize,
    bounds: JsonBounds,
}

impl<'a> Scan<'a> {
    fn run(mut self) -> Result<usize, Flaw> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'{' | b'[' => {
                    self.value()?;
                    if self.levels.len() == self.bounds.depth {
                        return Err(self.flaw(format!(
                            "is nested more than {MAX_DEPTH} levels deep: store it flatter, or as a text"
                        )));
                    }
                    self.levels.push(match byte {
                        b'{' => Level::Object { names: HashSet::new(), name: Cow::Borrowed(""), awaits_name: true },
                        _ => Level::List { index: 0 },
                    });
                    self.at += 1;
                }
                b'}' | b']' => {
                    self.levels.pop();
                    self.at += 1;
                }
                b',' => {
                    match self.levels.last_mut() {
                        Some(Level::List { index }) => *index += 1,
                        Some(Level::Object { awaits_name, .. }) => *awaits_name = true,
                        None => {}
                    }
                    self.at += 1;
                }
                b'"' => {
                    let literal = self.string();
                    match self.levels.last() {
                        Some(Level::Object { awaits_name: true, .. }) => self.name(literal)?,
                        _ => self.value()?,
                    }
                }
                b'-' | b'0'..=b'9' => {
                    self.value()?;
                    self.number()?;
                }
                b't' | b'f' | b'n' => {
                    self.value()?;
                    let word = bytes[self.at..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
                    self.at += word;
                }
                _ => self.at += 1,
            }
        }
        Ok(self.values)
    }

    fn value(&mut self) -> Result<(), Flaw> {
        self.values += 1;
        if self.values > self.bounds.values {
            return Err(self.flaw(format!(
                "is the {}th value, {} are allowed: send it in parts, or as a text",
                self.values, self.bounds.values
            )));
        }
        Ok(())
    }

    /// The string that begins here, with its quotes.
    fn string(&mut self) -> &'a str {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        self.at += 1;
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return &self.text[start..self.at];
                }
                // What follows a backslash is no end, whatever it is; it may be one of several bytes.
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at = bytes.len();
        ""
    }

    fn name(&mut self, literal: &'a str) -> Result<(), Flaw> {
        let raw = literal.get(1..literal.len().saturating_sub(1)).unwrap_or_default();
        // Two spellings of one name are one name.
        let read = match raw.contains('\\') {
            true => serde_json::from_str(literal).map_or(Cow::Borrowed(raw), Cow::Owned),
            false => Cow::Borrowed(raw),
        };
        let Some(Level::Object { names, name, awaits_name }) = self.levels.last_mut() else { return Ok(()) };
        (*name, *awaits_name) = (read.clone(), false);
        if names.insert(read) {
            Ok(())
        } else {
            Err(self.flaw("stands twice in this object: leave one of them out".to_owned()))
        }
    }

    fn number(&mut self) -> Result<(), Flaw> {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E')).unwrap_or(rest.len());
        let literal = &rest[..end];
        if !number::is_kept(literal) {
            return Err(self.flaw(format!(
                "is {}, which can't be kept exactly: write it as a text, or round it to 15 digits",
                shown(literal)
            )));
        }
        self.at += end;
        Ok(())
    }

    #[cold]
    fn flaw(&self, message: String) -> Flaw {
        let end = (0..=self.at.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let line = 1 + self.text[..end].bytes().filter(|b| *b == b'\n').count();
        let mut field = String::new();
        for (step, level) in self.levels.iter().enumerate() {
            if step == SHOWN_STEPS {
                field.push('…');
                break;
            }
            match level {
                Level::List { index } => field.push_str(&format!("[{index}]")),
                Level::Object { name, .. } if field.is_empty() => field.push_str(&shown(name)),
                Level::Object { name, .. } => field.push_str(&format!(".{}", shown(name))),
            }
        }
        Flaw { line, field, message }
    }
}

/// A name or number of any length, for a message.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn told(text: &str) -> String {
        scan(text, JsonBounds::default()).map_or_else(|flaw| flaw.to_string(), |values| format!("{values} values"))
    }

    #[test]
    fn what_can_not_be_kept_is_named_by_line_and_field() {
        for (text, expected) in [
            (r#"{"prompt": "a", "prompt": "b"}"#, "prompt: stands twice in this object"),
            (r#"{"labels": {"a": "1", "\u0061": "2"}}"#, "labels.a: stands twice"),
            (r#"{"messages": [{"role": "user"}, {"role": "a", "role": "b"}]}"#, "messages[1].role: stands twice"),
            (
                "{\"data\":\n {\"id\": 18446744073709551616}}",
                "line 2: data.id: is 18446744073709551616, which can't be kept",
            ),
            (r#"{"data": [1, 2, -0]}"#, "data[2]: is -0, which can't be kept exactly"),
            (
                r#"{"data": {"a": {"a": 1}, "b": [{"a": 0.12345678901234567890}]}}"#,
                "data.b[0].a: is 0.12345678901234567890",
            ),
            ("[1, [1e400]]", "[1][0]: is 1e400"),
        ] {
            let said = told(text);
            assert!(said.starts_with(expected), "{text}: {said}");
        }
    }

    #[test]
    fn what_looks_like_it_in_a_text_is_none() {
        for text in [
            r#"{"a": "{\"a\": -0, \"a\": 1}", "b": "\\", "c": "]]]}"}"#,
            r#"[{"a": 1}, {"a": 1}, {"b": {"a": 1}, "a": 2}]"#,
            r#"{"\"": 1, "\\\"": 2, "é\\": 3}"#,
        ] {
            serde_json::from_str::<Value>(text).expect("JSON");
            assert!(told(text).ends_with("values"), "{text}: {}", told(text));
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(told(&nested(MAX_DEPTH)), "64 values");
        assert!(told(&nested(MAX_DEPTH + 1)).contains("nested more than 64 levels"), "{}", told(&nested(65)));
        assert!(told(&"{\"a\":".repeat(1_000_000)).contains("nested more than 64 levels"));
        let many = format!("[{}0]", "0,".repeat(500_000));
        assert!(told(&many).contains("500000 are allowed"), "{}", told(&many));
        let long = format!("{{\"{0}\": 1, \"{0}\": 2}}", "x".repeat(1_000_000));
        assert!(told(&long).len() < 300, "{}", told(&long).len());
    }

    #[test]
    fn no_text_makes_it_stumble() {
        for text in [
            "",
            "{",
            "}",
            "]",
            "\"",
            "\"\\",
            "{\"",
            "{\"a\\",
            "[,",
            "{,}",
            "{\"a\":}",
            "é\"\\é",
            "nul",
            "-",
            "1-2e+.",
            "{\"a\" \"a\"}",
        ] {
            let _ = scan(text, JsonBounds::default());
        }
    }

    proptest! {
        #[test]
        fn whatever_serde_writes_passes(keys in prop::collection::btree_set(".*", 0..6), number in any::<i64>(), text in ".*") {
            let object: serde_json::Map<String, Value> =
                keys.into_iter().map(|key| (key, serde_json::json!([number, text]))).collect();
            let written = Value::Object(object).to_string();
            prop_assert!(scan(&written, JsonBounds::default()).is_ok(), "{}", written);
        }

        #[test]
        fn no_garbage_makes_it_panic(text in "[\\[\\]{}:,\"\\\\a0.eé-]{0,40}") {
            let _ = scan(&text, JsonBounds::default());
        }
    }
}
