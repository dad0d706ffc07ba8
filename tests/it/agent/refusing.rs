//! What is refused is refused with its reason, and counted.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
};

use jiff::{SignedDuration, Timestamp};
use ostler::host::{
    AgentRefusal, SigningSecret,
    sign::{self, Bound, Signature},
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::bench::{Bench, Running, sleeper, write};

const TOKEN: &str = "a-token-for-tests-only";

async fn agent_with_both(bench: &Bench) -> Running {
    write(&bench.path("token"), TOKEN);
    let mut settings = bench.settings(json!([sleeper("one")]));
    settings.spec.auth.token_file = Some("token".into());
    bench.start_with(settings).await
}

fn request(agent: &Running, method: Method, path: &str) -> RequestBuilder {
    reqwest::Client::new().request(method, format!("{}{path}", agent.handle.url()))
}

/// A signature for this agent, over these words of the request.
fn signature(secret: &SigningSecret, method: &str, path: &str, body: &str, at: Timestamp) -> Signature {
    let bound = Bound { agent: "bench", method, path, ..Bound::default() };
    sign::sign_request(secret, bound, body.as_bytes(), at)
}

fn carrying(request: RequestBuilder, signature: &Signature) -> RequestBuilder {
    signature.headers().into_iter().fold(request, |r, (name, value)| r.header(name, value))
}

/// A signed `GET /v1/report`.
fn signed(request: RequestBuilder, secret: &SigningSecret, at: Timestamp) -> RequestBuilder {
    carrying(request, &signature(secret, "GET", "/v1/report", "", at))
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_named_and_counted() {
    let bench = Bench::new();
    let agent = agent_with_both(&bench).await;
    let now = Timestamp::now();
    let minutes = |n: i64| now + SignedDuration::from_mins(n);
    let get = || request(&agent, Method::GET, "/v1/report");
    let post = |path: &str| request(&agent, Method::POST, path);
    let bearer = |r: RequestBuilder| r.bearer_auth(TOKEN);
    let operation = |fields: Value| {
        let mut body = json!({"service": "one", "action": "Hold", "owner": "Suspend"});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        bearer(post("/v1/operations")).body(body.to_string())
    };
    let epoch = |r: RequestBuilder, epoch: &str| {
        r.header("ostler-installation", bench.installation.to_string()).header("ostler-epoch", epoch)
    };
    let replayed = signature(&bench.secret, "GET", "/v1/report", "", now);
    let replay = || carrying(get(), &replayed);
    assert_eq!(replay().send().await.unwrap().status(), 200, "the first time it is no replay");
    assert_eq!(epoch(operation(json!({})), "5").send().await.unwrap().status(), 202);

    let cases: Vec<(&str, RequestBuilder, u16, AgentRefusal)> = vec![
        ("nothing", get(), 401, AgentRefusal::NoCredentials),
        ("another scheme", get().header("authorization", "Basic eDp5"), 401, AgentRefusal::BadToken),
        ("wrong token", get().bearer_auth("a-token-for-tests-onlx"), 401, AgentRefusal::BadToken),
        ("another's signature", signed(get(), &SigningSecret::generate(), now), 401, AgentRefusal::BadSignature),
        ("half a signature", get().header("webhook-id", "msg_1"), 401, AgentRefusal::BadSignature),
        (
            "a signature over another body",
            carrying(post("/v1/care"), &signature(&bench.secret, "POST", "/v1/care", "{}", now)).body("{ }"),
            401,
            AgentRefusal::BadSignature,
        ),
        (
            "a signature over another path",
            carrying(post("/v1/care"), &signature(&bench.secret, "POST", "/v1/operations", "{}", now)).body("{}"),
            401,
            AgentRefusal::BadSignature,
        ),
        (
            "a signature over the body alone",
            carrying(get(), &sign::sign(&bench.secret, b"", now)),
            401,
            AgentRefusal::BadSignature,
        ),
        (
            "a request for another agent",
            carrying(
                get(),
                &sign::sign_request(
                    &bench.secret,
                    Bound { agent: "other", method: "GET", path: "/v1/report", ..Bound::default() },
                    b"",
                    now,
                ),
            )
            .header("ostler-agent", "other"),
            401,
            AgentRefusal::WrongAgent,
        ),
        ("the epoch of a liar", epoch(operation(json!({})), "9223372036854775807"), 400, AgentRefusal::BadRequest),
        (
            "a reason without end",
            epoch(operation(json!({"reason": "x".repeat(1025)})), "5"),
            400,
            AgentRefusal::BadRequest,
        ),
        ("signed six minutes ago", signed(get(), &bench.secret, minutes(-6)), 401, AgentRefusal::StaleTimestamp),
        ("signed in six minutes", signed(get(), &bench.secret, minutes(6)), 401, AgentRefusal::StaleTimestamp),
        ("a replayed id", replay(), 401, AgentRefusal::ReplayedId),
        ("a lower epoch", epoch(operation(json!({})), "4"), 409, AgentRefusal::LowerEpoch),
        ("no epoch", operation(json!({})), 409, AgentRefusal::LowerEpoch),
        ("an epoch that is no number", epoch(operation(json!({})), "x"), 400, AgentRefusal::BadRequest),
        ("an unknown service", epoch(operation(json!({"service": "two"})), "5"), 404, AgentRefusal::UnknownService),
        (
            "a service named as a path",
            epoch(operation(json!({"service": "../one"})), "5"),
            404,
            AgentRefusal::UnknownService,
        ),
        ("an unknown action", epoch(operation(json!({"action": "Explode"})), "5"), 400, AgentRefusal::BadRequest),
        ("an unknown field", epoch(operation(json!({"force": true})), "5"), 400, AgentRefusal::BadRequest),
        ("no JSON", bearer(post("/v1/operations")).body("{"), 400, AgentRefusal::BadRequest),
        (
            "care of nobody's service",
            epoch(bearer(post("/v1/care")).body(r#"{"services":["two"]}"#), "5"),
            404,
            AgentRefusal::UnknownService,
        ),
        (
            "care for ever",
            epoch(bearer(post("/v1/care")).body(r#"{"services":["one"],"seconds":99999}"#), "5"),
            400,
            AgentRefusal::BadRequest,
        ),
        ("an oversized body", bearer(post("/v1/operations")).body("x".repeat(70_000)), 413, AgentRefusal::BodyTooLarge),
        (
            "an oversized body of unknown length",
            bearer(post("/v1/operations")).body(reqwest::Body::wrap_stream(futures::stream::iter(
                (0..70).map(|_| Ok::<_, std::io::Error>("x".repeat(1000))),
            ))),
            413,
            AgentRefusal::BodyTooLarge,
        ),
        (
            "an unknown operation",
            bearer(request(&agent, Method::GET, "/v1/operations/none")),
            404,
            AgentRefusal::UnknownOperation,
        ),
        ("an unknown path", get_path(&agent, "/v2/report"), 404, AgentRefusal::BadPath),
        ("another method", bearer(request(&agent, Method::DELETE, "/v1/report")), 405, AgentRefusal::BadMethod),
        ("recover without a token", post("/recover"), 401, AgentRefusal::NoCredentials),
        ("recover with a wrong token", post("/recover/wrong"), 401, AgentRefusal::BadToken),
    ];
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for (name, request, status, reason) in cases {
        let answer = request.send().await.unwrap();
        let got = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        assert_eq!((got, body["reason"].as_str().unwrap()), (status, reason.as_str()), "{name}: {body}");
        assert!(body["error"].as_str().is_some_and(|e| e.len() > 10), "{name}: {body}");
        *counts.entry(reason.as_str()).or_default() += 1;
    }
    let page = get_path(&agent, "/metrics").send().await.unwrap().text().await.unwrap();
    for (reason, count) in counts {
        let line = format!(r#"ostler_agent_refusals_total{{agent="bench",reason="{reason}"}} {count}"#);
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    assert!(agent.service("one").await.holds.iter().all(|h| h.owner == ostler::host::HoldOwner::Suspend));
    agent.end().await;
}

fn get_path(agent: &Running, path: &str) -> RequestBuilder {
    request(agent, Method::GET, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_leads_past_the_credentials() {
    let bench = Bench::new();
    let agent = agent_with_both(&bench).await;
    for path in [
        "//v1/report",
        "/v1/../v1/report",
        "/livez/../v1/report",
        "/metrics/..%2fv1/report",
        "/v1%2freport",
        "/v1/report/",
        "/./v1/report",
        "/V1/report",
        "/v1/report;x",
        "/v1/report?token=a-token-for-tests-only",
        "/v1/operations/..%2f..%2freport",
        "/v1/operations/%2e%2e/report",
        "/v1/operations/%ff",
        "/recover/%ff",
        "http://127.0.0.1/v1/report",
    ] {
        let mut stream = TcpStream::connect(agent.handle.local_addr).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        tokio::task::block_in_place(|| stream.read_to_string(&mut answer)).unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(matches!(status, 400 | 401 | 404 | 405), "{path}: {answer}");
        assert!(!answer.contains("freeBytes"), "{path}: {answer}");
    }
    agent.end().await;
}

#[tokio::test]
async fn ids_and_epochs_are_remembered_by_the_next_agent() {
    let bench = Bench::new();
    let agent = agent_with_both(&bench).await;
    let (installation, body) = (bench.installation.to_string(), r#"{"service":"one","action":"Hold","owner":"Pause"}"#);
    let with_epoch = |agent: &Running, epoch: i64| {
        request(agent, Method::POST, "/v1/operations")
            .header("ostler-installation", &installation)
            .header("ostler-epoch", epoch.to_string())
            .body(body)
    };
    let hold = |agent: &Running, epoch: i64| with_epoch(agent, epoch).bearer_auth(TOKEN);
    let (method, path) = ("POST", "/v1/operations");
    let bound = Bound { agent: "bench", method, path, installation: &installation, epoch: "9", ..Bound::default() };
    let signature = sign::sign_request(&bench.secret, bound, body.as_bytes(), Timestamp::now());
    let ask = |agent: &Running| carrying(with_epoch(agent, 9), &signature);
    assert_eq!(ask(&agent).send().await.unwrap().status(), 202);
    assert_eq!(hold(&agent, 9).send().await.unwrap().status(), 202);
    agent.end().await;
    let agent = agent_with_both(&bench).await;
    assert_eq!(ask(&agent).send().await.unwrap().status(), 401);
    assert_eq!(hold(&agent, 8).send().await.unwrap().status(), 409);
    assert_eq!(hold(&agent, 9).send().await.unwrap().status(), 202);
    agent.end().await;
}
