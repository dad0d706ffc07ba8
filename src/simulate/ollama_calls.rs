//! Ollama 0.17: chat, generate, embed, and what `keep_alive` does.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::asked::Lenient;
use super::faults::Shape as Wrong;
use super::generate::{Context, Generation, WantedAnswer, count_tokens, embedding, joined};
use super::models::Keep;
use super::replies::{self, SimulatedRefusal};
use super::reply::{self, NDJSON, Piece};
use super::state::SimulatedState;
use super::tools::WantedTool;

#[derive(Deserialize)]
pub(super) struct OllamaRequest {
    #[serde(default)]
    model: String,
    #[serde(default)]
    messages: Vec<Value>,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    input: Value,
    stream: Option<bool>,
    keep_alive: Option<Value>,
    #[serde(default)]
    options: Map<String, Value>,
    format: Option<Value>,
    truncate: Option<bool>,
    tools: Option<Value>,
}

impl OllamaRequest {
    fn context(&self) -> Option<u32> {
        self.options.get("num_ctx").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
    }
}

type Shape = fn(&str) -> Value;

pub(super) async fn chat(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<OllamaRequest>,
) -> Response {
    let shape: Shape = |text| json!({"message": {"role": "assistant", "content": text}});
    let prompt = joined(&request.messages);
    let empty = request.messages.is_empty();
    run(&shared, context, request, &prompt, empty, shape).await
}

pub(super) async fn generate(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<OllamaRequest>,
) -> Response {
    let prompt = request.prompt.clone();
    let empty = prompt.is_empty();
    run(&shared, context, request, &prompt, empty, |text| json!({"response": text})).await
}

async fn run(
    shared: &Arc<SimulatedState>,
    context: Context,
    request: OllamaRequest,
    prompt: &str,
    empty: bool,
    shape: Shape,
) -> Response {
    let keep = match keep_of(request.keep_alive.as_ref()) {
        Ok(keep) => keep,
        Err(why) => return reply::json(400, &json!({"error": why})),
    };
    context.call.note(|record| record.keep_alive = request.keep_alive.clone());
    if empty {
        return only_load(shared, &context, &request.model, keep, shape).await;
    }
    let mut options = request.options.clone();
    // Ollama's -1 is no limit.
    let max_tokens = options.remove("num_predict").and_then(|n| u32::try_from(n.as_i64()?).ok());
    let tool = WantedTool::of(&request.messages, request.tools.as_ref());
    let format = request.format.clone().filter(|format| !format.is_null() && format != "");
    let schema = tool.as_ref().map(|tool| tool.parameters.clone()).or(format);
    if let Some(schema) = &schema {
        options.insert("schema".to_owned(), schema.clone());
    }
    let asked = request.messages.last().and_then(|m| m.get("content")?.as_str()).unwrap_or(prompt);
    let wanted = WantedAnswer {
        model: request.model.clone(),
        keep,
        max_tokens,
        inputs: vec![count_tokens(prompt)],
        context: request.context(),
        refuse_long: request.truncate == Some(false),
        prompt: asked.to_owned(),
        options: Some(options.into()),
        schema,
    };
    let mut generation = match Generation::begin(shared, context, wanted).await {
        Ok(generation) => generation,
        Err(why) => return replies::ollama(why, &request.model),
    };
    if request.stream == Some(false) || generation.shape().is_some_and(Wrong::is_whole) {
        return match reply::whole(&mut generation).await {
            Ok(text) => {
                let mut answer = last(&generation, &text, shape);
                if let Some(tool) = tool {
                    answer["message"] = tool.ollama_message(&text);
                }
                reply::json(200, &answer)
            }
            Err(why) => replies::ollama(why, &request.model),
        };
    }
    let mut arguments = String::new();
    reply::streamed(generation, NDJSON, move |generation, piece| match (piece, &tool) {
        // Its own protocol has no comments.
        (Piece::Progress(..), _) => String::new(),
        (Piece::Token(token), Some(_)) => {
            arguments += &token;
            String::new()
        }
        (Piece::Token(token), None) => format!("{}\n", record(&generation.model, &token, false, shape)),
        (Piece::End, tool) => {
            let mut call = record(&generation.model, "", false, shape);
            let call = tool.as_ref().map(|tool| {
                call["message"] = tool.ollama_message(&arguments);
                format!("{call}\n")
            });
            format!("{}{}\n", call.unwrap_or_default(), last(generation, "", shape))
        }
    })
    .await
}

