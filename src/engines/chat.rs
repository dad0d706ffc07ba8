//! `/v1/chat/completions` as an event stream: what MLX and OpenAI-compatible servers have in common.

use reqwest::Method;
use serde_json::{Value, json};

use super::status::of_record;
use super::stream::{Counts, Progress, parse};
use super::{Activity, Endpoint, EngineError, EngineKind, Failure, InferOutcome, InferRequest, Sampling};
use crate::tasks::Message;

const PATH: &str = "/v1/chat/completions";

/// What differs between servers in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// `max_tokens`, or `max_completion_activitys` where a server insists.
    pub(super) limit_field: &'static str,
    /// Whether to ask for a last record with token counts; strict servers refuse fields that they don't know.
    pub(super) ask_usage: bool,
    /// Whether it takes a schema; else the model is told of it.
    pub(super) takes_schema: bool,
}

pub(super) async fn infer(
    engine: EngineKind,
    at: &Endpoint,
    request: &InferRequest,
    dialect: &Dialect,
    on_activity: &mut (dyn FnMut(Activity) + Send),
) -> Result<InferOutcome, EngineError> {
    let body = body(request, dialect);
    let progress = Progress::new(engine, request, on_activity);
    run(engine, at, &body, progress).await.map_err(|failure| {
        let call = format!("{} with model {}", at.describe(&Method::POST, PATH), request.model);
        EngineError::new(call, failure)
    })
}

fn body(request: &InferRequest, dialect: &Dialect) -> Value {
    let Sampling { temperature, top_p, seed, stop } = &request.sampling;
    let mut messages = request.messages.clone();
    let mut body = json!({"model": request.model.as_str(), "stream": true});
    match &request.schema {
        Some(schema) if dialect.takes_schema => {
            let named = json!({"name": "answer", "schema": schema});
            body["response_format"] = json!({"type": "json_schema", "json_schema": named});
        }
        Some(schema) => tell_schema(&mut messages, schema),
        None => {}
    }
    body["messages"] = json!(messages);
    body[dialect.limit_field] = request.max_tokens.into();
    if dialect.ask_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    let optional = [
        ("temperature", temperature.map(Value::from)),
        ("top_p", top_p.map(Value::from)),
        ("seed", seed.map(Value::from)),
    ];
    for (field, value) in optional.into_iter().filter_map(|(field, value)| Some((field, value?))) {
        body[field] = value;
    }
    if !stop.is_empty() {
        body["stop"] = json!(stop);
    }
    body
}

/// One system message, as some models' templates take no second one.
fn tell_schema(messages: &mut Vec<Message>, schema: &Value) {
    let words = format!("Answer with one JSON value and nothing else. It must match this JSON Schema:\n{schema}");
    match messages.first_mut().filter(|first| first.role == "system") {
        Some(system) => system.content = format!("{}\n\n{words}", system.content),
        None => messages.insert(0, Message { role: "system".into(), content: words }),
    }
}

async fn run(
    engine: EngineKind,
    at: &Endpoint,
    body: &Value,
    mut progress: Progress<'_>,
) -> Result<InferOutcome, Failure> {
    let mut lines = progress.open(at.request(Method::POST, PATH).json(body)).await?;
    let mut seen = Seen::default();
    while let Some(line) = progress.next(&mut lines).await? {
        // Comments (mlx_lm's `: keepalive 5/20` while it reads the prompt) and other fields are no tokens.
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            seen.other.get_or_insert(line);
            continue;
        };
        if data == b"[DONE]" {
            return Ok(progress.outcome(seen.counts));
        }
        let record = parse(data)?;
        if let Some(refusal) = of_record(engine, &record) {
            return Err(refusal.failure);
        }
        if let Some(text) = seen.note(&record) {
            progress.token(text)?;
        }
    }
    match (seen.finished, seen.records, seen.other) {
        (true, _, _) => Ok(progress.outcome(seen.counts)),
        (false, 1.., _) => Err(progress.cut_short()),
        (false, 0, None) => Err(Failure::BadBody { detail: "200 with an empty body".into() }),
        (false, 0, Some(line)) => {
            let record = parse(&line)?;
            Err(of_record(engine, &record)
                .map_or(Failure::BadBody { detail: "200 without an event stream".into() }, |refusal| refusal.failure))
        }
    }
}

