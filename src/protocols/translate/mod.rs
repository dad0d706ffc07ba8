//! Calls that an engine doesn't have, put into one that it has: OpenAI's chat completions. Pure: a request becomes a chat, and what the
//! engine says to that becomes an answer in the protocol of whoever asked.
//!
//! `chat` reads what an engine answers, `messages` and `responses` know one protocol each.

mod chat;
mod messages;
mod responses;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::Value;

use self::{
    chat::{ChatPart, ChatReader, MOST_KEPT},
    messages::MessageWriter,
    responses::ResponseWriter,
};
use super::{Ask, AskError, Operation, Refusal, RefusalReason};

/// Values that a request may have, apart from what stands within texts: each takes many times its bytes of memory here.
const MOST_VALUES: usize = 100_000;

/// How many values JSON has, about.
fn values_in(json: &str) -> usize {
    let (mut count, mut in_text, mut escaped) = (1, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => count += 1,
            _ => {}
        }
    }
    count
}

/// The chat that asks an engine for the same; `None`: this call can't be put into one.
///
/// # Errors
/// What of the request can't be put into a chat.
pub fn chat_of(ask: &Ask<'_>) -> Option<Result<String, AskError>> {
    if ask.object.fields().map(|(_, value)| values_in(value)).sum::<usize>() > MOST_VALUES {
        let message = format!("the request has more than {MOST_VALUES} values: shorten the conversation");
        return Some(Err(AskError { message, field: None }));
    }
    let chat = match ask.operation {
        Operation::Messages => messages::chat(&ask.object),
        Operation::Responses => responses::chat(&ask.object),
        _ => return None,
    };
    Some(chat.map(|chat| chat.to_string()))
}

/// Writes what an engine says to such a chat as the answer to the call.
pub struct AnswerTranslator {
    reader: ChatReader,
    writer: ProtocolWriter,
    operation: Operation,
    is_over: bool,
}

enum ProtocolWriter {
    Messages(MessageWriter),
    Responses(ResponseWriter),
}

impl AnswerTranslator {
    /// For a call that [`chat_of`] put into a chat. `id` and `model` are the call's own.
    pub fn new(ask: &Ask<'_>, id: &str, model: &str, now: Timestamp) -> Option<Self> {
        let writer = match ask.operation {
            Operation::Messages => ProtocolWriter::Messages(MessageWriter::new(ask, id, model)),
            Operation::Responses => ProtocolWriter::Responses(ResponseWriter::new(id, model, now)),
            _ => return None,
        };
        Some(Self { reader: ChatReader::new(id), writer, operation: ask.operation, is_over: false })
    }

    /// Takes in the data of a frame; returns frames, or nothing.
    pub fn read(&mut self, data: &[u8]) -> String {
        if self.is_over {
            return String::new();
        }
        let mut out = String::new();
        for part in self.reader.read(data) {
            match (&mut self.writer, part) {
                (_, ChatPart::Failed(why)) => return out + &self.fail(&why),
                (ProtocolWriter::Messages(writer), part) => writer.part(&part, &mut out),
                (ProtocolWriter::Responses(_), _) if self.reader.kept > MOST_KEPT => {
                    return out + &self.fail("its answer is longer than can be kept");
                }
                (ProtocolWriter::Responses(writer), part) => writer.part(&part, &mut out),
            }
        }
        // Without anything before, it is the end of no answer.
        if data.trim_ascii() == b"[DONE]" && self.reader.has_answered {
            out += &self.end();
        }
        out
    }

    /// The frame of an answer that can't go on, once.
    pub fn fail(&mut self, why: &str) -> String {
        match std::mem::replace(&mut self.is_over, true) {
            true => String::new(),
            false => Refusal::new(RefusalReason::EngineFailed, why).frame(self.operation),
        }
    }

    /// The frames that end the answer, once.
    pub fn end(&mut self) -> String {
        if std::mem::replace(&mut self.is_over, true) {
            return String::new();
        }
        let mut out = String::new();
        match &mut self.writer {
            ProtocolWriter::Messages(writer) => writer.end(&self.reader, &mut out),
            ProtocolWriter::Responses(writer) => writer.end(&self.reader, &mut out),
        }
        out
    }

    /// An answer that was not streamed; `None`: this is no answer to a chat.
    pub fn whole(&mut self, body: &[u8]) -> Option<String> {
        let parts = self.reader.read(body);
        let is_answer = self.reader.has_answered;
        let failed = parts.iter().any(|part| matches!(part, ChatPart::Failed(_)));
        if !is_answer || failed {
            return None;
        }
        let answer: Value = match &mut self.writer {
            ProtocolWriter::Messages(writer) => writer.whole(&parts, &self.reader),
            ProtocolWriter::Responses(writer) => writer.whole(&parts, &self.reader),
        };
        Some(answer.to_string())
    }
}

/// A field's value as JSON; null where there is none.
fn field(object: &super::object::Object<'_>, name: &'static str) -> Result<Value, AskError> {
    let Some(text) = object.get(name) else { return Ok(Value::Null) };
    serde_json::from_str(text).map_err(|error| wrong(name, format!("{name} can't be read: {error}")))
}

/// The same as a list; nothing where there is none.
fn list(object: &super::object::Object<'_>, name: &'static str) -> Result<Vec<Value>, AskError> {
    match field(object, name)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items),
        _ => Err(wrong(name, format!("{name} must be a list"))),
    }
}

fn wrong(field: &'static str, message: String) -> AskError {
    AskError { message, field: Some(field) }
}

/// A text in a value, or nothing.
fn words<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}
