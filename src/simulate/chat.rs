//! `/v1/chat/completions` and `/v1/embeddings`, which all three engines have in some manner.

use std::sync::Arc;

use axum::{Extension, extract::State, response::Response};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    asked::Lenient,
    faults::{DONE, Shape},
    generate::{Context, Generation, WantedAnswer, count_tokens, embedding, joined},
    replies,
    reply::{self, EVENT_STREAM, Piece},
    state::SimulatedState,
    tools::WantedTool,
};
use crate::engines::{EngineKind, MLX_DEFAULT_MODEL};

#[derive(Deserialize)]
pub(super) struct ChatRequest {
    model: Option<String>,
    messages: Vec<Value>,
    #[serde(default)]
    stream: bool,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream_options: StreamOptions,
    response_format: Option<Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ChatRequest {
    /// mlx_lm takes no notice of it.
    fn schema(&self, engine: EngineKind) -> Option<Value> {
        let format = self.response_format.as_ref().filter(|_| engine != EngineKind::Mlx)?;
        match format.get("type").and_then(Value::as_str) {
            Some("json_schema") => format.pointer("/json_schema/schema").cloned(),
            Some("json_object") => Some(json!({"type": "object"})),
            _ => None,
        }
    }

    fn options(&self, schema: Option<&Value>) -> Value {
        let known = ["temperature", "top_p", "seed", "stop"];
        let mut options: Map<String, Value> =
            known.iter().filter_map(|key| Some(((*key).to_owned(), self.others.get(*key)?.clone()))).collect();
        if let Some(schema) = schema {
            options.insert("schema".to_owned(), schema.clone());
        }
        options.into()
    }
}

#[derive(Default, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

pub(super) async fn chat(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<ChatRequest>,
) -> Response {
    let engine = shared.options.engine;
    let tool = WantedTool::of(&request.messages, request.others.get("tools"));
    let schema = match &tool {
        Some(tool) => Some(tool.parameters.clone()),
        None => request.schema(engine),
    };
    let last = request.messages.last().and_then(|m| m.get("content")?.as_str()).unwrap_or_default();
    let wanted = WantedAnswer {
        prompt: last.to_owned(),
        options: Some(request.options(schema.as_ref())),
        model: request.model.clone().unwrap_or_else(|| MLX_DEFAULT_MODEL.to_owned()),
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        inputs: vec![count_tokens(&joined(&request.messages))],
        schema,
        ..WantedAnswer::default()
    };
    let asked = wanted.model.clone();
    let mut generation = match Generation::begin(&shared, context, wanted).await {
        Ok(generation) => generation,
        Err(why) => return replies::openai(&shared, why, &asked),
    };
    let whole = generation.shape().filter(|shape| shape.is_whole());
    if !request.stream || whole.is_some() {
        let text = match reply::whole(&mut generation).await {
            Ok(text) => text,
            Err(why) => return replies::openai(&shared, why, &asked),
        };
        let (message, finish) = match &tool {
            Some(tool) => (tool.message(&text, true), "tool_calls"),
            None => (json!({"role": "assistant", "content": text}), finish(&generation)),
        };
        let choice = json!({"index": 0, "message": message, "finish_reason": finish});
        let mut answer = head(&generation, "chat.completion", vec![choice]);
        answer["usage"] = usage(&generation);
        return match whole {
            Some(Shape::WholeJsonDone) => reply::with_type(200, EVENT_STREAM, format!("{answer}\n\n{DONE}")),
            _ => reply::json(200, &answer),
        };
    }
    let with_usage = request.stream_options.include_usage;
    let mut opening = match engine {
        // mlx_lm tells how far it is with the prompt; the others begin with the role.
        EngineKind::Mlx => progress(generation.prompt_tokens, generation.prompt_tokens),
        EngineKind::Ollama => String::new(),
        EngineKind::OpenAi => event(&chunk(&generation, json!({"role": "assistant", "content": ""}), Value::Null)),
    };
    let mut is_first = true;
    reply::streamed(generation, EVENT_STREAM, move |generation, piece| {
        // The opening comes with the first token.
        let mut text = if matches!(piece, Piece::Progress(..)) { String::new() } else { std::mem::take(&mut opening) };
        match piece {
            Piece::Progress(done, total) => text.push_str(&progress(done, total)),
            Piece::Token(token) => {
                let is_first = std::mem::take(&mut is_first);
                let delta = match &tool {
                    Some(tool) => tool.message(&token, is_first),
                    None => json!({"role": "assistant", "content": token}),
                };
                text.push_str(&event(&chunk(generation, delta, Value::Null)));
            }
            Piece::End => {
                let finish = if tool.is_some() { "tool_calls" } else { finish(generation) };
                text.push_str(&event(&chunk(generation, json!({}), finish.into())));
                if with_usage {
                    let mut last = head(generation, "chat.completion.chunk", Vec::new());
                    last["usage"] = usage(generation);
                    text.push_str(&event(&last));
                }
                text.push_str(DONE);
            }
        }
        text
    })
    .await
}

#[derive(Deserialize)]
pub(super) struct EmbeddingsRequest {
    model: String,
    input: Value,
}

pub(super) async fn embeddings(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<EmbeddingsRequest>,
) -> Response {
    let texts: Vec<String> = match &request.input {
        Value::Array(items) => items.iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect(),
        other => vec![other.as_str().unwrap_or_default().to_owned()],
    };
    let inputs = texts.iter().map(|text| count_tokens(text)).collect();
    let prompt = texts.last().cloned().unwrap_or_default();
    let model = request.model.clone();
    let wanted = WantedAnswer { model, max_tokens: Some(0), inputs, prompt, ..WantedAnswer::default() };
    let mut generation = match Generation::begin(&shared, context, wanted).await {
        Ok(generation) => generation,
        Err(why) => return replies::openai(&shared, why, &request.model),
    };
    generation.until_free().await;
    generation.finish();
    let item = |(index, text): (usize, &String)| json!({"object": "embedding", "index": index, "embedding": embedding(shared.options.seed, text)});
    let data: Vec<Value> = texts.iter().enumerate().map(item).collect();
    let prompt_tokens = generation.prompt_tokens;
    let usage = json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens});
    reply::json(200, &json!({"object": "list", "data": data, "model": request.model, "usage": usage}))
}