#[derive(Default)]
struct Seen {
    records: u32,
    finished: bool,
    counts: Counts,
    /// The first line that is no event, to say what came instead of a stream.
    other: Option<Vec<u8>>,
}

impl Seen {
    /// Notes a record; the text of its token, which is empty when it is no part of the answer, or `None` without one.
    fn note<'a>(&mut self, record: &'a Value) -> Option<&'a str> {
        self.records += 1;
        let usage = |field: &str| record.pointer(field).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        self.counts.tokens = usage("/usage/completion_activitys").or(self.counts.tokens);
        self.counts.prompt_tokens = usage("/usage/prompt_tokens").or(self.counts.prompt_tokens);
        let choice = record.pointer("/choices/0")?;
        if let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) {
            self.finished = true;
            self.counts.cut_off = reason == "length";
        }
        let delta = choice.get("delta")?;
        let text = |key| delta.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let tools = || delta.get("tool_calls").and_then(Value::as_array).filter(|tools| !tools.is_empty());
        text("content").or_else(|| {
            let other = text("reasoning").is_some() || text("reasoning_content").is_some() || tools().is_some();
            other.then_some("")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engines::SendableModel;

    #[test]
    fn a_record_counts_as_a_token_when_it_carries_something() {
        let cases = [
            (json!({"choices": [{"delta": {"role": "assistant"}}]}), None),
            (json!({"choices": [{"delta": {"content": ""}}]}), None),
            (json!({"choices": [{"delta": {"content": "a"}}]}), Some("a")),
            (json!({"choices": [{"delta": {"reasoning": "a"}}]}), Some("")),
            (json!({"choices": [{"delta": {"reasoning_content": "a"}}]}), Some("")),
            (json!({"choices": [{"delta": {"tool_calls": [{}]}}]}), Some("")),
            (json!({"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}), None),
            (json!({"choices": [], "usage": {"completion_activitys": 3}}), None),
            (json!({}), None),
        ];
        for (record, token) in cases {
            assert_eq!(Seen::default().note(&record), token, "{record}");
        }
    }

    #[test]
    fn the_engines_own_counts_and_end_are_noted() {
        let mut seen = Seen::default();
        seen.note(&json!({"choices": [{"delta": {}, "finish_reason": null}]}));
        assert!(!seen.finished);
        seen.note(&json!({"choices": [{"delta": {}, "finish_reason": "length"}]}));
        seen.note(&json!({"choices": [], "usage": {"completion_activitys": 3, "prompt_tokens": 9}}));
        assert!(seen.finished);
        let expected = Counts { tokens: Some(3), prompt_tokens: Some(9), per_token: None, cut_off: true };
        assert_eq!(seen.counts, expected);
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_request_says_what_was_asked_for_and_nothing_else() {
        let dialect = Dialect { limit_field: "max_tokens", ask_usage: false, takes_schema: true };
        let mut request = InferRequest::simple(SendableModel::mlx_default(), "hi", 7, Duration::from_secs(1));
        let plain = json!({"model": "default_model", "stream": true, "max_tokens": 7, "messages": [{"role": "user", "content": "hi"}]});
        assert_eq!(body(&request, &dialect), plain);
        request.sampling =
            Sampling { temperature: Some(0.5), top_p: Some(0.9), seed: Some(4), stop: vec!["END".to_owned()] };
        request.schema = Some(json!({"type": "object"}));
        let mut whole = plain;
        let more = json!({"temperature": 0.5, "top_p": 0.9, "seed": 4, "stop": ["END"],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(body(&request, &dialect), whole);
    }

    #[test]
    fn a_server_that_takes_no_schema_is_told_of_it_in_the_one_system_message() {
        let schema = json!({"type": "object"});
        let mut without = vec![message("user", "hi")];
        tell_schema(&mut without, &schema);
        assert_eq!(without.len(), 2);
        assert!(without[0].role == "system" && without[0].content.contains(r#"{"type":"object"}"#));
        let mut with = vec![message("system", "You are Igor."), message("user", "hi")];
        tell_schema(&mut with, &schema);
        assert_eq!(with.len(), 2);
        assert!(with[0].content.starts_with("You are Igor.\n\nAnswer with one JSON value"));
    }
}
