//! `/v1/chat/completions` as an event stream: what MLX and OpenAI-compatible servers have in common.

use reqwest::Method;
use serde_json::{Value, json};

use super::stream::{Progress, error_in, parse};
use super::{Endpoint, EngineError, Failure, InferOutcome, InferRequest};

const PATH: &str = "/v1/chat/completions";

/// What differs between servers in the request.
pub(super) struct Dialect {
    /// `max_tokens`, or `max_completion_tokens` where a server insists.
    pub(super) limit_field: &'static str,
    /// Whether to ask for a last record with token counts; strict servers refuse fields that they don't know.
    pub(super) ask_usage: bool,
}

pub(super) async fn infer(
    at: &Endpoint,
    request: &InferRequest,
    dialect: &Dialect,
    on_token: &mut (dyn FnMut() + Send),
) -> Result<InferOutcome, EngineError> {
    let mut body = json!({
        "model": request.model.as_str(),
        "messages": [{"role": "user", "content": request.prompt}],
        "stream": true,
    });
    body[dialect.limit_field] = request.max_tokens.into();
    if dialect.ask_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    let progress = Progress::new(request, on_token);
    run(at, &body, progress).await.map_err(|failure| {
        let call = format!("{} with model {}", at.describe(&Method::POST, PATH), request.model);
        EngineError::new(call, failure)
    })
}

async fn run(at: &Endpoint, body: &Value, mut progress: Progress<'_>) -> Result<InferOutcome, Failure> {
    let mut lines = progress.open(at.request(Method::POST, PATH).json(body)).await?;
    let mut seen = Seen::default();
    while let Some(line) = progress.next(&mut lines).await? {
        // Comments (mlx_lm's `: keepalive 5/20` while it reads the prompt) and other fields are no tokens.
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            seen.other.get_or_insert(line);
            continue;
        };
        if data == b"[DONE]" {
            return Ok(progress.outcome(seen.counted, None));
        }
        let record = parse(data)?;
        if let Some(failure) = error_in(&record) {
            return Err(failure);
        }
        if seen.note(&record) {
            progress.token();
        }
    }
    match (seen.finished, seen.records, seen.other) {
        (true, _, _) => Ok(progress.outcome(seen.counted, None)),
        (false, 1.., _) => Err(progress.cut_short()),
        (false, 0, None) => Err(Failure::BadBody { detail: "200 with an empty body".into() }),
        (false, 0, Some(line)) => {
            let record = parse(&line)?;
            Err(error_in(&record).unwrap_or(Failure::BadBody { detail: "200 without an event stream".into() }))
        }
    }
}

#[derive(Default)]
struct Seen {
    records: u32,
    finished: bool,
    counted: Option<u32>,
    /// The first line that is no event, to say what came instead of a stream.
    other: Option<Vec<u8>>,
}

impl Seen {
    /// Notes a record and tells whether it carries a token.
    fn note(&mut self, record: &Value) -> bool {
        self.records += 1;
        let usage = record.pointer("/usage/completion_tokens").and_then(Value::as_u64);
        self.counted = usage.and_then(|n| u32::try_from(n).ok()).or(self.counted);
        let Some(choice) = record.pointer("/choices/0") else {
            return false;
        };
        self.finished |= choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
        let delta = choice.get("delta");
        let text = |key| delta.and_then(|d| d.get(key)).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
        let tools = delta.and_then(|d| d.get("tool_calls")).and_then(Value::as_array).is_some_and(|t| !t.is_empty());
        text("content") || text("reasoning") || text("reasoning_content") || tools
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_as_a_token_when_it_carries_something() {
        let cases = [
            (json!({"choices": [{"delta": {"role": "assistant"}}]}), false),
            (json!({"choices": [{"delta": {"content": ""}}]}), false),
            (json!({"choices": [{"delta": {"content": "a"}}]}), true),
            (json!({"choices": [{"delta": {"reasoning": "a"}}]}), true),
            (json!({"choices": [{"delta": {"reasoning_content": "a"}}]}), true),
            (json!({"choices": [{"delta": {"tool_calls": [{}]}}]}), true),
            (json!({"choices": [{"delta": {"content": null}, "finish_reason": "stop"}]}), false),
            (json!({"choices": [], "usage": {"completion_tokens": 3}}), false),
            (json!({}), false),
        ];
        for (record, token) in cases {
            assert_eq!(Seen::default().note(&record), token, "{record}");
        }
    }

    #[test]
    fn the_engines_own_count_and_end_are_noted() {
        let mut seen = Seen::default();
        seen.note(&json!({"choices": [{"delta": {}, "finish_reason": null}]}));
        assert!(!seen.finished);
        seen.note(&json!({"choices": [{"delta": {}, "finish_reason": "length"}]}));
        seen.note(&json!({"choices": [], "usage": {"completion_tokens": 3}}));
        assert!(seen.finished);
        assert_eq!(seen.counted, Some(3));
    }
}
