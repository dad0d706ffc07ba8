//! What an engine answers to a chat: texts, thoughts, tool calls, and why it ended.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::super::{
    Usage,
    chunk::{Choice, Chunk},
    object::{Object, spliced, text},
};

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
    /// What it is called with, as the model wrote it; that may be no JSON.
    pub fn input(&self) -> Cow<'_, str> {
        let written = self.arguments.trim_ascii();
        match Object::lenient(written) {
            Some(_) => written.into(),
            None if written.is_empty() => "{}".into(),
            None => json!({"arguments": self.arguments}).to_string().into(),
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

    /// Takes in a frame.
    pub fn read(&mut self, chunk: &Chunk<'_>) -> Vec<ChatPart> {
        if chunk.is_unreadable {
            return vec![ChatPart::Failed("a part of its answer is no JSON object".to_owned())];
        }
        if let Some(why) = &chunk.error {
            return vec![ChatPart::Failed(why.clone())];
        }
        self.usage = chunk.usage.unwrap_or(self.usage);
        let mut parts = Vec::new();
        // Nobody asked for more than one answer.
        for Choice { message, finish, .. } in chunk.choices.iter().filter(|choice| choice.index == 0) {
            self.message(message, &mut parts);
            if let Some(finish) = finish {
                self.finish = Some(finish.clone().into_owned());
            }
        }
        self.has_answered |= !parts.is_empty() || !self.calls.is_empty() || self.finish.is_some();
        parts
    }

    fn message(&mut self, message: &Object<'_>, parts: &mut Vec<ChatPart>) {
        let said = ["reasoning_content", "reasoning"].into_iter().map(|name| message.words(name));
        let thought = said.into_iter().find(|thought| !thought.is_empty());
        parts.extend(thought.map(|thought| ChatPart::Thought(thought.into_owned())));
        let content = match message.objects("content") {
            Some(pieces) => pieces.iter().map(|piece| piece.words("text").into_owned()).collect(),
            None => message.words("content"),
        };
        for text in [content, message.words("refusal")].into_iter().filter(|text| !text.is_empty()) {
            self.kept += text.len();
            parts.push(ChatPart::Text(text.into_owned()));
        }
        for call in message.objects("tool_calls").unwrap_or_default() {
            if self.call(&call).is_none() {
                parts.push(ChatPart::Failed("its tool calls are longer than can be kept".to_owned()));
            }
        }
    }

    /// A call comes whole, or piece by piece; `None`: it is too long.
    fn call(&mut self, piece: &Object<'_>) -> Option<()> {
        let index = piece.count("index");
        let id = piece.given("id").map(written).unwrap_or_default();
        let function = piece.object("function");
        let name = function.words("name");
        let arguments = function.given("arguments").map(written).unwrap_or_default();
        self.kept_of_calls += arguments.len() + name.len();
        if self.kept_of_calls > MOST_KEPT {
            return None;
        }
        let are_many = self.calls.len() >= MOST_CALLS;
        let begun = self.calls.iter_mut().rev().find(|call| match (index, id.is_empty()) {
            // An engine may give all calls of an answer one number, or none, and an id each.
            (_, false) if call.has_own_id => call.id == *id,
            (Some(_), _) => call.index == index,
            // Without a number, one that has a name is another one.
            (None, _) => name.is_empty(),
        });
        match begun {
            Some(call) => {
                call.arguments += &arguments;
                if call.name.is_empty() {
                    call.name = name.into_owned();
                }
            }
            None if are_many => return None,
            None => {
                let has_own_id = !id.is_empty();
                let id = if has_own_id { id.into_owned() } else { format!("call_{}_{}", self.id, self.calls.len()) };
                let (name, arguments) = (name.into_owned(), arguments.into_owned());
                self.calls.push(WantedCall { index, id, has_own_id, name, arguments });
            }
        }
        Some(())
    }
}

/// A text, or whatever else stands there as it was written.
fn written(json: &str) -> Cow<'_, str> {
    text(json).unwrap_or(json.into())
}

/// A message of a chat that calls functions, or says what one gave.
pub(super) fn tool_call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// A function that may be called, in JSON.
pub(super) fn function(name: &str, description: &str, parameters: Option<&str>) -> String {
    let mut own = json!({"name": name});
    if !description.is_empty() {
        own["description"] = description.into();
    }
    let parameters: Vec<_> = parameters.map(|parameters| ("parameters", parameters)).into_iter().collect();
    spliced(&json!({"type": "function"}), &[("function", &spliced(&own, &parameters))])
}

/// The functions of a chat, and which of them is to be called.
#[derive(Default)]
pub(super) struct Functions {
    names: Vec<String>,
    json: Vec<String>,
}

impl Functions {
    pub fn push(&mut self, name: &str, json: String) {
        self.names.push(name.to_owned());
        self.json.push(json);
    }

    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Those of these names alone.
    pub fn keep(&mut self, names: &[String]) {
        let mut kept = self.names.iter().map(|name| names.contains(name));
        self.json.retain(|_| kept.next() == Some(true));
        self.names.retain(|name| names.contains(name));
    }

    /// The choice of one; `None`: there is none of this name.
    pub fn choice(&self, name: &str) -> Option<Value> {
        let is_one = self.names.iter().any(|known| known == name);
        is_one.then(|| json!({"type": "function", "function": {"name": name}}))
    }

    pub fn list(&self) -> String {
        format!("[{}]", self.json.join(","))
    }
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
                assert_eq!(reader.read(&Chunk::read(&frame)), []);
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
        let text = |frame: &str| ChatReader::default().read(&Chunk::read(frame));
        let hay = || vec![ChatPart::Text("hay".to_owned())];
        for frame in [
            r#"{"choices":[{"delta":{"content":"hay","reasoning":{"a":1}}}],"usage":{"prompt_tokens":7.0}}"#,
            r#"{"choices":[{"delta":{"content":"x","content":"hay"}}]}"#,
            r#"{"choices":[{"message":{"content":"hay"},"delta":null},{"index":1,"message":{"content":"x"}}]}"#,
            "\u{feff}{\"choices\":[{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"hay\"}]}}],\"error\":false}",
        ] {
            assert_eq!(text(frame), hay(), "{frame}");
        }
        assert_eq!(text(r#"{"error":{"message":"why"}}"#), [ChatPart::Failed("why".to_owned())]);
        assert!(matches!(text("{\"choices\"").as_slice(), [ChatPart::Failed(_)]), "nothing is lost in silence");
    }

    #[test]
    fn what_a_model_writes_as_arguments_is_an_object_in_any_case() {
        for (arguments, input) in [
            (r#" {"b": 36893488147419103232, "a": 1.50}"#, r#"{"b": 36893488147419103232, "a": 1.50}"#),
            ("", "{}"),
            ("[1]", r#"{"arguments":"[1]"}"#),
            ("{\"a\":", r#"{"arguments":"{\"a\":"}"#),
        ] {
            assert_eq!(WantedCall { arguments: arguments.into(), ..WantedCall::default() }.input(), input);
        }
    }

    #[test]
    fn tool_calls_without_end_are_a_failure() {
        let mut reader = ChatReader::default();
        let long = "x".repeat(1 << 20);
        let frame = json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": long}}]}}]});
        let read: Vec<_> = (0..9).flat_map(|_| reader.read(&Chunk::read(&frame.to_string()))).collect();
        assert!(matches!(read.as_slice(), [ChatPart::Failed(_)]), "{read:?}");
    }
}
