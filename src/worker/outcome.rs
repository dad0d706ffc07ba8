//! What a call's end means for its task.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    calls::{self, CallShown, FaultCause, Waited},
    engines::{EmbedOutcome, EngineError, Failure, InferOutcome},
    json,
    tasks::{
        ClaimedTask,
        retry::{self, Ended},
        schema::{self, Mismatch},
    },
};

/// What a failed call means.
#[derive(Debug, PartialEq)]
pub struct Meaning {
    pub ended: Ended,
    pub shown: CallShown,
    /// The next call for the same would fail too.
    pub servers_trouble: bool,
}

/// A server's failure uses no attempt of the task, and a task's own does.
pub fn failed(task: &ClaimedTask, error: &EngineError, waited: Waited) -> Meaning {
    let why = error.to_string();
    let cause = calls::cause(&error.failure, waited);
    let shown = calls::shown(cause, &why);
    let ended = match cause {
        FaultCause::Broke(_) | FaultCause::Waited => retry::server_failed(task, why),
        FaultCause::Away(_) => Ended::Unavailable { why, retry_after: retry_after(&error.failure) },
        FaultCause::TooLong => Ended::Retryable { why, retry_after: None },
        FaultCause::Refused => Ended::Permanent { why },
    };
    Meaning { ended, shown, servers_trouble: cause.is_servers() }
}

fn retry_after(failure: &Failure) -> Option<Duration> {
    if let Failure::RateLimited { retry_after } = failure { *retry_after } else { None }
}

/// `{"text"}`, or `{"json"}` where a schema was given and holds. `truncated` says that `max_tokens` ended a text. An answer
/// without content is no success.
pub async fn answered(task: &ClaimedTask, outcome: &InferOutcome) -> Ended {
    if !outcome.has_content() {
        return Ended::Retryable { why: nothing(outcome), retry_after: None };
    }
    let Some(schema) = &task.payload.schema else {
        let mut result = json!({"text": outcome.text});
        if outcome.cut_off {
            result["truncated"] = true.into();
        }
        return Ended::Ok { result };
    };
    let checked = match read(&outcome.text) {
        Ok(value) => schema::matches(schema, value).await,
        Err(mismatch) => Err(mismatch),
    };
    match checked {
        Ok(value) => Ended::Ok { result: json!({"json": value}) },
        Err(Mismatch::Schema(why)) => Ended::Permanent { why },
        Err(Mismatch::Answer(why)) => {
            let cut = if outcome.cut_off { "; the answer was cut off by max_tokens" } else { "" };
            Ended::Retryable { why: format!("{why}{cut}"), retry_after: None }
        }
    }
}

fn nothing(outcome: &InferOutcome) -> String {
    let finish = outcome.finish.as_deref().unwrap_or(if outcome.cut_off { "length" } else { "not given" });
    let hint = match (outcome.cut_off, outcome.reasoning.trim().is_empty()) {
        (true, false) => "; all its tokens went into reasoning: raise parameters.maxTokens of the Expert",
        (false, false) => "; it only reasoned",
        (_, true) => "",
    };
    format!("the model answered nothing (finish reason {finish}){hint}")
}

/// `{"vectors"}`, in the order of the texts.
pub fn embedded(outcome: &EmbedOutcome) -> Ended {
    Ended::Ok { result: json!({"vectors": outcome.vectors}) }
}

