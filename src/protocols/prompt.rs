//! What a request's prompt is: how long, of which texts, and whether it shows pictures.

use serde_json::value::RawValue;

use super::{Ask, Operation, Tokenizer, USUAL_BYTES_PER_TOKEN, ask::is_empty, object::Object, prompt_cut};

impl Ask<'_> {
    /// Bytes of its prompt, as it is written in JSON.
    pub fn prompt_bytes(&self) -> usize {
        const PROMPT: [&str; 7] = ["messages", "prompt", "suffix", "input", "system", "instructions", "tools"];
        PROMPT.iter().filter_map(|field| self.object.get(field)).map(str::len).sum()
    }

    /// Tokens of its prompt, where no engine counted them.
    pub fn prompt_estimate(&self) -> u64 {
        (self.prompt_bytes() as f64 / USUAL_BYTES_PER_TOKEN).ceil() as u64
    }

    /// Says so when an engine counted so few tokens that it read a part of the prompt only.
    pub fn cut(&self, counted: Option<u64>) -> Option<String> {
        // A token has four bytes of a lower bound at least: most prompts need not be read again.
        if counted.is_none_or(|counted| self.prompt_bytes() as u64 / 4 <= counted) {
            return None;
        }
        let tokenizer = match self.operation {
            Operation::Embeddings | Operation::OllamaEmbed | Operation::OllamaEmbeddings => Tokenizer::Embedding,
            _ => Tokenizer::Chat,
        };
        let texts = self.texts();
        prompt_cut(tokenizer, texts.iter().map(String::as_str), counted)
    }

    /// Its fields by name, without those that change nothing of an answer.
    pub fn meaning(&self) -> Vec<(&str, &str)> {
        const NOTHING: [&str; 9] = [
            "model",
            "stream",
            "user",
            "metadata",
            "prompt_cache_key",
            "safety_identifier",
            "store",
            "service_tier",
            "keep_alive",
        ];
        let mut fields: Vec<_> = self.object.fields().filter(|(name, _)| !NOTHING.contains(name)).collect();
        fields.sort_unstable();
        fields
    }

    /// What tells a conversation from others: what its client says, else how it begins. None: it is none.
    pub fn conversation(&self) -> Option<Vec<&str>> {
        if let Some(key) = self.object.get("prompt_cache_key").filter(|key| *key != "null") {
            return Some(vec![key]);
        }
        let said = self
            .object
            .get("messages")
            .or_else(|| self.object.get("input").filter(|_| self.operation == Operation::Responses))?;
        let mut begin: Vec<&str> =
            ["system", "instructions"].iter().filter_map(|field| self.object.get(field)).collect();
        let Ok(messages) = serde_json::from_str::<Vec<&RawValue>>(said) else {
            begin.push(said);
            return Some(begin);
        };
        for message in messages {
            begin.push(message.get());
            if serde_json::from_str::<Object>(message.get())
                .is_ok_and(|message| message.get("role") == Some("\"user\""))
            {
                break;
            }
        }
        Some(begin)
    }

    /// Texts that a model is shown, whatever its template. What it said itself may be left out of later turns.
    fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for field in ["system", "instructions", "prompt", "input"] {
            if let Some(value) = self.object.get(field) {
                collect(value, &mut texts);
            }
        }
        let messages = self.object.get("messages").and_then(|list| serde_json::from_str::<Vec<Object>>(list).ok());
        for message in messages.unwrap_or_default() {
            if message.get("role") != Some("\"assistant\"")
                && let Some(content) = message.get("content")
            {
                collect(content, &mut texts);
            }
        }
        texts
    }

    /// Whether it shows pictures, which text engines refuse in ways of their own.
    pub fn has_images(&self) -> bool {
        if self.object.get("images").is_some_and(|images| !is_empty(images)) {
            return true;
        }
        // Of Responses, what is said before stands in `input`.
        let said = ["messages", "input"].iter().filter_map(|field| self.object.get(field));
        let mut messages = said.filter_map(|list| serde_json::from_str::<Vec<&RawValue>>(list).ok()).flatten();
        messages.any(|message| shows_image(message.get()))
    }
}

/// A text, or the texts of a list: plain ones, and the `text` of its parts.
fn collect(value: &str, texts: &mut Vec<String>) {
    if let Ok(text) = serde_json::from_str::<String>(value) {
        return texts.push(text);
    }
    for part in serde_json::from_str::<Vec<&RawValue>>(value).unwrap_or_default() {
        let part = part.get();
        let text = match serde_json::from_str::<Object>(part) {
            Ok(part) if part.get("role") == Some("\"assistant\"") => None,
            Ok(part) => match part.get("text") {
                Some(text) => serde_json::from_str(text).ok(),
                // A message of Responses.
                None => {
                    if let Some(content) = part.get("content") {
                        collect(content, texts);
                    }
                    None
                }
            },
            Err(_) => serde_json::from_str(part).ok(),
        };
        texts.extend(text);
    }
}

