//! What a call's end means for its task. Pure.

use serde_json::{Value, json};

use crate::{
    engines::{EmbedOutcome, EngineError, Failure, InferOutcome},
    tasks::{ClaimedTask, retry::Ended},
};

/// A backend that breaks off under a task so often may be broken by it.
const SUSPICIOUS_BREAKS: i32 = 5;

/// What a failed call means: the backend's trouble costs the task nothing, its own costs an attempt.
pub fn failed(task: &ClaimedTask, error: &EngineError) -> Ended {
    let why = error.to_string();
    let retryable = |why| Ended::Retryable { why, retry_after: None };
    let unavailable = |why| Ended::Unavailable { why, retry_after: None };
    match &error.failure {
        Failure::Refused
        | Failure::Busy { .. }
        | Failure::Loading { .. }
        | Failure::Unauthorized { .. }
        | Failure::ModelMissing { .. }
        | Failure::Unreachable(_)
        | Failure::Misconfigured(_)
        | Failure::CannotLoad { .. }
        | Failure::ModelTooLarge { .. } => unavailable(why),
        Failure::RateLimited { retry_after } => Ended::Unavailable { why, retry_after: *retry_after },
        Failure::Reset { .. } if task.free_requeues >= SUSPICIOUS_BREAKS => retryable(why),
        Failure::Reset { .. } => unavailable(why),
        Failure::Timeout { .. }
        | Failure::ServerError { .. }
        | Failure::BadBody { .. }
        | Failure::NoContent { .. }
        | Failure::OutOfMemory { .. } => retryable(why),
        Failure::Rejected { .. } | Failure::Unsupported { .. } | Failure::PromptTooLong { .. } => {
            Ended::Permanent { why }
        }
    }
}

/// Whether the server is to be left alone for a moment.
pub fn is_servers_trouble(failure: &Failure) -> bool {
    match failure {
        Failure::Refused
        | Failure::Reset { .. }
        | Failure::Busy { .. }
        | Failure::RateLimited { .. }
        | Failure::Unauthorized { .. }
        | Failure::ModelMissing { .. }
        | Failure::Loading { .. }
        | Failure::Unreachable(_)
        | Failure::Misconfigured(_)
        | Failure::CannotLoad { .. }
        | Failure::ModelTooLarge { .. } => true,
        Failure::Timeout { .. }
        | Failure::ServerError { .. }
        | Failure::BadBody { .. }
        | Failure::NoContent { .. }
        | Failure::OutOfMemory { .. }
        | Failure::PromptTooLong { .. }
        | Failure::Rejected { .. }
        | Failure::Unsupported { .. } => false,
    }
}

/// Whether a call broke off while the server may still be at it: its slot lingers.
pub fn may_still_run(failure: &Failure) -> bool {
    matches!(failure, Failure::Timeout { .. } | Failure::BadBody { .. })
}

/// `{"text"}`, or `{"json"}` where a schema was given and holds. `truncated` says that `max_tokens` ended a text.
pub fn answered(task: &ClaimedTask, outcome: &InferOutcome) -> Ended {
    let Some(schema) = &task.payload.schema else {
        let mut result = json!({"text": outcome.text});
        if outcome.cut_off {
            result["truncated"] = true.into();
        }
        return Ended::Ok { result };
    };
    match matching(schema, &outcome.text) {
        Ok(value) => Ended::Ok { result: json!({"json": value}) },
        Err(Mismatch::Schema(why)) => Ended::Permanent { why },
        Err(Mismatch::Answer(why)) => {
            let cut = if outcome.cut_off { "; the answer was cut off by max_tokens" } else { "" };
            Ended::Retryable { why: format!("{why}{cut}"), retry_after: None }
        }
    }
}

/// `{"vectors"}`, in the order of the texts.
pub fn embedded(outcome: &EmbedOutcome) -> Ended {
    Ended::Ok { result: json!({"vectors": outcome.vectors}) }
}

#[derive(Debug)]
enum Mismatch {
    /// The schema itself is wrong.
    Schema(String),
    Answer(String),
}

