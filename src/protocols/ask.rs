//! What routing needs to know of a request. Only the top level is read; what is not asked about stays bytes.

use serde_json::value::RawValue;

use super::{Operation, object::Object};

/// The names that are read of any request. A name that differs from one of them in case alone is refused: Ollama would read it.
const READ: [&str; 21] = [
    "model",
    "name",
    "stream",
    "stream_options",
    "messages",
    "prompt",
    "suffix",
    "input",
    "images",
    "options",
    "keep_alive",
    "truncate",
    "max_tokens",
    "max_completion_tokens",
    "adapters",
    "draft_model",
    "num_draft_tokens",
    "system",
    "previous_response_id",
    "background",
    "prompt_cache_key",
];

/// A request that can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AskError {
    pub message: String,
    /// The field that is meant.
    pub field: Option<&'static str>,
}

/// What an Ollama request without a prompt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The model is loaded.
    In,
    /// It is unloaded, for everybody.
    Out,
}

/// A request for an inference.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub operation: Operation,
    /// As it was asked for: an alias.
    pub model: String,
    /// The answer comes in frames.
    pub streams: bool,
    pub load: Option<Load>,
    pub(super) object: Object<'a>,
}

impl<'a> Ask<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever sent it.
    pub fn read(operation: Operation, body: &'a [u8]) -> Result<Self, AskError> {
        let object = object(body)?;
        let model = text(&object, "model")?.unwrap_or_default();
        if model.is_empty() {
            return Err(wrong("model", "model is missing: name an alias, as /v1/models lists them"));
        }
        let stream = match object.get("stream") {
            None | Some("null") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(_) => return Err(wrong("stream", "stream must be true or false")),
        };
        if operation == Operation::Responses {
            stateless(&object)?;
        }
        let streams = operation.framing().is_some() && stream.unwrap_or(operation.streams_by_default());
        let load = load(operation, &object);
        Ok(Self { operation, model, streams, load, object })
    }
}

/// The top level of a body, and that no name in it is one that we read in another spelling.
pub(super) fn object(body: &[u8]) -> Result<Object<'_>, AskError> {
    let text =
        std::str::from_utf8(body).map_err(|_| AskError { message: "the body is not UTF-8".into(), field: None })?;
    let object: Object = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| AskError {
        message: format!("the body is not the JSON that is expected: {error}"),
        field: None,
    })?;
    if let Some((name, meant)) = object.disguised(&READ) {
        let message = format!("{name:?} is read as {meant:?} by some engines: write {meant:?}");
        return Err(AskError { message, field: Some(meant) });
    }
    Ok(object)
}

/// Nothing is kept between calls: which server has the next one is not known.
fn stateless(object: &Object) -> Result<(), AskError> {
    for (field, harmless) in [("previous_response_id", "null"), ("background", "false")] {
        if object.get(field).is_some_and(|value| value != harmless && value != "null") {
            return Err(wrong(
                field,
                &format!("{field}: nothing is kept between calls here; send the whole conversation"),
            ));
        }
    }
    Ok(())
}

fn wrong(field: &'static str, message: &str) -> AskError {
    AskError { message: message.to_owned(), field: Some(field) }
}

/// A field that must be a text where it is there.
pub(super) fn text(object: &Object, field: &'static str) -> Result<Option<String>, AskError> {
    match object.get(field) {
        None | Some("null") => Ok(None),
        Some(value) => {
            serde_json::from_str(value).map(Some).map_err(|_| wrong(field, &format!("{field} must be a text")))
        }
    }
}

/// Ollama takes a request without a prompt as a wish to load the model, or with `keep_alive: 0` to unload it.
fn load(operation: Operation, object: &Object) -> Option<Load> {
    let asks_nothing = match operation {
        Operation::OllamaChat => object.get("messages").is_none_or(is_empty),
        Operation::OllamaGenerate => {
            ["prompt", "suffix", "images"].iter().all(|field| object.get(field).is_none_or(is_empty))
        }
        _ => false,
    };
    asks_nothing.then(|| if object.get("keep_alive").is_some_and(is_no_time) { Load::Out } else { Load::In })
}

