//! The top level of a JSON object: its fields in their order, each value as the bytes that came.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON object of which only the top level was read. No name stands twice in it.
#[derive(Clone, Debug)]
pub(super) struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.get())
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }

    /// A name that is read as one of `read` by a reader that ignores case (Go's), and is not written so.
    pub fn disguised(&self, read: &[&'static str]) -> Option<(&str, &'static str)> {
        self.0.iter().find_map(|(name, _)| {
            let meant = read.iter().find(|known| name != *known && folded(name) == **known)?;
            Some((name.as_str(), *meant))
        })
    }
}

/// As Go's `encoding/json` compares names: simple folding of Unicode, of which only these two letters fold into ASCII.
fn folded(name: &str) -> String {
    let fold = |letter| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<(String, &'de RawValue)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if !names.insert(name.clone()) {
                let name: String = name.chars().take(60).collect();
                return Err(A::Error::custom(format!("{name:?} stands twice in one object: leave one of them out")));
            }
            fields.push((name, value));
        }
        Ok(Object(fields))
    }
}

/// Writes an object: fields as they came, some of them with other values, some left out, some added.
pub(super) struct ObjectWriter(String);

impl ObjectWriter {
    pub fn new(capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity + 64);
        text.push('{');
        Self(text)
    }

    /// `value` is JSON.
    pub fn field(&mut self, name: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&serde_json::Value::from(name).to_string());
        self.0.push(':');
        self.0.push_str(value);
    }

    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_bytes_that_came_and_no_name_stands_twice() {
        let object: Object = serde_json::from_str(r#" {"a": 1.50, "b\u0041": {"x": [1,  2]}, "c": "A"} "#).unwrap();
        let fields: Vec<_> = object.fields().collect();
        assert_eq!(fields, [("a", "1.50"), ("bA", r#"{"x": [1,  2]}"#), ("c", r#""A""#)]);
        assert_eq!((object.get("bA"), object.get("d")), (Some(r#"{"x": [1,  2]}"#), None));
        for twice in [r#"{"a": 1, "a": 1}"#, r#"{"a": 1, "\u0061": 1}"#] {
            let why = serde_json::from_str::<Object>(twice).unwrap_err().to_string();
            assert!(why.contains("stands twice"), "{why}");
        }
        assert!(serde_json::from_str::<Object>("[]").is_err());
    }

    #[test]
    fn a_name_that_go_reads_as_another_is_found() {
        for (name, is_disguised) in [("Model", true), ("MODEL", true), ("model", false), ("models", false)] {
            let text = format!(r#"{{"{name}": 1}}"#);
            let object: Object = serde_json::from_str(&text).unwrap();
            assert_eq!(object.disguised(&["model", "keep_alive"]).is_some(), is_disguised, "{name}");
        }
        let object: Object = serde_json::from_str(r#"{"\u212aeep_alive": 0}"#).unwrap();
        assert_eq!(object.disguised(&["keep_alive"]).map(|(_, meant)| meant), Some("keep_alive"));
        let object: Object = serde_json::from_str(r#"{"me\u017f\u017fages": 0}"#).unwrap();
        assert_eq!(object.disguised(&["messages"]).map(|(_, meant)| meant), Some("messages"));
    }
}
