//! A task sent to somebody's own agent: signed as Standard Webhooks describe, with a key that is the same for each repetition
//! of one execution. A 200 is its result; a 202 takes it over: heartbeats and the completion come by the API then.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Client, StatusCode, header};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::{
    host::{
        SigningSecret, header as names,
        sign::{claim_token, sign_as},
    },
    json,
    tasks::{ClaimedTask, retry::Ended},
};

/// The largest answer that is read.
const MAX_BYTES: usize = 2 << 20;

/// What became of the request.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    Ended(Ended),
    /// The agent works on it, and says so by heartbeats.
    TakenOver,
}

/// Sends the task. `lease` is how long a taken-over task is its agent's without a heartbeat.
pub async fn send(
    http: &Client,
    url: &str,
    secret: Option<&SigningSecret>,
    task: &ClaimedTask,
    lease: Duration,
    timeout: Duration,
) -> Sent {
    let body = body(task, secret, lease).to_string();
    let key = format!("{}/{}", task.id, task.epoch);
    let mut request = http
        .post(url)
        .timeout(timeout)
        .header(header::CONTENT_TYPE, "application/json")
        .header(names::IDEMPOTENCY_KEY, &key);
    if let Some(secret) = secret {
        let signature = sign_as(secret, format!("task_{}_{}", task.id, task.epoch), body.as_bytes(), Timestamp::now());
        for (name, value) in signature.headers() {
            request = request.header(name, value);
        }
    }
    let answered = async {
        let response = request.body(body).send().await?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        Ok::<_, reqwest::Error>((status, wait, read(response).await?))
    };
    match answered.await {
        Ok((StatusCode::ACCEPTED, ..)) => Sent::TakenOver,
        Ok((status, wait, body)) => Sent::Ended(meaning(url, status, wait, &body)),
        Err(error) => Sent::Ended(broken(url, &error)),
    }
}

/// What the agent is sent.
fn body(task: &ClaimedTask, secret: Option<&SigningSecret>, lease: Duration) -> Value {
    json!({
        "type": "task",
        "task": task.id,
        "epoch": task.epoch,
        "namespace": task.namespace,
        "queue": task.queue,
        "domain": task.domain,
        "role": task.role,
        "expert": task.expert,
        "payload": task.payload,
        "priority": task.priority,
        "key": task.key,
        "labels": task.labels,
        "deadline": task.deadline,
        "attempt": task.attempts_used + 1,
        "leaseSeconds": lease.as_secs(),
        "claimToken": secret.map(|secret| claim_token(secret, task.id, task.epoch)),
    })
}

fn meaning(url: &str, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Ended {
    let why = || format!("POST {url}: HTTP {status}: {}", crate::engines::words_of(body));
    match status.as_u16() {
        200..=299 if body.trim_ascii().is_empty() => Ended::Ok { result: Value::Null },
        200..=299 => match json::value(body) {
            Ok(result) => Ended::Ok { result },
            Err(flaw) => {
                let why = format!("POST {url}: HTTP {status} with a body that can't be kept as JSON: {flaw}");
                // It did its work: what it says would be the same after another time.
                match serde_json::from_slice::<IgnoredAny>(body) {
                    Ok(_) => Ended::Permanent { why },
                    Err(_) => Ended::Retryable { why, retry_after: None },
                }
            }
        },
        429 | 503 => Ended::Unavailable { why: why(), retry_after },
        408 | 425 | 500..=599 => Ended::Retryable { why: why(), retry_after },
        _ => Ended::Permanent { why: why() },
    }
}

fn broken(url: &str, error: &reqwest::Error) -> Ended {
    let why = format!("POST {url}: {}", crate::engines::chain(error));
    if error.is_connect() {
        Ended::Unavailable { why, retry_after: None }
    } else {
        Ended::Retryable { why, retry_after: None }
    }
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    crate::engines::retry_after(headers)
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_BYTES - body.len())]);
        if body.len() == MAX_BYTES {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tasks::AttemptClass, worker::testing};

    #[test]
    fn an_answer_ends_the_task_as_its_status_says() {
        let deep = format!("{}{}", "[".repeat(124), "]".repeat(124));
        let cases = [
            (200, "{\"ok\": true}", AttemptClass::Ok),
            (204, "", AttemptClass::Ok),
            (200, "<html>", AttemptClass::Retryable),
            (200, "{\"id\": 18446744073709551616}", AttemptClass::Permanent),
            (200, "{\"a\": 1, \"a\": 2}", AttemptClass::Permanent),
            (200, deep.as_str(), AttemptClass::Permanent),
            (429, "", AttemptClass::Unavailable),
            (503, "", AttemptClass::Unavailable),
            (500, "", AttemptClass::Retryable),
            (408, "", AttemptClass::Retryable),
            (400, "", AttemptClass::Permanent),
            (401, "", AttemptClass::Permanent),
            (404, "", AttemptClass::Permanent),
        ];
        for (status, body, class) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(meaning("http://h", status, None, body.as_bytes()).class(), class, "{status}");
        }
        let refused = meaning("http://h", StatusCode::BAD_REQUEST, None, br#"{"error": "no hay"}"#);
        assert_eq!(refused.error().as_deref(), Some("POST http://h: HTTP 400 Bad Request: no hay"));
    }

    #[test]
    fn the_agent_is_told_what_it_needs_and_gets_a_token_where_there_is_a_secret() {
        let secret = SigningSecret::generate();
        let task = testing::task(7);
        let told = body(&task, Some(&secret), Duration::from_secs(90));
        assert_eq!((&told["task"], &told["epoch"], &told["leaseSeconds"]), (&json!(7), &json!(1), &json!(90)));
        assert_eq!(told["payload"]["prompt"], "hello 7");
        assert_eq!(told["claimToken"], json!(claim_token(&secret, 7, 1)));
        assert_eq!(body(&task, None, Duration::from_secs(90))["claimToken"], Value::Null);
    }
}
