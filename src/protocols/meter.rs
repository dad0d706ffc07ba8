//! What the frames of an answer say: whether anything was answered, how much, and whether the answer is whole.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Operation, Protocol};

/// Tokens as the engine counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: Option<u64>,
    pub completion: Option<u64>,
}

/// Reads the frames of one answer.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// Frames with a part of the answer.
    pub parts: u64,
    pub usage: Usage,
    /// The mark of a whole answer came, or a reason why it ended.
    pub is_whole: bool,
    /// The engine's own words for what went wrong within the stream.
    pub error: Option<String>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Counts>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Said>,
    #[serde(default)]
    message: Option<Said>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<Value>,
    #[serde(default)]
    reasoning: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    message: Option<Said>,
    #[serde(default)]
    response: Option<String>,
    #[serde(default)]
    thinking: Option<String>,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
    #[serde(default)]
    error: Option<Value>,
}

impl Said {
    fn has_content(&self) -> bool {
        let text = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let content = self.content.as_ref().is_some_and(|content| content != "" && !content.is_null());
        let thought = [&self.reasoning, &self.reasoning_content, &self.thinking].into_iter().any(text);
        content || thought || self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
    }
}

impl Meter {
    /// Takes in the data of a frame, or a whole answer.
    pub fn read(&mut self, operation: Operation, data: &[u8]) {
        match operation.protocol() {
            Protocol::OpenAi | Protocol::Anthropic => self.chunk(data),
            Protocol::Ollama => self.record(data),
        }
    }

    fn chunk(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.is_whole = true;
            return;
        }
        let Ok(Chunk { choices, usage, error }) = serde_json::from_slice::<Chunk>(data) else { return };
        self.fault(error);
        if let Some(Counts { prompt_tokens, completion_tokens }) = usage {
            self.usage = Usage { prompt: prompt_tokens, completion: completion_tokens };
        }
        let says = |choice: &Choice| {
            let said = choice.delta.as_ref().or(choice.message.as_ref()).is_some_and(Said::has_content);
            said || choice.text.as_deref().is_some_and(|text| !text.is_empty()) || choice.finish_reason.is_some()
        };
        let choices = choices.unwrap_or_default();
        self.is_whole |= choices.iter().any(|choice| choice.finish_reason.is_some());
        if choices.iter().any(says) {
            self.parts += 1;
        }
    }

    fn record(&mut self, data: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
        self.fault(record.error);
        let text = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
        self.is_whole |= record.done;
        if record.prompt_eval_count.is_some() || record.eval_count.is_some() {
            self.usage = Usage { prompt: record.prompt_eval_count, completion: record.eval_count };
        }
        if record.done
            || record.message.is_some_and(|said| said.has_content())
            || text(record.response)
            || text(record.thinking)
        {
            self.parts += 1;
        }
    }

    fn fault(&mut self, error: Option<Value>) {
        let Some(error) = error.filter(|error| !error.is_null()) else { return };
        let words = error.as_str().or_else(|| error.get("message")?.as_str()).unwrap_or("no explanation");
        self.error = Some(words.chars().take(300).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(operation: Operation, frames: &[&str]) -> Meter {
        let mut meter = Meter::default();
        frames.iter().for_each(|frame| meter.read(operation, frame.as_bytes()));
        meter
    }

    #[test]
    fn parts_counts_ends_and_errors_are_read_in_each_protocol() {
        let chat = metered(
            Operation::ChatCompletions,
            &[
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
                r#"{"choices":[{"delta":{"content":"a"}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{}]}}]}"#,
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
                "not JSON",
                "[DONE]",
            ],
        );
        assert_eq!((chat.parts, chat.is_whole), (3, true));
        assert_eq!(chat.usage, Usage { prompt: Some(7), completion: Some(2) });
        let ollama = metered(
            Operation::OllamaChat,
            &[
                r#"{"message":{"role":"assistant","content":"a"},"done":false}"#,
                r#"{"message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":3,"eval_count":1}"#,
            ],
        );
        assert_eq!((ollama.parts, ollama.is_whole), (2, true));
        assert_eq!(ollama.usage, Usage { prompt: Some(3), completion: Some(1) });
        let cut = metered(Operation::OllamaGenerate, &[r#"{"response":"a","done":false}"#]);
        assert_eq!((cut.parts, cut.is_whole), (1, false));
        for (operation, frame) in [
            (Operation::ChatCompletions, r#"{"error":{"message":"the runner died"}}"#),
            (Operation::OllamaChat, r#"{"error":"the runner died"}"#),
        ] {
            assert_eq!(metered(operation, &[frame]).error.as_deref(), Some("the runner died"));
        }
    }
}
