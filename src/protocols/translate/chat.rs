//! What an engine answers to a chat: texts, thoughts, tool calls, and why it ended.

use serde_json::{Value, json};

use super::super::Usage;

/// Of what is kept until the end.
pub(super) const MOST_KEPT: usize = 8 << 20;
const MOST_CALLS: usize = 256;

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChatPart {
    Text(String),
    Thought(String),
    /// The engine's own words for what went wrong.
    Failed(String),
}

/// A function that the model wants called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WantedCall {
    index: Option<u64>,
    pub id: String,
    has_own_id: bool,
    pub name: String,
    /// JSON, as the model wrote it.
    pub arguments: String,
}

impl WantedCall {
    /// What it is called with; a model may write what is no JSON.
    pub fn input(&self) -> Value {
        match serde_json::from_str(&self.arguments) {
            Ok(input @ Value::Object(_)) => input,
            _ if self.arguments.trim().is_empty() => json!({}),
            _ => json!({"arguments": self.arguments}),
        }
    }
}

/// Reads the frames of an answer, or a whole one.
#[derive(Debug, Default)]
pub(super) struct ChatReader {
    pub calls: Vec<WantedCall>,
    pub finish: Option<String>,
    pub usage: Usage,
    /// A text, a thought, a call or a reason to end came.
    pub has_answered: bool,
    /// Bytes of texts, for whoever keeps them, and of calls.
    pub kept: usize,
    kept_of_calls: usize,
    id: String,
}

impl ChatReader {
    /// `id` is the call's own: ids that a model leaves out differ from those of other answers.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), ..Self::default() }
    }

    /// Takes in a frame. Engines differ in what they write: what is missing or of another type says nothing.
    pub fn read(&mut self, data: &[u8]) -> Vec<ChatPart> {
        let text = String::from_utf8_lossy(data);
        let text = text.trim_start_matches('\u{feff}').trim();
        if matches!(text, "" | "[DONE]") {
            return Vec::new();
        }
        let Ok(frame) = serde_json::from_str::<Value>(text) else {
            return vec![ChatPart::Failed("a part of its answer is no JSON".to_owned())];
        };
        if let Some(why) = failure(&frame) {
            return vec![ChatPart::Failed(why.chars().take(300).collect())];
        }
        let count = |name: &str| frame["usage"][name].as_f64().map(|count| count as u64);
        if let Some(prompt) = count("prompt_tokens") {
            self.usage = Usage { prompt: Some(prompt), completion: count("completion_tokens") };
        }
        let mut parts = Vec::new();
        // Nobody asked for more than one answer.
        let choices = frame["choices"].as_array().into_iter().flatten();
        for choice in choices.filter(|choice| choice["index"].as_u64().unwrap_or(0) == 0) {
            let message = if choice["delta"].is_null() { &choice["message"] } else { &choice["delta"] };
            self.message(message, &mut parts);
            if let Some(finish) = choice["finish_reason"].as_str() {
                self.finish = Some(finish.to_owned());
            }
        }
        self.has_answered |= !parts.is_empty() || !self.calls.is_empty() || self.finish.is_some();
        parts
    }

    fn message(&mut self, message: &Value, parts: &mut Vec<ChatPart>) {
        let said = ["reasoning_content", "reasoning"].into_iter().map(|name| super::words(message, name));
        let thought = said.into_iter().find(|thought| !thought.is_empty());
        parts.extend(thought.map(|thought| ChatPart::Thought(thought.to_owned())));
        let content = match &message["content"] {
            Value::Array(pieces) => pieces.iter().map(|piece| super::words(piece, "text")).collect(),
            content => content.as_str().unwrap_or_default().to_owned(),
        };
        for text in [content.as_str(), super::words(message, "refusal")].into_iter().filter(|text| !text.is_empty()) {
            self.kept += text.len();
            parts.push(ChatPart::Text(text.to_owned()));
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            if self.call(call).is_none() {
                parts.push(ChatPart::Failed("its tool calls are longer than can be kept".to_owned()));
            }
        }
    }

    /// A call comes whole, or piece by piece; `None`: it is too long.
    fn call(&mut self, piece: &Value) -> Option<()> {
        let index = piece["index"].as_u64();
        let id = match &piece["id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => String::new(),
        };
        let name = super::words(&piece["function"], "name");
        let arguments = match &piece["function"]["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        self.kept_of_calls += arguments.len() + name.len();
        if self.kept_of_calls > MOST_KEPT {
            return None;
        }
        let are_many = self.calls.len() >= MOST_CALLS;
        let begun = self.calls.iter_mut().rev().find(|call| match (index, id.is_empty()) {
            // An engine may give all calls of an answer one number, or none, and an id each.
            (_, false) if call.has_own_id => call.id == id,
            (Some(_), _) => call.index == index,
            // Without a number, one that has a name is another one.
            (None, _) => name.is_empty(),
        });
        match begun {
            Some(call) => {
                call.arguments += &arguments;
                if call.name.is_empty() {
                    name.clone_into(&mut call.name);
                }
            }
            None if are_many => return None,
            None => {
                let has_own_id = !id.is_empty();
                let id = if has_own_id { id } else { format!("call_{}_{}", self.id, self.calls.len()) };
                self.calls.push(WantedCall { index, id, has_own_id, name: name.to_owned(), arguments });
            }
        }
        Some(())
    }
}

