//! The top level of a JSON object: its fields in their order, each value as the bytes that came.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// A JSON object of which only the top level was read: its names stay in their order, and numbers are as they were written. Deserialized, no
/// name may stand twice in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Read as most do: of equal names the last counts. `None`: it is no object.
    pub fn lenient(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok().map(|Lenient(object)| object)
    }

    /// A part of a message that is this text, given in JSON.
    pub fn text_part(json: &'a str) -> Option<Self> {
        let field = |(name, value)| Some((Cow::Borrowed(name), serde_json::from_str(value).ok()?));
        [("type", "\"text\""), ("text", json)].map(field).into_iter().collect::<Option<_>>().map(Self)
    }

    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.get())
    }

    /// What is not null.
    pub fn given(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|value| *value != "null")
    }

    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name).and_then(text)
    }

    /// A text, or nothing.
    pub fn words(&self, name: &str) -> Cow<'a, str> {
        self.text(name).unwrap_or_default()
    }

    /// An object, of which nothing is expected.
    pub fn object(&self, name: &str) -> Self {
        self.get(name).and_then(Self::lenient).unwrap_or_default()
    }

    /// The objects of a list; `None`: it is no list. What is in it and no object has no fields.
    pub fn objects(&self, name: &str) -> Option<Vec<Self>> {
        self.get(name).and_then(objects)
    }

    /// A number, also one that is written as a fraction.
    pub fn count(&self, name: &str) -> Option<u64> {
        serde_json::from_str::<f64>(self.get(name)?).ok().map(|count| count as u64)
    }

    pub fn fields(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.get()))
    }

    /// A name that is read as one of `read` by a reader that ignores case (Go's), and is not written so.
    pub fn disguised(&self, read: &[&'static str]) -> Option<(&str, &'static str)> {
        self.0.iter().find_map(|(name, _)| {
            let meant = read.iter().find(|known| name != *known && folded(name) == **known)?;
            Some((name.as_ref(), *meant))
        })
    }
}

/// A text in JSON. Halves of a surrogate pair, which some clients leave where they cut a text, are read as U+FFFD.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(json).ok().map(|Text(text)| text)
}

/// The objects of a list, see [`Object::objects`].
pub(super) fn objects(json: &str) -> Option<Vec<Object<'_>>> {
    let items: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    Some(items.into_iter().map(|item| Object::lenient(item.get()).unwrap_or_default()).collect())
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
        deserializer.deserialize_map(Fields { stand_once: true })
    }
}

struct Lenient<'a>(Object<'a>);

impl<'de> Deserialize<'de> for Lenient<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields { stand_once: false }).map(Self)
    }
}

struct Fields {
    stand_once: bool,
}

impl<'de> Visitor<'de> for Fields {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some(Text(name)) = map.next_key()? {
            if self.stand_once && !names.insert(name.clone()) {
                let name: String = name.chars().take(60).collect();
                return Err(A::Error::custom(format!("{name:?} stands twice in one object: leave one of them out")));
            }
            fields.push((name, map.next_value()?));
        }
        Ok(Object(fields))
    }
}

struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(String::from_utf8_lossy(bytes).into_owned().into()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
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

/// An object of fields of our own, and of such whose values are JSON that stays as it was written.
pub(super) fn spliced(own: &Value, written: &[(&str, impl AsRef<str>)]) -> String {
    let size: usize = written.iter().map(|(name, value)| name.len() + value.as_ref().len() + 4).sum();
    let mut out = ObjectWriter::new(size);
    own.as_object().into_iter().flatten().for_each(|(name, value)| out.field(name, &value.to_string()));
    written.iter().for_each(|(name, value)| out.field(name, value.as_ref()));
    out.end()
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
    fn a_lenient_reader_takes_the_last_of_equal_names_and_halves_of_a_pair() {
        let object = Object::lenient(r#"{"a": 1, "a": 2.0, "b": "x\ud83d", "c": [{"d": 1}, 3], "e": null}"#).unwrap();
        assert_eq!((object.count("a"), object.text("b").as_deref()), (Some(2), Some("x\u{fffd}\u{fffd}\u{fffd}")));
        let c = object.objects("c").unwrap();
        assert_eq!((c.len(), c[0].get("d"), c[1].get("d")), (2, Some("1"), None));
        assert_eq!((object.get("e"), object.given("e"), object.text("a")), (Some("null"), None, None));
        assert!(Object::lenient("[]").is_none() && object.objects("a").is_none());
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
