//! Calls that an engine doesn't have, put into one that it has: OpenAI's chat completions. Pure: a request becomes a chat, and what the
//! engine says to that becomes an answer in the protocol of whoever asked.
//!
//! `chat` reads what an engine answers, `messages` and `responses` know one protocol each, `response_tools` the tools of the latter. Values that
//! nobody has to change (schemas, arguments, numbers) stay as they were written.

mod chat;
mod messages;
mod response_tools;
mod responses;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use jiff::Timestamp;

use self::{
    chat::{ChatPart, ChatReader, MOST_KEPT},
    messages::MessageWriter,
    responses::ResponseWriter,
};
use super::{
    Ask, AskError, Operation, Refusal, RefusalReason,
    chunk::Chunk,
    object::{Object, objects, text},
};

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
    Some(chat)
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
            Operation::Responses => ProtocolWriter::Responses(ResponseWriter::new(ask, id, model, now)),
            _ => return None,
        };
        Some(Self { reader: ChatReader::new(id), writer, operation: ask.operation, is_over: false })
    }

    /// Takes in a frame; returns frames, or nothing.
    pub(super) fn read(&mut self, chunk: &Chunk<'_>) -> String {
        if self.is_over {
            return String::new();
        }
        let mut out = String::new();
        for part in self.reader.read(chunk) {
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
        if chunk.is_mark && self.reader.has_answered {
            out += &self.end();
        }
        out
    }

    /// The frame of an answer that can't go on, once.
    pub(super) fn fail(&mut self, why: &str) -> String {
        match std::mem::replace(&mut self.is_over, true) {
            true => String::new(),
            false => Refusal::new(RefusalReason::EngineFailed, why).frame(self.operation),
        }
    }

    /// The frames that end the answer, once.
    pub(super) fn end(&mut self) -> String {
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
    pub(super) fn whole(&mut self, chunk: &Chunk<'_>) -> Option<String> {
        let parts = self.reader.read(chunk);
        let is_answer = self.reader.has_answered;
        let failed = parts.iter().any(|part| matches!(part, ChatPart::Failed(_)));
        if !is_answer || failed {
            return None;
        }
        Some(match &mut self.writer {
            ProtocolWriter::Messages(writer) => writer.whole(&parts, &self.reader),
            ProtocolWriter::Responses(writer) => writer.whole(&parts, &self.reader).to_string(),
        })
    }
}

/// The objects of a list; none where there is none.
fn list<'a>(object: &Object<'a>, name: &'static str) -> Result<Vec<Object<'a>>, AskError> {
    let Some(list) = object.given(name) else { return Ok(Vec::new()) };
    objects(list).ok_or_else(|| wrong(name, format!("{name} must be a list")))
}

/// Fields that have another name in a chat, or the same, as they were written.
fn renamed<'a>(object: &Object<'a>, names: &[(&str, &'static str)]) -> Vec<(&'static str, Cow<'a, str>)> {
    names.iter().filter_map(|(theirs, ours)| Some((*ours, object.given(theirs)?.into()))).collect()
}

/// What is said: a text counts as one part.
fn parts<'a>(said: Option<&'a str>, field: &'static str) -> Result<Vec<Object<'a>>, AskError> {
    let Some(said) = said.filter(|said| *said != "null" && *said != "\"\"") else { return Ok(Vec::new()) };
    match text(said) {
        Some(_) => Ok(Object::text_part(said).into_iter().collect()),
        None => {
            objects(said).ok_or_else(|| wrong(field, format!("{field}: content must be a text or a list of parts")))
        }
    }
}

fn wrong(field: &'static str, message: String) -> AskError {
    AskError { message, field: Some(field) }
}