/// The words of an error, in the shapes that engines give it within a stream.
fn failure(frame: &Value) -> Option<&str> {
    let error = &frame["error"];
    let is_none = matches!(error, Value::Null | Value::Bool(false)) || error == "";
    let words = |of: &'_ Value| of.as_str().is_some();
    if !is_none {
        return error.as_str().or_else(|| error["message"].as_str()).or(Some("no explanation"));
    }
    if frame["choices"].is_null() {
        return [&frame["message"], &frame["detail"]].into_iter().find(|of| words(of)).and_then(Value::as_str);
    }
    None
}

/// A message of a chat that calls functions, or says what one gave.
pub(super) fn tool_call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A function that may be called.
pub(super) fn function(name: &Value, description: &Value, parameters: &Value) -> Value {
    let mut function = json!({"name": name});
    for (field, value) in [("description", description), ("parameters", parameters)] {
        if !value.is_null() {
            function[field] = value.clone();
        }
    }
    json!({"type": "function", "function": function})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_calls_come_whole_in_pieces_and_without_numbers() {
        let calls = |frames: &[&str]| {
            let mut reader = ChatReader::default();
            for frame in frames {
                let frame = format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{frame}]}}}}]}}"#);
                assert_eq!(reader.read(frame.as_bytes()), []);
            }
            reader.calls.into_iter().map(|call| (call.id, call.name, call.arguments)).collect::<Vec<_>>()
        };
        let of = |id: &str, name: &str, arguments: &str| (id.to_owned(), name.to_owned(), arguments.to_owned());
        let pieces = [
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":""}}"#,
            r#"{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}"#,
            r#"{"index":0,"function":{"arguments":"{\"x\":"}}"#,
            r#"{"index":0,"function":{"arguments":"1}"}}"#,
        ];
        assert_eq!(calls(&pieces), [of("a", "f", r#"{"x":1}"#), of("b", "g", "{}")]);
        let whole = [
            r#"{"function":{"name":"f","arguments":{"x":1}}}"#,
            r#"{"id":"","function":{"name":"f","arguments":"{}"}}"#,
        ];
        assert_eq!(calls(&whole), [of("call__0", "f", r#"{"x":1}"#), of("call__1", "f", "{}")]);
        let one_number = [
            r#"{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"f","arguments":"{"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"f","arguments":"}"}}"#,
        ];
        assert_eq!(calls(&one_number), [of("a", "f", "{}"), of("b", "f", "{}")]);
        let no_number = [
            r#"{"id":"a","function":{"name":"f","arguments":"{"}}"#,
            r#"{"id":"a","function":{"name":"f","arguments":"}"}}"#,
        ];
        assert_eq!(calls(&no_number), [of("a", "f", "{}")]);
    }

    #[test]
    fn what_engines_write_otherwise_is_read_all_the_same() {
        let text = |frame: &str| ChatReader::default().read(frame.as_bytes());
        let hay = || vec![ChatPart::Text("hay".to_owned())];
        for frame in [
            r#"{"choices":[{"delta":{"content":"hay","reasoning":{"a":1}}}],"usage":{"prompt_tokens":7.0}}"#,
            r#"{"choices":[{"delta":{"content":"x","content":"hay"}}]}"#,
            "\u{feff}{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"hay\"}]}}],\"error\":false}",
        ] {
            assert_eq!(text(frame), hay(), "{frame}");
        }
        for frame in [
            r#"{"error":{"message":"why"}}"#,
            r#"{"error":"why"}"#,
            r#"{"object":"error","message":"why","code":500}"#,
            r#"{"detail":"why"}"#,
        ] {
            assert_eq!(text(frame), [ChatPart::Failed("why".to_owned())], "{frame}");
        }
        assert!(matches!(text("{\"choices\"").as_slice(), [ChatPart::Failed(_)]), "nothing is lost in silence");
    }

    #[test]
    fn what_a_model_writes_as_arguments_is_an_object_in_any_case() {
        for (arguments, input) in [
            (r#"{"a":1}"#, json!({"a": 1})),
            ("", json!({})),
            ("[1]", json!({"arguments": "[1]"})),
            ("{\"a\":", json!({"arguments": "{\"a\":"})),
        ] {
            assert_eq!(WantedCall { arguments: arguments.into(), ..WantedCall::default() }.input(), input);
        }
    }

    #[test]
    fn tool_calls_without_end_are_a_failure() {
        let mut reader = ChatReader::default();
        let long = "x".repeat(1 << 20);
        let frame = json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": long}}]}}]});
        let read: Vec<_> = (0..9).flat_map(|_| reader.read(frame.to_string().as_bytes())).collect();
        assert!(matches!(read.as_slice(), [ChatPart::Failed(_)]), "{read:?}");
    }
}