fn matching(schema: &Value, text: &str) -> Result<Value, Mismatch> {
    let validator = jsonschema::validator_for(schema)
        .map_err(|error| Mismatch::Schema(format!("the task's schema is no JSON Schema: {error}")))?;
    let value: Value = serde_json::from_str(without_fence(text))
        .map_err(|error| Mismatch::Answer(format!("the answer is not JSON ({error}): {}", beginning(text))))?;
    let mismatch = validator.iter_errors(&value).next().map(|error| {
        let place = error.instance_path().to_string();
        let place = if place.is_empty() { "its root".to_owned() } else { place };
        format!("the answer does not match the schema at {place}: {error}")
    });
    mismatch.map_or(Ok(value), |why| Err(Mismatch::Answer(why)))
}

/// Models that are told of a schema, and not made to match it, like to write a code block.
fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(inside) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inside.strip_prefix("json").unwrap_or(inside).trim()
}

fn beginning(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        engines::EngineKind,
        tasks::{AttemptClass, Payload},
        worker::testing::task,
    };

    #[test]
    fn a_backends_trouble_uses_no_attempt_and_a_tasks_own_does() {
        use AttemptClass::{Permanent, Retryable, Unavailable};
        let detail = || "why".to_owned();
        let after = Duration::from_secs(1);
        let cases = [
            (Failure::Refused, Unavailable),
            (Failure::Reset { tokens_seen: 3 }, Unavailable),
            (Failure::Busy { detail: detail() }, Unavailable),
            (Failure::RateLimited { retry_after: None }, Unavailable),
            (Failure::Unauthorized { status: 401 }, Unavailable),
            (Failure::ModelMissing { detail: detail() }, Unavailable),
            (Failure::Unreachable("dns".into()), Unavailable),
            (Failure::Timeout { after, tokens_seen: 0 }, Retryable),
            (Failure::ServerError { status: 500, detail: detail() }, Retryable),
            (Failure::BadBody { detail: detail() }, Retryable),
            (Failure::Rejected { status: 400, detail: detail() }, Permanent),
            (Failure::Unsupported { engine: EngineKind::Mlx }, Permanent),
        ];
        for (failure, class) in cases {
            let error = EngineError { call: "POST x".into(), failure };
            assert_eq!(failed(&task(1), &error).class(), class, "{error}");
            assert_eq!(is_servers_trouble(&error.failure), class == Unavailable, "{error}");
        }
    }

    #[test]
    fn a_task_under_which_servers_keep_breaking_uses_attempts_at_last() {
        let mut breaking = task(1);
        breaking.free_requeues = SUSPICIOUS_BREAKS;
        let reset = EngineError { call: "POST x".into(), failure: Failure::Reset { tokens_seen: 0 } };
        assert_eq!(failed(&breaking, &reset).class(), AttemptClass::Retryable);
        let refused = EngineError { call: "POST x".into(), failure: Failure::Refused };
        assert_eq!(failed(&breaking, &refused).class(), AttemptClass::Unavailable);
    }

    fn outcome(text: &str, cut_off: bool) -> InferOutcome {
        InferOutcome {
            text: text.to_owned(),
            reasoning: String::new(),
            tool_calls: 0,
            finish: None,
            tokens: 1,
            prompt_tokens: None,
            cut_off,
            first_token_after: Duration::ZERO,
            total: Duration::ZERO,
            eval_duration_per_token: None,
        }
    }

    #[test]
    fn an_answer_is_text_or_json_that_matches() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
        let plain = task(1);
        let asked = |schema: &Value| {
            let mut task = task(1);
            task.payload = Payload { schema: Some(schema.clone()), ..task.payload };
            task
        };
        let ok = |result: Value| Ended::Ok { result };
        assert_eq!(answered(&plain, &outcome("hay", false)), ok(json!({"text": "hay"})));
        assert_eq!(answered(&plain, &outcome("ha", true)), ok(json!({"text": "ha", "truncated": true})));
        for text in [r#"{"n": 3}"#, "```json\n{\"n\": 3}\n```", "```\n{\"n\": 3}```", " {\"n\": 3}\n"] {
            assert_eq!(answered(&asked(&schema), &outcome(text, false)), ok(json!({"json": {"n": 3}})), "{text}");
        }
        for (text, words) in [("three", "not JSON"), (r#"{"n": "3"}"#, "at /n"), (r#"{"n": 3"#, "max_tokens")] {
            let Ended::Retryable { why, .. } = answered(&asked(&schema), &outcome(text, true)) else {
                panic!("{text}")
            };
            assert!(why.contains(words), "{why}");
        }
        let no_schema = answered(&asked(&json!({"type": 7})), &outcome("{}", false));
        assert_eq!(no_schema.class(), AttemptClass::Permanent);
    }
}
