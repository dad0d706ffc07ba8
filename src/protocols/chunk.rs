//! The frames of an answer to a chat or a completion, and such an answer whole. Engines differ in what they write: what is missing or of
//! another type says nothing, and takes nothing from what stands beside it.

use std::borrow::Cow;

use super::{Usage, object::Object};

/// Characters of an engine's own words that are kept.
const MOST_WORDS: usize = 300;
/// What a message says in.
const SAID: [&str; 6] = ["content", "reasoning", "reasoning_content", "thinking", "refusal", "tool_calls"];

/// A frame, read once for all who want to know something of it.
#[derive(Debug, Default)]
pub(super) struct Chunk<'a> {
    /// The mark of the answer's end, and nothing else.
    pub is_mark: bool,
    /// Something that is no JSON object.
    pub is_unreadable: bool,
    /// The engine's own words for what went wrong.
    pub error: Option<String>,
    pub usage: Option<Usage>,
    pub choices: Vec<Choice<'a>>,
    /// It tells usage, and nothing of an answer.
    pub is_usage_alone: bool,
}

#[derive(Debug)]
pub(super) struct Choice<'a> {
    pub index: u64,
    pub message: Object<'a>,
    pub finish: Option<Cow<'a, str>>,
    has_text: bool,
}

impl<'a> Chunk<'a> {
    pub fn read(text: &'a str) -> Self {
        let text = text.trim_start_matches('\u{feff}').trim_ascii();
        match text {
            "" => return Self::default(),
            "[DONE]" => return Self { is_mark: true, ..Self::default() },
            _ => {}
        }
        let Some(frame) = Object::lenient(text) else { return Self { is_unreadable: true, ..Self::default() } };
        let choices = frame.objects("choices");
        let usage = frame.object("usage");
        let [prompt, completion] = ["prompt_tokens", "completion_tokens"].map(|name| usage.count(name));
        Self {
            error: fault(&frame, choices.is_some()),
            usage: (prompt.is_some() || completion.is_some()).then_some(Usage { prompt, completion }),
            is_usage_alone: frame.given("usage").is_some() && choices.as_ref().is_some_and(Vec::is_empty),
            choices: choices.unwrap_or_default().iter().map(Choice::read).collect(),
            ..Self::default()
        }
    }
}

impl<'a> Choice<'a> {
    fn read(choice: &Object<'a>) -> Self {
        let holder = if choice.given("delta").is_some() { "delta" } else { "message" };
        Self {
            index: choice.count("index").unwrap_or(0),
            message: choice.object(holder),
            finish: choice.text("finish_reason"),
            has_text: choice.get("text").is_some_and(is_something),
        }
    }

    /// Whether it is a part of an answer.
    pub fn says(&self) -> bool {
        self.finish.is_some() || self.has_text || says(&self.message)
    }
}

/// Whether a message says anything.
pub(super) fn says(message: &Object<'_>) -> bool {
    SAID.iter().any(|name| message.get(name).is_some_and(is_something))
}

fn is_something(value: &str) -> bool {
    !matches!(value, "null" | "false" | "\"\"" | "[]" | "{}")
}

/// Words for what went wrong, in the shapes in which engines give them within a stream: `{"error": …}`, which some send with every chunk,
/// `{"object": "error", "message": …}`, `{"detail": …}`.
fn fault(frame: &Object<'_>, is_answer: bool) -> Option<String> {
    let error = frame.get("error").filter(|error| is_something(error));
    let other = || ["message", "detail"].iter().find_map(|name| frame.given(name)).filter(|_| !is_answer);
    error.or_else(other).map(fault_words)
}

/// The words of an error: a text, or an object with a message.
pub(super) fn fault_words(error: &str) -> String {
    let message = || Object::lenient(error)?.text("message");
    let words = super::object::text(error).or_else(message).unwrap_or("no explanation".into());
    words.chars().take(MOST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_odd_takes_nothing_from_what_stands_beside_it() {
        let odd = Chunk::read(
            r#"{"choices":[{"delta":{"content":"x","content":"hay","reasoning":{"a":1}},"index":"0"}],"usage":{"prompt_tokens":7.0}}"#,
        );
        assert_eq!(odd.usage, Some(Usage { prompt: Some(7), completion: None }));
        assert_eq!((odd.choices[0].message.words("content").as_ref(), odd.choices[0].says()), ("hay", true));
        assert!(
            !Chunk::read(r#"{"choices":[{"delta":{"role":"assistant","content":"","tool_calls":[]}}]}"#).choices[0]
                .says()
        );
        assert!(Chunk::read("\u{feff}[DONE] ").is_mark && Chunk::read("{\"choices\"").is_unreadable);
    }

    #[test]
    fn only_a_chunk_without_an_answer_is_usage_alone() {
        for (data, is_alone) in [
            (r#"{"id":"1","choices":[],"usage":{"prompt_tokens":1}}"#, true),
            (r#"{"choices":[],"usage":null}"#, false),
            (r#"{"choices":[],"prompt_filter_results":[]}"#, false),
            (r#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#, false),
            ("[DONE]", false),
        ] {
            assert_eq!(Chunk::read(data).is_usage_alone, is_alone, "{data}");
        }
    }

    #[test]
    fn an_error_is_found_in_each_shape() {
        for (frame, words) in [
            (r#"{"error":{"message":"why"}}"#, Some("why")),
            (r#"{"error":"why"}"#, Some("why")),
            (r#"{"error":{"code":1}}"#, Some("no explanation")),
            (r#"{"object":"error","message":"why","code":500}"#, Some("why")),
            (r#"{"detail":"why"}"#, Some("why")),
            (r#"{"choices":[],"error":false}"#, None),
            (r#"{"choices":[],"error":"","message":"no error"}"#, None),
        ] {
            assert_eq!(Chunk::read(frame).error.as_deref(), words, "{frame}");
        }
    }
}