/// Without a prompt a call only loads the model, or with `keep_alive: 0` only unloads it: at once, also when the runner hangs.
async fn only_load(
    shared: &Arc<SimulatedState>,
    context: &Context,
    model: &str,
    keep: Option<Keep>,
    shape: Shape,
) -> Response {
    context.call.note(|record| record.model = Some(model.to_owned()));
    let Some(name) = shared.find(model) else { return replies::ollama(SimulatedRefusal::UnknownModel, model) };
    let reason = if keep == Some(Keep::For(Duration::ZERO)) {
        shared.unload(&name);
        "unload"
    } else {
        match shared.acquire(&name, keep).await {
            Ok(lease) => drop(lease),
            Err(why) => return replies::ollama(why.into(), model),
        }
        "load"
    };
    let mut answer = record(model, "", true, shape);
    answer["done_reason"] = reason.into();
    reply::json(200, &answer)
}

pub(super) async fn embed(
    State(shared): State<Arc<SimulatedState>>,
    Extension(context): Extension<Context>,
    Lenient(request): Lenient<OllamaRequest>,
) -> Response {
    let keep = match keep_of(request.keep_alive.as_ref()) {
        Ok(keep) => keep,
        Err(why) => return reply::json(400, &json!({"error": why})),
    };
    context.call.note(|record| record.keep_alive = request.keep_alive.clone());
    let texts = texts(&request.input);
    let wanted = WantedAnswer {
        model: request.model.clone(),
        keep,
        max_tokens: Some(0),
        inputs: texts.iter().map(|text| count_tokens(text)).collect(),
        context: request.context(),
        refuse_long: request.truncate == Some(false),
        prompt: texts.last().cloned().unwrap_or_default(),
        ..WantedAnswer::default()
    };
    let mut generation = match Generation::begin(&shared, context, wanted).await {
        Ok(generation) => generation,
        Err(why) => return replies::ollama(why, &request.model),
    };
    generation.until_free().await;
    let vectors: Vec<_> = texts.iter().map(|text| embedding(shared.options.seed, text)).collect();
    generation.finish();
    let answer = json!({
        "model": request.model, "embeddings": vectors, "total_duration": nanos(generation.total()),
        "load_duration": nanos(generation.load), "prompt_eval_count": generation.prompt_tokens,
    });
    reply::json(200, &answer)
}

fn record(model: &str, text: &str, done: bool, shape: Shape) -> Value {
    let mut record = json!({"model": model, "created_at": Timestamp::now().to_string(), "done": done});
    if let (Some(fields), Value::Object(more)) = (record.as_object_mut(), shape(text)) {
        fields.extend(more);
    }
    record
}

fn last(generation: &Generation, text: &str, shape: Shape) -> Value {
    let mut record = record(&generation.model, text, true, shape);
    record["done_reason"] = if generation.stopped { "stop" } else { "length" }.into();
    record["total_duration"] = nanos(generation.total()).into();
    record["load_duration"] = nanos(generation.load).into();
    record["prompt_eval_count"] = generation.prompt_tokens.into();
    record["prompt_eval_duration"] = 1_000_000.into();
    record["eval_count"] = generation.produced.into();
    record["eval_duration"] = nanos(generation.answering()).into();
    record
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn texts(input: &Value) -> Vec<String> {
    match input {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Seconds as a number, or a Go duration; negative means for ever.
fn keep_of(value: Option<&Value>) -> Result<Option<Keep>, String> {
    let seconds = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_f64().unwrap_or_default(),
        Some(Value::String(text)) => go_seconds(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?,
        Some(other) => return Err(format!("Unsupported type: {other}")),
    };
    Ok(Some(Duration::try_from_secs_f64(seconds).map_or(Keep::Forever, Keep::For)))
}

/// `1h30m`, `-1s`, `250ms`, as Go's `time.ParseDuration` reads them.
fn go_seconds(text: &str) -> Option<f64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0.0);
    }
    let mut seconds = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[unit..];
        seconds = Some(seconds.unwrap_or(0.0) + number * factor);
    }
    seconds.map(|seconds: f64| sign * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_is_read_as_ollama_reads_it() {
        let for_millis = |ms| Ok(Some(Keep::For(Duration::from_millis(ms))));
        let cases = [
            (json!(null), Ok(None)),
            (json!(0), for_millis(0)),
            (json!(-1), Ok(Some(Keep::Forever))),
            (json!(40), for_millis(40_000)),
            (json!("0"), for_millis(0)),
            (json!("1500ms"), for_millis(1500)),
            (json!("1m30s"), for_millis(90_000)),
            (json!("-1m"), Ok(Some(Keep::Forever))),
            (json!("5"), Err("time: invalid duration \"5\"".to_owned())),
            (json!("5 m"), Err("time: invalid duration \"5 m\"".to_owned())),
            (json!(""), Err("time: invalid duration \"\"".to_owned())),
        ];
        for (value, keep) in cases {
            assert_eq!(keep_of(Some(&value)), keep, "{value}");
        }
        assert_eq!(keep_of(None), Ok(None));
    }
}
