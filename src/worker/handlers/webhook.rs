//! A task sent to somebody's own agent: signed as Standard Webhooks describe, with a key that is the same for each repetition
//! of one execution. A 200 is its result; a 202 takes it over: heartbeats and the completion come by the API then.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{StatusCode, header};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::{
    host::{
        SigningSecret, header as names,
        sign::{claim_token, sign_as},
    },
    json,
    net::{Broken, HttpClient, redirected, shown},
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
    http: &HttpClient,
    url: &str,
    secret: Option<&SigningSecret>,
    task: &ClaimedTask,
    lease: Duration,
    timeout: Duration,
) -> Sent {
    let body = body(task, secret, lease).to_string();
    let key = format!("{}/{}", task.id, task.epoch);
    let mut request =
        http.post(url).header(header::CONTENT_TYPE, "application/json").header(names::IDEMPOTENCY_KEY, &key);
    if let Some(secret) = secret {
        let signature = sign_as(secret, format!("task_{}_{}", task.id, task.epoch), body.as_bytes(), Timestamp::now());
        for (name, value) in signature.headers() {
            request = request.header(name, value);
        }
    }
    let reply = match http.send_within(request.body(body), timeout).await {
        Ok(reply) => reply,
        Err(error) => return Sent::Ended(broken(url, &error)),
    };
    let status = reply.status();
    if let Some(redirect) = redirected(status, reply.headers()) {
        let why = format!("POST {}: {redirect}; nothing was sent there: correct the webhook's url", shown(url));
        return Sent::Ended(Ended::Permanent { why });
    }
    if status == StatusCode::ACCEPTED {
        return Sent::TakenOver;
    }
    let wait = crate::engines::retry_after(reply.headers());
    let body = match status.is_success() {
        true => reply.whole(MAX_BYTES).await,
        false => Ok(reply.refusal().await),
    };
    Sent::Ended(match body {
        Ok(body) => meaning(url, status, wait, &body),
        // It would be as long again.
        Err(error @ Broken::TooLong(_)) => Ended::Permanent { why: format!("POST {}: {error}", shown(url)) },
        Err(error) => broken(url, &error),
    })
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
    let why = || format!("POST {}: HTTP {status}: {}", shown(url), crate::engines::words_of(body));
    match status.as_u16() {
        200..=299 if body.trim_ascii().is_empty() => Ended::Ok { result: Value::Null },
        200..=299 => match json::value(body) {
            Ok(result) => Ended::Ok { result },
            Err(flaw) => {
                let why = format!("POST {}: HTTP {status} with a body that can't be kept as JSON: {flaw}", shown(url));
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

fn broken(url: &str, broken: &Broken) -> Ended {
    let why = format!("POST {}: {broken}", shown(url));
    match broken {
        // Nothing was sent.
        Broken::Refused | Broken::Unreachable(_) => Ended::Unavailable { why, retry_after: None },
        // Nothing was sent either, but somebody has to mend it: a few attempts, then a human.
        Broken::Tls(_) | Broken::NotHttp(_) => Ended::Retryable { why, retry_after: None },
        Broken::Reset | Broken::Timeout => Ended::Retryable { why, retry_after: None },
        Broken::Invalid(_) | Broken::TooLong(_) => Ended::Permanent { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{net::testing::answering, tasks::AttemptClass, worker::testing};

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
        assert_eq!(refused.error().as_deref(), Some("POST http://h/: HTTP 400 Bad Request: no hay"));
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

    async fn sent_to(port: u16) -> Sent {
        crate::net::install_crypto();
        let http = HttpClient::direct().unwrap();
        let (secret, url) = (SigningSecret::generate(), format!("http://127.0.0.1:{port}/hook?token=hunter2"));
        let (lease, timeout) = (Duration::from_secs(90), Duration::from_secs(20));
        send(&http, &url, Some(&secret), &testing::task(7), lease, timeout).await
    }

    #[tokio::test]
    async fn a_redirect_is_a_refusal_and_nothing_of_its_body_is_the_result() {
        for (status, body) in [("302 Found", ""), ("307 Temporary Redirect", "{\"internal\": 1}")] {
            let head = format!(
                "HTTP/1.1 {status}\r\nLocation: http://169.254.169.254/meta?x=y\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let sent = sent_to(answering(head, b"", false).await).await;
            let Sent::Ended(Ended::Permanent { why }) = &sent else { panic!("{sent:?}") };
            assert!(why.contains("http://169.254.169.254/meta)") && !why.contains("internal"), "{why}");
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_waited_out() {
        let begun = std::time::Instant::now();
        let taken = answering("HTTP/1.1 202 Accepted\r\nConnection: close\r\n\r\n", b" ", true).await;
        assert_eq!(sent_to(taken).await, Sent::TakenOver);
        let endless = answering("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", &[b' '; 65_536], true).await;
        let sent = sent_to(endless).await;
        assert!(matches!(&sent, Sent::Ended(Ended::Permanent { why }) if why.contains("longer than")), "{sent:?}");
        let failing = answering("HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n", &[b' '; 65_536], true).await;
        let sent = sent_to(failing).await;
        assert!(matches!(sent, Sent::Ended(Ended::Retryable { .. })), "{sent:?}");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }
}
