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
    /// Of errors in other shapes: `{"object": "error", "message": …}`, `{"detail": …}`, what stands behind `event: error`.
    #[serde(default)]
    message: Option<Value>,
    #[serde(default)]
    detail: Option<Value>,
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

#[derive(Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    usage: Option<Value>,
    /// Of Anthropic's first event the message, of OpenAI's errors the words.
    #[serde(default)]
    message: Option<Value>,
    #[serde(default)]
    response: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

/// Some engines send the field with every chunk.
fn is_error(error: &Value) -> bool {
    !matches!(error, Value::Null | Value::Bool(false)) && *error != ""
}

fn spent(usage: &Value) -> Option<Usage> {
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    let usage = Usage { prompt: count("input_tokens"), completion: count("output_tokens") };
    (usage != Usage::default()).then_some(usage)
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
        match (operation, operation.protocol()) {
            (Operation::Responses, _) | (_, Protocol::Anthropic) => self.event(data),
            (_, Protocol::OpenAi) => self.chunk(data),
            (_, Protocol::Ollama) => self.record(data),
        }
    }

    fn chunk(&mut self, data: &[u8]) {
        if data.trim_ascii() == b"[DONE]" {
            self.is_whole = true;
            return;
        }
        let Ok(Chunk { choices, usage, error, message, detail }) = serde_json::from_slice::<Chunk>(data) else {
            return self.odd_chunk(data);
        };
        let other = if choices.is_none() { message.or(detail) } else { None };
        self.fault(error.filter(is_error).or(other));
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

    /// A chunk in which something is of another type than it should be: that it says anything counts.
    fn odd_chunk(&mut self, data: &[u8]) {
        let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return };
        let choices = chunk["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ends = choices.iter().any(|choice| choice["finish_reason"].is_string());
        let says =
            |holder: &Value| holder.as_object().is_some_and(|fields| fields.values().any(|value| !value.is_null()));
        self.is_whole |= ends;
        if ends || choices.iter().any(|choice| says(&choice["delta"]) || says(&choice["message"])) {
            self.parts += 1;
        }
    }

    /// Messages and Responses name the kind of each event; a whole answer has the same fields.
    fn event(&mut self, data: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(data) else { return };
        let within = |holder: &Option<Value>| holder.as_ref().and_then(|holder| holder.get("usage")).and_then(spent);
        let spent =
            event.usage.as_ref().and_then(spent).or_else(|| within(&event.message)).or_else(|| within(&event.response));
        if let Some(Usage { prompt, completion }) = spent {
            self.usage =
                Usage { prompt: prompt.or(self.usage.prompt), completion: completion.or(self.usage.completion) };
        }
        match event.kind.as_str() {
            "content_block_delta" => self.parts += 1,
            "message_stop" | "message" | "response.completed" | "response.incomplete" => {
                self.parts += 1;
                self.is_whole = true;
            }
            "error" => self.fault(event.error.or(event.message)),
            "response.failed" => {
                let error = event.response.as_ref().and_then(|response| response.get("error")).cloned();
                self.fault(Some(error.unwrap_or(Value::Bool(true))));
            }
            kind if kind.ends_with(".delta") => self.parts += 1,
            _ => {}
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
        let messages = metered(
            Operation::Messages,
            &[
                r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":0}}}"#,
                r#"{"type":"ping"}"#,
                r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":4}}"#,
                r#"{"type":"message_stop"}"#,
            ],
        );
        assert_eq!((messages.parts, messages.is_whole), (2, true));
        assert_eq!(messages.usage, Usage { prompt: Some(9), completion: Some(4) });
        let responses = metered(
            Operation::Responses,
            &[
                r#"{"type":"response.created","response":{"usage":null}}"#,
                r#"{"type":"response.output_text.delta","delta":"a"}"#,
                r#"{"type":"response.completed","response":{"usage":{"input_tokens":2,"output_tokens":3}}}"#,
            ],
        );
        assert_eq!((responses.parts, responses.is_whole), (2, true));
        assert_eq!(responses.usage, Usage { prompt: Some(2), completion: Some(3) });
        let cut = metered(Operation::OllamaGenerate, &[r#"{"response":"a","done":false}"#]);
        assert_eq!((cut.parts, cut.is_whole), (1, false));
        let odd = metered(
            Operation::ChatCompletions,
            &[
                r#"{"choices":[{"delta":{"content":"a","reasoning":{"b":1}}}]}"#,
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7.0}}"#,
            ],
        );
        assert_eq!((odd.parts, odd.is_whole), (2, true), "what is odd is an answer all the same");
        let well = metered(Operation::ChatCompletions, &[r#"{"choices":[],"error":false}"#, "[DONE] "]);
        assert_eq!((well.error, well.is_whole), (None, true));
        for (operation, frame) in [
            (Operation::ChatCompletions, r#"{"error":{"message":"the runner died"}}"#),
            (Operation::ChatCompletions, r#"{"object":"error","message":"the runner died"}"#),
            (Operation::ChatCompletions, r#"{"detail":"the runner died"}"#),
            (Operation::OllamaChat, r#"{"error":"the runner died"}"#),
            (Operation::Messages, r#"{"type":"error","error":{"type":"api_error","message":"the runner died"}}"#),
            (Operation::Responses, r#"{"type":"error","code":null,"message":"the runner died"}"#),
            (Operation::Responses, r#"{"type":"response.failed","response":{"error":{"message":"the runner died"}}}"#),
        ] {
            assert_eq!(metered(operation, &[frame]).error.as_deref(), Some("the runner died"));
        }
    }
}