fn shows_image(message: &str) -> bool {
    let Ok(message) = serde_json::from_str::<Object>(message) else { return false };
    if message.get("images").is_some_and(|images| !is_empty(images)) {
        return true;
    }
    has_picture(&message, 0)
}

/// Whether a part of its content, or of what a tool gave in it, is a picture.
fn has_picture(holder: &Object, depth: usize) -> bool {
    const DEEPEST: usize = 2;
    let lists = ["content", "output"].iter().filter_map(|field| holder.get(field)).filter(|list| list.starts_with('['));
    let mut parts = lists.filter_map(|list| serde_json::from_str::<Vec<Object>>(list).ok()).flatten();
    parts.any(|part| {
        matches!(part.get("type"), Some("\"image_url\"" | "\"input_image\"" | "\"image\""))
            || depth < DEEPEST && has_picture(&part, depth + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_seen() {
        for (body, shows) in [
            (r#"{"model":"m","messages":[{"role":"user","content":"an image_url"}]}"#, false),
            (r#"{"model":"m","messages":[{"content":[{"type":"text","text":"x"}]}]}"#, false),
            (r#"{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{}}]}]}"#, true),
            (r#"{"model":"m","messages":[{"content":"x","images":["aGk="]}]}"#, true),
            (r#"{"model":"m","messages":[{"content":"x","images":[]}]}"#, false),
            (r#"{"model":"m","images":["aGk="]}"#, true),
            (r#"{"model":"m","input":[{"content":[{"type":"input_image"}]}]}"#, true),
            (r#"{"model":"m","input":[{"type":"function_call_output","output":[{"type":"input_image"}]}]}"#, true),
            (r#"{"model":"m","input":"an image_url"}"#, false),
            (r#"{"model":"m","messages":[{"content":[{"type":"tool_result","content":[{"type":"image"}]}]}]}"#, true),
        ] {
            let ask = Ask::read(Operation::ChatCompletions, body.as_bytes()).unwrap();
            assert_eq!(ask.has_images(), shows, "{body}");
        }
    }

    #[test]
    fn a_conversation_is_known_by_how_it_begins() {
        let of = |operation, body: &str| -> Option<Vec<String>> {
            let ask = Ask::read(operation, body.as_bytes()).unwrap();
            ask.conversation().map(|parts| parts.into_iter().map(str::to_owned).collect())
        };
        let turn =
            |more: &str| format!(r#"{{"model":"m","system":"s","messages":[{{"role":"user","content":"a"}}{more}]}}"#);
        let first = of(Operation::Messages, &turn(""));
        let second =
            of(Operation::Messages, &turn(r#",{"role":"assistant","content":"b"},{"role":"user","content":"c"}"#));
        assert!(first.is_some() && first == second, "{first:?} {second:?}");
        assert_ne!(first, of(Operation::Messages, &turn("").replace("\"a\"", "\"b\"")));
        let cached = |said: &str| format!(r#"{{"model":"m","prompt_cache_key":"k","input":"{said}"}}"#);
        assert_eq!(of(Operation::Responses, &cached("a")), of(Operation::Responses, &cached("b")));
        assert_eq!(of(Operation::Responses, r#"{"model":"m","input":"a"}"#), Some(vec!["\"a\"".to_owned()]));
        assert_eq!(of(Operation::Embeddings, r#"{"model":"m","input":"a"}"#), None);
        assert_eq!(of(Operation::Completions, r#"{"model":"m","prompt":"a"}"#), None);
    }

    #[test]
    fn texts_are_those_that_a_model_is_shown_and_a_cut_prompt_is_found() {
        for (operation, body, texts) in [
            (
                Operation::ChatCompletions,
                r#"{"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"},
                {"type":"image_url","image_url":{"url":"data:x"}}]},{"role":"assistant","content":"not this"}]}"#,
                vec!["a", "b"],
            ),
            (Operation::Completions, r#"{"model":"m","prompt":["a","b"]}"#, vec!["a", "b"]),
            (Operation::Completions, r#"{"model":"m","prompt":[1,2]}"#, vec![]),
            (
                Operation::Responses,
                r#"{"model":"m","instructions":"a","input":[{"role":"user","content":[{"type":"input_text","text":"b"}]},
                {"role":"assistant","content":[{"type":"output_text","text":"not this"}]}]}"#,
                vec!["a", "b"],
            ),
            (
                Operation::Messages,
                r#"{"model":"m","system":[{"type":"text","text":"a"}],"messages":[{"role":"user","content":"b"}]}"#,
                vec!["a", "b"],
            ),
            (Operation::OllamaEmbed, r#"{"model":"m","input":"a"}"#, vec!["a"]),
        ] {
            assert_eq!(Ask::read(operation, body.as_bytes()).unwrap().texts(), texts, "{body}");
        }
        let long =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, "hay oats ".repeat(2_000));
        let ask = Ask::read(Operation::ChatCompletions, long.as_bytes()).unwrap();
        assert!(ask.cut(Some(512)).is_some_and(|why| why.contains("512")), "four thousand words");
        assert_eq!((ask.cut(Some(4_000)), ask.cut(Some(0)), ask.cut(None)), (None, None, None));
    }
}