/// The value of an answer, as it can be kept.
fn read(text: &str) -> Result<Value, Mismatch> {
    let inside = without_fence(text);
    json::value(inside.as_bytes()).map_err(|flaw| {
        Mismatch::Answer(format!("the answer is not JSON that can be kept ({flaw}): {}", beginning(text)))
    })
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
    use super::*;
    use crate::{
        engines::{Blame, EngineKind},
        store::CallFault,
        tasks::{AttemptClass, Payload},
        worker::testing::task,
    };

    /// A minute of silence is a stall.
    const WAITED: Waited = Waited {
        silent: Duration::from_secs(120),
        bytes: false,
        tokens: false,
        others_served: false,
        cut_short: false,
        stall: Duration::from_secs(60),
    };

    fn meaning(failure: Failure, waited: Waited) -> Meaning {
        failed(&task(1), &EngineError { call: "POST x".into(), failure }, waited)
    }

    #[test]
    fn whose_fault_a_failure_is_decides_over_attempts_evidence_and_the_next_call() {
        use AttemptClass::{Permanent, ServerFailed, Unavailable};
        let detail = || "why".to_owned();
        let after = Duration::from_secs(1);
        let (failed, full) = (Some(CallFault::Failed), Some(CallFault::Full));
        let cases = [
            (Failure::Refused, Unavailable, failed, true),
            (Failure::Reset { tokens_seen: 3 }, ServerFailed, failed, true),
            (Failure::Timeout { after, tokens_seen: 0 }, ServerFailed, failed, true),
            (Failure::ServerError { status: 500, detail: detail() }, ServerFailed, failed, true),
            (Failure::BadBody { detail: detail() }, ServerFailed, failed, true),
            (Failure::Busy { detail: detail() }, Unavailable, full, true),
            (Failure::RateLimited { retry_after: None }, Unavailable, full, true),
            (Failure::Unauthorized { status: 401 }, Unavailable, None, true),
            (Failure::ModelMissing { detail: detail() }, Unavailable, None, true),
            (Failure::NoContent { detail: detail() }, ServerFailed, failed, true),
            (Failure::OutOfMemory { detail: detail() }, ServerFailed, Some(CallFault::OutOfMemory), true),
            (Failure::CannotLoad { detail: detail() }, Unavailable, failed, true),
            (Failure::ModelTooLarge { detail: detail() }, Unavailable, Some(CallFault::ModelTooLarge), true),
            (Failure::Loading { detail: detail() }, Unavailable, full, true),
            (Failure::Misconfigured("HTML".into()), Unavailable, None, true),
            (Failure::Unreachable("dns".into()), Unavailable, None, true),
            (Failure::Rejected { status: 400, detail: detail() }, Permanent, None, false),
            (Failure::PromptTooLong { detail: detail() }, Permanent, None, false),
            (Failure::Unsupported { engine: EngineKind::Mlx }, Permanent, None, false),
        ];
        for (failure, class, fault, cools) in cases {
            let (name, named) = (format!("{failure:?}"), failure.clone());
            let Meaning { ended, shown, servers_trouble } = meaning(failure, WAITED);
            assert_eq!((ended.class(), servers_trouble), (class, cools), "{name}");
            let error = EngineError { call: "POST x".into(), failure: named };
            let blamed = matches!(error.failure.fault(), Blame::Server | Blame::Full);
            assert_eq!(matches!(shown, CallShown::Failed { .. }), blamed, "{name}");
            let shown = if let CallShown::Failed { fault, .. } = shown { Some(fault) } else { None };
            assert_eq!(shown, fault, "{name}");
        }
    }

    #[test]
    fn a_call_that_runs_out_of_time_is_the_servers_fault_only_where_the_server_was_silent() {
        let second = Duration::from_secs(1);
        let broke = FaultCause::Broke(CallFault::Failed);
        for (waited, cause, what) in [
            (WAITED, broke, "never a byte"),
            (Waited { silent: second * 20, ..WAITED }, broke, "never a byte in a short time"),
            (Waited { silent: second, bytes: true, tokens: true, ..WAITED }, FaultCause::TooLong, "tokens to the end"),
            (Waited { silent: second, bytes: true, ..WAITED }, FaultCause::TooLong, "keepalives to the end"),
            (Waited { bytes: true, tokens: true, others_served: true, ..WAITED }, broke, "it fell silent"),
            (Waited { bytes: true, ..WAITED }, broke, "headers and nothing more"),
            (Waited { others_served: true, ..WAITED }, FaultCause::Waited, "others were served"),
            (
                Waited { others_served: true, bytes: true, ..WAITED },
                FaultCause::Waited,
                "headers while others were served",
            ),
            (Waited { silent: second * 5, cut_short: true, ..WAITED }, FaultCause::Waited, "a near deadline"),
            (Waited { cut_short: true, ..WAITED }, broke, "a far deadline"),
        ] {
            assert_eq!(waited.cause(), cause, "{what}");
        }
    }

    #[test]
    fn what_the_server_asks_for_is_waited() {
        let after = Some(Duration::from_secs(77));
        let Ended::Unavailable { retry_after, .. } = meaning(Failure::RateLimited { retry_after: after }, WAITED).ended
        else {
            panic!("it is full")
        };
        assert_eq!(retry_after, after);
    }

    #[tokio::test]
    async fn an_answer_without_content_is_another_attempt() {
        for (text, reasoning, finish, cut_off, words) in [
            ("", "", None, false, "the model answered nothing (finish reason not given)"),
            ("", "", Some("stop"), false, "the model answered nothing (finish reason stop)"),
            ("", "Hm.", Some("stop"), false, "reason stop); it only reasoned"),
            (
                " \n",
                "Hm.",
                None,
                true,
                "reason length); all its tokens went into reasoning: raise parameters.maxTokens",
            ),
        ] {
            let (reasoning, finish) = (reasoning.to_owned(), finish.map(str::to_owned));
            let answer = InferOutcome { reasoning, finish, ..outcome(text, cut_off) };
            let Ended::Retryable { why, .. } = answered(&task(1), &answer).await else { panic!("{text:?}") };
            assert!(why.contains(words), "{why}");
        }
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

    #[tokio::test]
    async fn an_answer_is_text_or_json_that_matches() {
        let schema = json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}});
        let plain = task(1);
        let asked = |schema: &Value| {
            let mut task = task(1);
            task.payload = Payload { schema: Some(schema.clone()), ..task.payload };
            task
        };
        let ok = |result: Value| Ended::Ok { result };
        assert_eq!(answered(&plain, &outcome("hay", false)).await, ok(json!({"text": "hay"})));
        assert_eq!(answered(&plain, &outcome("ha", true)).await, ok(json!({"text": "ha", "truncated": true})));
        for text in [r#"{"n": 3}"#, "```json\n{\"n\": 3}\n```", "```\n{\"n\": 3}```", " {\"n\": 3}\n"] {
            assert_eq!(answered(&asked(&schema), &outcome(text, false)).await, ok(json!({"json": {"n": 3}})), "{text}");
        }
        for (text, words) in [
            ("three", "not JSON"),
            (r#"{"n": 18446744073709551616}"#, "can't be kept exactly"),
            (r#"{"n": 1, "n": 2}"#, "stands twice"),
            (r#"{"n": "3"}"#, "at /n"),
            (r#"{"n": 3"#, "max_tokens"),
        ] {
            let Ended::Retryable { why, .. } = answered(&asked(&schema), &outcome(text, true)).await else {
                panic!("{text}")
            };
            assert!(why.contains(words), "{why}");
        }
        let no_schema = answered(&asked(&json!({"type": 7})), &outcome("{}", false)).await;
        assert_eq!(no_schema.class(), AttemptClass::Permanent);
    }
}
