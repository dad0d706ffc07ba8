//! `/v1/chat/completions` as an event stream: what MLX and OpenAI-compatible servers have in common.

use reqwest::Method;
use serde_json::{Value, json};

use super::stream::{CallError, run};
use super::{CallActivity, Endpoint, EngineKind, InferOutcome, InferRequest, Sampling};
use crate::tasks::Message;

pub(super) const PATH: &str = "/v1/chat/completions";

/// What differs between servers in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChatDialect {
    /// `max_tokens`, or `max_completion_tokens` where a server insists.
    pub(super) limit_field: &'static str,
    /// Whether to ask for a last record with token counts; strict servers refuse fields that they don't know.
    pub(super) ask_usage: bool,
    /// Whether it takes a schema; else the model is told of it.
    pub(super) takes_schema: bool,
    pub(super) stream: bool,
}

impl ChatDialect {
    pub(super) fn of(engine: EngineKind, request: &InferRequest) -> Self {
        let is_mlx = engine == EngineKind::Mlx;
        Self { limit_field: "max_tokens", ask_usage: is_mlx || request.count, takes_schema: !is_mlx, stream: true }
    }
}

pub(super) async fn infer(
    engine: EngineKind,
    at: &Endpoint,
    request: &InferRequest,
    dialect: &ChatDialect,
    on_activity: &mut (dyn FnMut(CallActivity) + Send),
) -> Result<InferOutcome, CallError> {
    let built = at.request(Method::POST, PATH).json(&body(request, dialect));
    run(engine, (at, built), request, dialect.stream && dialect.ask_usage, on_activity).await
}

fn body(request: &InferRequest, dialect: &ChatDialect) -> Value {
    let Sampling { temperature, top_p, seed, stop } = &request.sampling;
    let mut messages = request.messages.clone();
    let mut body = json!({"model": request.model.as_str(), "stream": dialect.stream});
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
    if dialect.stream && dialect.ask_usage {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engines::SendableModel;

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_request_says_what_was_asked_for_and_nothing_else() {
        let mut request = InferRequest::simple(SendableModel::mlx_default(), "hi", 7, Duration::from_secs(1));
        let dialect = ChatDialect::of(EngineKind::OpenAi, &request);
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
