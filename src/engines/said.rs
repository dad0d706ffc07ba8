//! What one record of an answer says, in whichever of the servers' forms. Pure.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::Value;

/// Longest reason of an end that is kept.
const MOST_REASON_CHARS: usize = 40;

/// What an engine counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    /// Of the answer.
    pub(super) tokens: Option<u32>,
    pub(super) prompt_tokens: Option<u32>,
    pub(super) per_token: Option<Duration>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerWords<'a> {
    pub(super) content: Option<Cow<'a, str>>,
    pub(super) reasoning: Option<&'a str>,
    pub(super) tool_calls: Vec<Tool>,
    pub(super) finish: Option<String>,
    /// Ollama's last record, after which nothing comes.
    pub(super) done: bool,
    /// A whole message, not a piece of one.
    pub(super) whole: bool,
    pub(super) counts: Counts,
}

/// A tool call, or a piece of the one with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Whole,
    Piece(u32),
}

impl ServerWords<'_> {
    pub(super) fn has_token(&self) -> bool {
        self.content.is_some() || self.reasoning.is_some() || !self.tool_calls.is_empty()
    }
}

pub(super) fn read(record: &Value) -> ServerWords<'_> {
    let choice = record.pointer("/choices/0").filter(|choice| choice.is_object());
    let present = |part: &&Value| !part.is_null();
    let delta = choice.and_then(|choice| choice.get("delta")).filter(present);
    let message = choice.unwrap_or(record).get("message").filter(present);
    // A server that sends both fills one.
    let part = delta.filter(|delta| says_something(delta)).or(message).or(delta);
    let text = |key: &str| part.and_then(|part| part.get(key)?.as_str()).filter(|text| !text.is_empty());
    let plain = choice.map_or_else(|| record.get("response"), |choice| choice.get("text"));
    let done = choice.is_none() && record.get("done").and_then(Value::as_bool) == Some(true);
    ServerWords {
        content: part
            .and_then(|part| content(part.get("content")?))
            .or_else(|| plain.and_then(content))
            .filter(|text| !text.is_empty()),
        reasoning: text("reasoning_content").or_else(|| text("reasoning")).or_else(|| text("thinking")),
        tool_calls: part.map(tool_calls).unwrap_or_default(),
        finish: finish(choice, record, done),
        done,
        whole: choice.is_some() && delta.is_none() && message.is_some(),
        counts: counts(record),
    }
}

fn says_something(part: &Value) -> bool {
    let keys = ["content", "reasoning", "reasoning_content", "thinking", "tool_calls"];
    keys.iter().any(|key| part.get(key).is_some_and(|value| !value.is_null() && value != ""))
}

/// Text, or a list of parts with text.
fn content(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Array(parts) => {
            Some(Cow::Owned(parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<String>()))
        }
        _ => None,
    }
}

fn tool_calls(part: &Value) -> Vec<Tool> {
    let listed = part.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let index = |call: &Value| call.get("index").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let mut calls: Vec<Tool> = listed.iter().map(|call| index(call).map_or(Tool::Whole, Tool::Piece)).collect();
    if part.get("function_call").is_some_and(Value::is_object) {
        calls.push(Tool::Piece(0));
    }
    calls
}

fn finish(choice: Option<&Value>, record: &Value, done: bool) -> Option<String> {
    let reason = match choice {
        Some(choice) => choice.get("finish_reason"),
        None => record.get("done_reason").filter(|_| done),
    };
    let reason = reason.and_then(Value::as_str).filter(|reason| !reason.is_empty());
    reason.or(done.then_some("stop")).map(|reason| reason.chars().take(MOST_REASON_CHARS).collect())
}

