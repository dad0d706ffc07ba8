//! What the frames of an answer say: whether anything was answered, how much, and whether the answer is whole.

use super::{
    Operation, Protocol,
    chunk::{Chunk, fault_words, says},
    object::Object,
};

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

impl Meter {
    /// Takes in the data of a frame, or a whole answer.
    pub fn read(&mut self, operation: Operation, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        match (operation, operation.protocol()) {
            (Operation::Responses, _) | (_, Protocol::Anthropic) => self.event(&text),
            (_, Protocol::OpenAi) => self.chunk(&Chunk::read(&text)),
            (_, Protocol::Ollama) => self.record(&text),
        }
    }

    pub(super) fn chunk(&mut self, chunk: &Chunk<'_>) {
        let Chunk { is_mark, is_unreadable: _, error, usage, choices, is_usage_alone: _ } = chunk;
        if let Some(words) = error {
            self.error = Some(words.clone());
        }
        self.usage = usage.unwrap_or(self.usage);
        self.is_whole |= *is_mark || choices.iter().any(|choice| choice.finish.is_some());
        self.parts += u64::from(choices.iter().any(|choice| choice.says()));
    }

    /// Messages and Responses name the kind of each event; a whole answer has the same fields.
    fn event(&mut self, text: &str) {
        let Some(event) = Object::lenient(text) else { return };
        let (message, response) = (event.object("message"), event.object("response"));
        for holder in [&event, &message, &response] {
            let usage = holder.object("usage");
            let [prompt, completion] = ["input_tokens", "output_tokens"].map(|name| usage.count(name));
            self.usage =
                Usage { prompt: prompt.or(self.usage.prompt), completion: completion.or(self.usage.completion) };
        }
        match event.words("type").as_ref() {
            "content_block_delta" => self.parts += 1,
            "message_stop" | "message" | "response.completed" | "response.incomplete" => {
                self.parts += 1;
                self.is_whole = true;
            }
            "error" => self.error = event.given("error").or_else(|| event.given("message")).map(fault_words),
            "response.failed" => self.error = Some(fault_words(response.given("error").unwrap_or("true"))),
            kind if kind.ends_with(".delta") => self.parts += 1,
            _ => {}
        }
    }

    fn record(&mut self, text: &str) {
        let Some(record) = Object::lenient(text) else { return };
        self.error = record.given("error").map(fault_words).or(self.error.take());
        let is_done = record.get("done") == Some("true");
        self.is_whole |= is_done;
        let [prompt, completion] = ["prompt_eval_count", "eval_count"].map(|name| record.count(name));
        if prompt.is_some() || completion.is_some() {
            self.usage = Usage { prompt, completion };
        }
        let has_text = |name| !record.words(name).is_empty();
        let is_part = is_done || says(&record.object("message")) || has_text("response") || has_text("thinking");
        self.parts += u64::from(is_part);
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