fn progress(done: u32, total: u32) -> String {
    format!(": keepalive {done}/{total}\n\n")
}

fn event(record: &Value) -> String {
    format!("data: {record}\n\n")
}

fn head(generation: &Generation, object: &str, choices: Vec<Value>) -> Value {
    json!({
        "id": "chatcmpl-simulated",
        "object": object,
        "created": Timestamp::now().as_second(),
        "model": generation.model,
        "system_fingerprint": "fp_simulated",
        "choices": choices,
    })
}

fn chunk(generation: &Generation, delta: Value, finish_reason: Value) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    head(generation, "chat.completion.chunk", vec![choice])
}

fn finish(generation: &Generation) -> &'static str {
    if generation.stopped { "stop" } else { "length" }
}

fn usage(generation: &Generation) -> Value {
    json!({
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.produced,
        "total_tokens": generation.prompt_tokens + generation.produced,
    })
}

/// The simplest value of a schema. What it can't read (references, patterns) it takes for anything.
pub(super) fn sample(schema: &Value) -> Value {
    let first = |key: &str| schema.get(key).and_then(Value::as_array).and_then(|all| all.first());
    if let Some(value) = schema.get("const").or_else(|| first("enum")) {
        return value.clone();
    }
    if let Some(inner) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| first(key)) {
        return sample(inner);
    }
    let kind = schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0).and_then(Value::as_str)));
    let number = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match kind {
        Some("string") => "hay".repeat(number("minLength").unwrap_or(1).div_ceil(3).max(1)).into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => {
            let item = schema.get("items").map_or(Value::Null, sample);
            vec![item; number("minItems").unwrap_or(1)].into()
        }
        _ => {
            let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
            fields.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect::<Map<_, _>>().into()
        }
    }
}

/// Its text in pieces, as tokens come.
pub(super) fn pieces(schema: &Value) -> Vec<String> {
    let text: Vec<char> = sample(schema).to_string().chars().collect();
    text.chunks(4).map(|piece| piece.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_matches_its_schema() {
        let schemas = [
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 4}, "b": {"type": "array", "items": {"enum": ["x"]}, "minItems": 2}},
                "required": ["a", "b"], "additionalProperties": false}),
            json!({"type": ["string", "null"], "minLength": 7}),
            json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
            json!({"const": 5}),
            json!({"type": "number"}),
            json!({}),
        ];
        for schema in schemas {
            let value: Value = serde_json::from_str(&pieces(&schema).concat()).unwrap();
            assert!(jsonschema::is_valid(&schema, &value), "{value} of {schema}");
        }
    }
}
