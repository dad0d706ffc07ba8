//! What an engine answers to a chat: texts, thoughts, tool calls, and why it ended.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::Usage;

/// Of tool calls and texts that are kept until the end, all together.
const MOST_KEPT: usize = 8 << 20;
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
    kept: usize,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    choices: Option<Vec<FrameChoice>>,
    #[serde(default)]
    usage: Option<FrameUsage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct FrameUsage {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct FrameChoice {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    delta: Option<FrameMessage>,
    #[serde(default)]
    message: Option<FrameMessage>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct FrameMessage {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<FrameCall>>,
}

#[derive(Deserialize)]
struct FrameCall {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FrameFunction>,
}

#[derive(Deserialize)]
struct FrameFunction {
    #[serde(default)]
    name: Option<String>,
    /// Some engines give an object.
    #[serde(default)]
    arguments: Option<Value>,
}

impl ChatReader {
    /// Takes in a frame; what is no JSON says nothing.
    pub fn read(&mut self, data: &[u8]) -> Vec<ChatPart> {
        let Ok(Frame { choices, usage, error }) = serde_json::from_slice::<Frame>(data) else { return Vec::new() };
        if let Some(error) = error.filter(|error| !error.is_null()) {
            let why = error.as_str().or_else(|| error.get("message")?.as_str()).unwrap_or("no explanation");
            return vec![ChatPart::Failed(why.chars().take(300).collect())];
        }
        if let Some(FrameUsage { prompt_tokens, completion_tokens }) = usage {
            self.usage = Usage { prompt: prompt_tokens, completion: completion_tokens };
        }
        let mut parts = Vec::new();
        // Nobody asked for more than one answer.
        for choice in choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(message) = choice.delta.or(choice.message) {
                self.message(message, &mut parts);
            }
            self.finish = choice.finish_reason.or(self.finish.take());
        }
        parts
    }

    fn message(&mut self, message: FrameMessage, parts: &mut Vec<ChatPart>) {
        let FrameMessage { content, reasoning, reasoning_content, refusal, tool_calls } = message;
        let thought = reasoning_content.or(reasoning).filter(|thought| !thought.is_empty());
        parts.extend(thought.map(ChatPart::Thought));
        let text = match content {
            Some(Value::String(text)) => Some(text),
            Some(Value::Array(pieces)) => Some(pieces.iter().map(|piece| super::words(piece, "text")).collect()),
            _ => None,
        };
        parts.extend([text, refusal].into_iter().flatten().filter(|text| !text.is_empty()).map(ChatPart::Text));
        for call in tool_calls.into_iter().flatten() {
            if self.call(call).is_none() {
                parts.push(ChatPart::Failed("its tool calls are longer than can be kept".to_owned()));
            }
        }
    }

    /// A call comes whole, or piece by piece; `None`: it is too long.
    fn call(&mut self, piece: FrameCall) -> Option<()> {
        let FrameCall { index, id, function } = piece;
        let (name, arguments) = function.map_or((None, None), |function| (function.name, function.arguments));
        let arguments = match arguments {
            Some(Value::String(text)) => text,
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        self.kept += arguments.len() + name.as_ref().map_or(0, String::len);
        if self.kept > MOST_KEPT {
            return None;
        }
        let are_many = self.calls.len() >= MOST_CALLS;
        let begun = match index {
            Some(_) => self.calls.iter_mut().find(|call| call.index == index),
            // Without a number, one that has a name is another one.
            None => self.calls.last_mut().filter(|_| name.is_none()),
        };
        match begun {
            Some(call) => {
                call.arguments += &arguments;
                call.name += &name.unwrap_or_default();
            }
            None if are_many => return None,
            None => {
                let id = id.filter(|id| !id.is_empty()).unwrap_or_else(|| format!("call_{}", self.calls.len()));
                self.calls.push(WantedCall { index, id, name: name.unwrap_or_default(), arguments });
            }
        }
        Some(())
    }
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
        assert_eq!(calls(&whole), [of("call_0", "f", r#"{"x":1}"#), of("call_1", "f", "{}")]);
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