/// OpenAI's `usage`, or what Ollama's last record counts.
fn counts(record: &Value) -> Counts {
    let number = |place: &str| record.pointer(place).and_then(Value::as_u64);
    let short = |place: &str| number(place).and_then(|n| u32::try_from(n).ok());
    let tokens = short("/usage/completion_tokens").or_else(|| short("/eval_count"));
    let per_token = short("/eval_count")
        .zip(number("/eval_duration"))
        .filter(|(count, _)| *count > 0)
        .map(|(count, nanos)| Duration::from_nanos(nanos) / count);
    // Some count what they had cached apart, some within.
    let cached = short("/usage/prompt_tokens_details/cached_tokens");
    let prompt_tokens = short("/usage/prompt_tokens").map(|n| n.max(cached.unwrap_or(0)));
    Counts { tokens, prompt_tokens: prompt_tokens.or_else(|| short("/prompt_eval_count")), per_token }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_an_answer_is_read() {
        let text = |text| ServerWords { content: Some(Cow::Borrowed(text)), ..ServerWords::default() };
        let reasoning = || ServerWords { reasoning: Some("a"), ..ServerWords::default() };
        let tools = |calls: &[Tool]| ServerWords { tool_calls: calls.to_vec(), ..ServerWords::default() };
        let ended = |reason: &str| ServerWords { finish: Some(reason.into()), ..ServerWords::default() };
        let cases = [
            (json!({}), ServerWords::default()),
            (json!({"choices": [{"delta": {"role": "assistant"}}]}), ServerWords::default()),
            (json!({"choices": [{"delta": {"content": ""}}]}), ServerWords::default()),
            (json!({"choices": [{"delta": {"content": "a"}}]}), text("a")),
            (
                json!({"choices": [{"delta": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}),
                text("ab"),
            ),
            (json!({"choices": [{"text": "a", "finish_reason": null}]}), text("a")),
            (json!({"choices": [{"message": {"content": "a"}}]}), ServerWords { whole: true, ..text("a") }),
            (json!({"choices": [{"delta": {}, "message": {"content": "a"}}]}), text("a")),
            (
                json!({"choices": [{"delta": null, "message": {"content": "a"}}]}),
                ServerWords { whole: true, ..text("a") },
            ),
            (json!({"message": {"content": "a"}, "done": false}), text("a")),
            (json!({"response": "a", "done": false}), text("a")),
            (json!({"choices": [{"delta": {"reasoning": "a"}}]}), reasoning()),
            (json!({"choices": [{"delta": {"reasoning_content": "a", "content": null}}]}), reasoning()),
            (json!({"message": {"thinking": "a", "content": ""}}), reasoning()),
            (json!({"choices": [{"delta": {"tool_calls": [{"index": 1}]}}]}), tools(&[Tool::Piece(1)])),
            (json!({"choices": [{"delta": {"function_call": {"name": "f"}}}]}), tools(&[Tool::Piece(0)])),
            (json!({"message": {"tool_calls": [{}, {}]}}), tools(&[Tool::Whole, Tool::Whole])),
            (json!({"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}), ended("stop")),
            (json!({"choices": [{"delta": {}, "finish_reason": ""}]}), ServerWords::default()),
            (json!({"done": true, "done_reason": "length"}), ServerWords { done: true, ..ended("length") }),
            (json!({"done": true}), ServerWords { done: true, ..ended("stop") }),
        ];
        for (record, said) in cases {
            assert_eq!(read(&record), said, "{record}");
        }
    }

    #[test]
    fn the_engines_own_counts_are_noted() {
        let usage = json!({"choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 9}});
        let expected = Counts { tokens: Some(3), prompt_tokens: Some(9), per_token: None };
        assert_eq!(read(&usage).counts, expected);
        let cached = json!({"usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 800}}});
        assert_eq!(read(&cached).counts.prompt_tokens, Some(800));
        let ollama = json!({"done": true, "eval_count": 4, "eval_duration": 8_000_000, "prompt_eval_count": 9});
        let two = Some(Duration::from_millis(2));
        assert_eq!(read(&ollama).counts, Counts { tokens: Some(4), prompt_tokens: Some(9), per_token: two });
        let none = Counts { tokens: Some(0), ..Counts::default() };
        assert_eq!(read(&json!({"eval_count": 0, "eval_duration": 5})).counts, none);
    }
}