pub(super) fn is_empty(value: &str) -> bool {
    match value {
        "null" | "\"\"" => true,
        list => serde_json::from_str::<Vec<&RawValue>>(list).is_ok_and(|items| items.is_empty()),
    }
}

/// `0`, `0.0`, `"0"`, `"0s"`, `"0m"`.
fn is_no_time(value: &str) -> bool {
    let text = value.trim_matches('"');
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    digits.parse::<f64>().is_ok_and(|time| time == 0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(operation: Operation, body: &str) -> Result<(String, bool, Option<Load>), String> {
        Ask::read(operation, body.as_bytes())
            .map(|ask| (ask.model, ask.streams, ask.load))
            .map_err(|error| error.message)
    }

    #[test]
    fn routing_is_read_from_the_top_level() {
        use Operation::{ChatCompletions, Embeddings, OllamaChat, OllamaEmbed, OllamaGenerate};
        let model = || "m".to_owned();
        for (operation, body, expected) in [
            (ChatCompletions, r#"{"model":"m","messages":[]}"#, (model(), false, None)),
            (ChatCompletions, r#"{"model":"m","stream":true}"#, (model(), true, None)),
            (Embeddings, r#"{"model":"m","input":"x","stream":true}"#, (model(), false, None)),
            (OllamaChat, r#"{"model":"m","messages":[{"role":"user"}]}"#, (model(), true, None)),
            (OllamaChat, r#"{"model":"m","messages":[ ]}"#, (model(), true, Some(Load::In))),
            (OllamaChat, r#"{"model":"m","stream":null,"keep_alive":0}"#, (model(), true, Some(Load::Out))),
            (OllamaGenerate, r#"{"model":"m","prompt":"","keep_alive":"0s"}"#, (model(), true, Some(Load::Out))),
            (OllamaGenerate, r#"{"model":"m","prompt":"","keep_alive":"5m"}"#, (model(), true, Some(Load::In))),
            (OllamaGenerate, r#"{"model":"m","prompt":"","images":["x"]}"#, (model(), true, None)),
            (OllamaGenerate, r#"{"model":"m","prompt":"x","stream":false}"#, (model(), false, None)),
            (OllamaEmbed, r#"{"model":"m"}"#, (model(), false, None)),
        ] {
            assert_eq!(read(operation, body), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_two_readers_would_read_differently_is_refused() {
        for (body, words) in [
            (r#"{"model":"m","Model":"other"}"#, "is read as \"model\""),
            (r#"{"model":"m","\u212aeep_alive":0}"#, "is read as \"keep_alive\""),
            (r#"{"model":"m","model":"m"}"#, "stands twice"),
            (r#"{"model":7}"#, "must be a text"),
            (r#"{"model":"m","stream":"yes"}"#, "must be true or false"),
            (r#"{"messages":[]}"#, "model is missing"),
            ("[]", "not the JSON"),
            ("{\"model\":\"m\"", "not the JSON"),
        ] {
            let error = read(Operation::ChatCompletions, body).unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
        }
        assert!(Ask::read(Operation::ChatCompletions, b"\xff").is_err());
        for (body, is_stateless) in [
            (r#"{"model":"m","previous_response_id":null,"background":false}"#, true),
            (r#"{"model":"m","previous_response_id":"resp_1"}"#, false),
            (r#"{"model":"m","background":true}"#, false),
        ] {
            assert_eq!(read(Operation::Responses, body).is_ok(), is_stateless, "{body}");
        }
    }

    proptest! {
        #[test]
        fn any_spelling_of_a_name_that_is_read_is_refused_but_its_own(name in 0..READ.len(), upper in any::<u32>()) {
            let spelled: String = READ[name]
                .chars()
                .enumerate()
                .map(|(at, letter)| if upper >> (at % 32) & 1 == 1 { letter.to_ascii_uppercase() } else { letter })
                .collect();
            let body = format!(r#"{{"model":"m","{spelled}":null}}"#);
            let refused = Ask::read(Operation::ChatCompletions, body.as_bytes()).is_err();
            prop_assert_eq!(refused, spelled != READ[name] || spelled == "model");
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for operation in Operation::ALL {
                let _ = Ask::read(operation, &body);
            }
        }
    }
}
