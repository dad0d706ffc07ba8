//! What an engine is sent: the request with the engine's own name of the model, and without what one caller must not change for all.

use std::borrow::Cow;

use serde_json::{Value, value::RawValue};

use super::{
    Ask, AskError, Operation, Protocol,
    object::{Object, ObjectWriter},
};
use crate::api::EngineKind;

/// Options of an Ollama request that make it load the model anew, for everybody (`NeedsReload` of its scheduler).
const RUNNER: [&str; 8] =
    ["num_ctx", "num_batch", "num_gpu", "num_thread", "main_gpu", "use_mmap", "low_vram", "vocab_only"];
/// Fields that make mlx_lm drop the model that it has loaded, or fetch another one.
const MLX_MODEL: [&str; 3] = ["adapters", "draft_model", "num_draft_tokens"];
/// What MLX may say where nobody bounds it: its own default is 512, which cuts answers.
const MLX_TOKENS: &str = "16384";

/// The body for an engine that knows the model by this name. Values that nobody has to change are the bytes that came.
///
/// # Errors
/// What the engine could not be asked.
pub fn edited(ask: &Ask<'_>, engine: EngineKind, model: &str) -> Result<String, AskError> {
    let size: usize = ask.object.fields().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut out = ObjectWriter::new(size + model.len());
    let ollama = ask.operation.protocol() == Protocol::Ollama;
    let usage = ask.usage_options();
    for (name, value) in ask.object.fields() {
        let value = match name {
            "model" => Cow::Owned(Value::from(model).to_string()),
            // How long a model stays is declared, for all who use it.
            "stream_options" if usage.is_some() => continue,
            "keep_alive" if engine == EngineKind::Ollama => continue,
            "truncate" if ollama => continue,
            "options" if ollama => options(value)?,
            name if engine == EngineKind::Mlx && MLX_MODEL.contains(&name) => continue,
            "max_tokens" if engine == EngineKind::Mlx && value == "null" => continue,
            "system" if ask.operation == Operation::Messages => system(value)?,
            "messages" if engine == EngineKind::Mlx => messages(value)?,
            _ => Cow::Borrowed(value),
        };
        out.field(name, &value);
    }
    if let Some(usage) = usage {
        out.field("stream_options", &usage);
    }
    if cuts_prompts(ask.operation) {
        // A prompt that does not fit is an error, never an answer to a part of it.
        out.field("truncate", "false");
    }
    if engine == EngineKind::Mlx && ask.object.get("max_tokens").is_none_or(|most| most == "null") {
        let asked = ask.object.get("max_completion_tokens").filter(|most| *most != "null");
        out.field("max_tokens", asked.unwrap_or(MLX_TOKENS));
    }
    Ok(out.end())
}

/// Ollama's old `/api/embeddings` has no such field.
const fn cuts_prompts(operation: Operation) -> bool {
    matches!(operation, Operation::OllamaChat | Operation::OllamaGenerate | Operation::OllamaEmbed)
}

fn options(value: &str) -> Result<Cow<'_, str>, AskError> {
    if value == "null" {
        return Ok(Cow::Borrowed(value));
    }
    let options: Object = serde_json::from_str(value).map_err(|error| wrong("options", &error))?;
    if let Some((name, meant)) = options.disguised(&RUNNER) {
        let message = format!("options: {name:?} is read as {meant:?} by Ollama: write {meant:?}");
        return Err(AskError { message, field: Some("options") });
    }
    let mut out = ObjectWriter::new(value.len());
    for (name, value) in options.fields().filter(|(name, _)| !RUNNER.contains(name)) {
        out.field(name, value);
    }
    Ok(Cow::Owned(out.end()))
}

/// Without what changes with each call and says nothing to a model: it would keep the engine from using its prompt cache.
fn system(value: &str) -> Result<Cow<'_, str>, AskError> {
    if !value.starts_with('[') {
        return Ok(Cow::Borrowed(value));
    }
    let blocks: Vec<&RawValue> = serde_json::from_str(value).map_err(|error| wrong("system", &error))?;
    let is_left_out = |block: &RawValue| {
        let text = serde_json::from_str::<Object>(block.get()).ok()?.get("text")?.to_owned();
        Some(is_billing(&serde_json::from_str::<String>(&text).ok()?))
    };
    let kept: Vec<&str> =
        blocks.iter().filter(|block| is_left_out(block) != Some(true)).map(|block| block.get()).collect();
    if kept.len() == blocks.len() {
        return Ok(Cow::Borrowed(value));
    }
    Ok(Cow::Owned(format!("[{}]", kept.join(","))))
}

/// Whether a block of `system` is one of those.
pub(super) fn is_billing(text: &str) -> bool {
    text.trim_start().starts_with("x-anthropic-billing-header:")
}

