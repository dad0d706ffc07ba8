//! Signs of life: what a client of each protocol takes for nothing while it waits. Not a comment or an empty line where an event or a
//! record will do: some clients drop those without a look at their clock, or fail at them.

use jiff::Timestamp;
use serde_json::json;

use super::Operation;

/// The sign that comes before the first frame of an answer to Responses. OpenAI's own SDKs take no event in front of `response.created`, and
/// all ids of an answer must be one, which is the engine's to give. Whoever counts events alone (Codex) needs a [`beat`] now and then.
pub fn early_beat(operation: Operation) -> Option<&'static str> {
    (operation == Operation::Responses).then_some(": waiting\n\n")
}

/// A frame that changes nothing; `None`: there is none in this protocol.
pub fn beat(operation: Operation, id: &str, model: &str, now: Timestamp) -> Option<String> {
    let created = now.as_second();
    match operation {
        Operation::ChatCompletions => Some(event(&json!({
            "id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "created": created, "model": model,
            "choices": [{"index": 0, "delta": {}, "finish_reason": null}],
        }))),
        Operation::Completions => Some(event(&json!({
            "id": format!("cmpl-{id}"), "object": "text_completion", "created": created, "model": model,
            "choices": [{"index": 0, "text": "", "logprobs": null, "finish_reason": null}],
        }))),
        Operation::Messages => Some(named_event("ping", &json!({"type": "ping"}))),
        Operation::Responses => Some(named_event("keepalive", &json!({"type": "keepalive"}))),
        Operation::OllamaChat => Some(line(&json!({
            "model": model, "created_at": now.to_string(), "message": {"role": "assistant", "content": ""}, "done": false,
        }))),
        Operation::OllamaGenerate => {
            Some(line(&json!({"model": model, "created_at": now.to_string(), "response": "", "done": false})))
        }
        Operation::Embeddings | Operation::OllamaEmbed | Operation::OllamaEmbeddings => None,
    }
}

/// Ollama's answer to a wish to unload a model, which is not done: others use it.
pub fn loaded(operation: Operation, model: &str, now: Timestamp) -> String {
    let mut answer = json!({"model": model, "created_at": now.to_string(), "done": true, "done_reason": "unload"});
    match operation {
        Operation::OllamaChat => answer["message"] = json!({"role": "assistant", "content": ""}),
        _ => answer["response"] = "".into(),
    }
    line(&answer)
}

pub(super) fn event(data: &serde_json::Value) -> String {
    format!("data: {data}\n\n")
}

pub(super) fn named_event(name: &str, data: &serde_json::Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

pub(super) fn line(record: &serde_json::Value) -> String {
    format!("{record}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::{FrameSplitter, Framing, Meter};

    #[test]
    fn a_sign_of_life_is_a_whole_frame_and_no_part_of_an_answer() {
        let mut streamed = 0;
        for operation in Operation::ALL {
            let beat = beat(operation, "id", "small", Timestamp::UNIX_EPOCH);
            assert_eq!(beat.is_some(), operation.framing().is_some());
            let (Some(beat), Some(framing)) = (beat, operation.framing()) else { continue };
            let (mut splitter, mut meter) = (FrameSplitter::new(framing), Meter::default());
            splitter.push(beat.as_bytes(), |_, data| meter.read(operation, data.expect("short")));
            assert!(splitter.is_between(), "{beat}");
            assert_eq!((meter.parts, meter.is_whole, meter.error), (0, false, None), "{beat}");
            streamed += 1;
        }
        assert_eq!(streamed, 6);
        let early = early_beat(Operation::Responses).unwrap();
        let (mut splitter, mut data) = (FrameSplitter::new(Framing::Sse), Vec::new());
        splitter.push(early.as_bytes(), |_, read| data.push(read.map(<[u8]>::to_vec)));
        assert_eq!((splitter.is_between(), data), (true, vec![Some(Vec::new())]), "a frame without data");
    }
}