/// MLX's chat templates know no `developer`.
fn messages(value: &str) -> Result<Cow<'_, str>, AskError> {
    let messages: Vec<&RawValue> = serde_json::from_str(value).map_err(|error| wrong("messages", &error))?;
    let mut out = String::with_capacity(value.len());
    let mut changed = false;
    for message in messages {
        out.push(if out.is_empty() { '[' } else { ',' });
        let object: Object = serde_json::from_str(message.get()).map_err(|error| wrong("messages", &error))?;
        if object.get("role") != Some("\"developer\"") {
            out.push_str(message.get());
            continue;
        }
        changed = true;
        let mut system = ObjectWriter::new(message.get().len());
        for (name, value) in object.fields() {
            system.field(name, if name == "role" { "\"system\"" } else { value });
        }
        out.push_str(&system.end());
    }
    out.push(']');
    Ok(if changed { Cow::Owned(out) } else { Cow::Borrowed(value) })
}

fn wrong(field: &'static str, error: &serde_json::Error) -> AskError {
    AskError { message: format!("{field} is not what is expected: {error}"), field: Some(field) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use EngineKind::{Mlx, Ollama, OpenAi};

    fn sent(operation: Operation, engine: EngineKind, body: &str) -> String {
        edited(&Ask::read(operation, body.as_bytes()).unwrap(), engine, "own").unwrap()
    }

    #[test]
    fn each_engine_gets_what_it_may_be_asked() {
        use Operation::{ChatCompletions, Messages, OllamaChat, OllamaEmbeddings};
        for (operation, engine, body, expected) in [
            (
                ChatCompletions,
                OpenAi,
                r#"{ "temperature": 1.50, "model": "small", "adapters": "x", "max_tokens": null }"#,
                r#"{"temperature":1.50,"model":"own","adapters":"x","max_tokens":null}"#,
            ),
            (
                ChatCompletions,
                Mlx,
                r#"{"model":"small","adapters":"x","draft_model":"y","num_draft_tokens":3,"seed":1}"#,
                r#"{"model":"own","seed":1,"max_tokens":16384}"#,
            ),
            (
                ChatCompletions,
                Mlx,
                r#"{"model":"small","max_tokens":null,"max_completion_tokens":9}"#,
                r#"{"model":"own","max_completion_tokens":9,"max_tokens":9}"#,
            ),
            (
                ChatCompletions,
                Mlx,
                r#"{"model":"m","max_tokens":5,"messages":[{"role":"developer","content":"a  b"},{"role": "user"}]}"#,
                r#"{"model":"own","max_tokens":5,"messages":[{"role":"system","content":"a  b"},{"role": "user"}]}"#,
            ),
            (
                OllamaChat,
                Ollama,
                r#"{"model":"m","messages":[1],"keep_alive":-1,"truncate":true,"options":{"num_ctx":9,"top_k": 4}}"#,
                r#"{"model":"own","messages":[1],"options":{"top_k":4},"truncate":false}"#,
            ),
            (
                Messages,
                Ollama,
                r#"{"model":"m","system":[{"type":"text","text":"x-anthropic-billing-header: cc=1;"},{"type": "text","text":"Be brief."}]}"#,
                r#"{"model":"own","system":[{"type": "text","text":"Be brief."}]}"#,
            ),
            (Messages, Ollama, r#"{"model":"m","system": "Be brief."}"#, r#"{"model":"own","system":"Be brief."}"#),
            (OllamaEmbeddings, Ollama, r#"{"model":"m","prompt":"x"}"#, r#"{"model":"own","prompt":"x"}"#),
        ] {
            assert_eq!(sent(operation, engine, body), expected);
        }
    }

    #[test]
    fn runner_options_can_not_be_disguised() {
        let body = r#"{"model":"m","messages":[1],"options":{"Num_Ctx":9}}"#;
        let ask = Ask::read(Operation::OllamaChat, body.as_bytes()).unwrap();
        assert!(edited(&ask, Ollama, "own").unwrap_err().message.contains("num_ctx"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\"\\\\ü\n]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Splicing is the same as changing the parsed value.
        #[test]
        fn an_edit_of_bytes_equals_one_of_values(
            mut fields in proptest::collection::btree_map("(x[a-z]{0,3}|seed|adapters|tools)", any_json(), 0..6),
            pretty in any::<bool>(),
        ) {
            fields.insert("model".into(), json!("small"));
            let value = Value::Object(fields.into_iter().collect());
            let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut expected = value;
            expected["model"] = json!("own");
            let got: Value = serde_json::from_str(&sent(Operation::ChatCompletions, OpenAi, &body)).unwrap();
            prop_assert_eq!(&got, &expected);
            expected.as_object_mut().unwrap().remove("adapters");
            expected["max_tokens"] = json!(16384);
            let got: Value = serde_json::from_str(&sent(Operation::ChatCompletions, Mlx, &body)).unwrap();
            prop_assert_eq!(&got, &expected);
        }
    }
}
