//! What comes to the API from strangers and by mistake: refused early, cheaply, and with words.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use ostler::{
    host::{SigningSecret, sign::claim_token},
    http::{Access, AuthError, Authorizer, Person, ResourceHome},
    store::seal,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    bench::{Bench, TEAM, TOKEN},
    tasks::{add, declared, shop},
};

/// Counts who asks it, and lets nobody in.
#[derive(Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl Authorizer for Counting {
    async fn authorize(&self, _: &str, _: &Access) -> Result<Person, AuthError> {
        self.0.fetch_add(1, SeqCst);
        Err(AuthError::BadToken)
    }
}

/// Sends a text as it is, and reads what comes until the other side closes, or for a while.
async fn raw(bench: &Bench, text: &str) -> String {
    let mut stream = TcpStream::connect(bench.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64 * 1024];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read.unwrap()]).into_owned()
}

#[tokio::test]
async fn a_body_is_not_read_before_the_credentials_were() {
    let bench = Bench::new(TEAM).await;
    for token in ["claim_1_1_x", "claim_9223372036854775807_1_x", "no such token"] {
        for path in ["tasks", "tasks/1/complete", "tasks/1/heartbeat", "tasks/commands", "pause"] {
            // Nothing of the announced body is ever sent.
            let head = format!(
                "POST /api/v1/{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
                 content-type: application/json\r\ncontent-length: 4000000\r\n\r\n"
            );
            let answer = raw(&bench, &head).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{path} with {token}: {answer}");
        }
    }
}

#[tokio::test]
async fn no_claim_token_makes_the_cluster_be_asked() {
    let (counting, secret, key) =
        (Arc::new(Counting::default()), SigningSecret::generate(), seal::Key::parse(&seal::Key::generate()).unwrap());
    let asked = Arc::clone(&counting);
    let bench = Bench::sealed(Arc::clone(&counting) as Arc<dyn Authorizer>, ResourceHome::Cluster, key.clone()).await;
    let fence = bench.lead().await;
    let hook = json!({"handler": "Webhook", "webhook": {"url": "http://127.0.0.1:1", "secretRef": {"name": "hook"}}, "maxConcurrentTasks": 5});
    let data = [("signingSecret".to_owned(), secret.expose().into_bytes())].into();
    for row in [
        declared("TaskQueue", "default", json!({"leaseSeconds": 60})),
        declared("Expert", "hook", hook),
        seal::seal(&key, "default", "hook", &data, None).unwrap(),
    ] {
        bench.store.project_declared(&fence, &row).await.unwrap();
    }
    let (id, epoch) = bench.hand_over("hook", &fence).await;
    let forged = claim_token(&SigningSecret::generate(), id, epoch);
    for (token, path) in [
        (forged.as_str(), format!("/api/v1/tasks/{id}/heartbeat")),
        ("claim_1_1_x", format!("/api/v1/tasks/{id}/complete")),
        ("claim_1_1_x", "/api/v1/tasks/99/complete".to_owned()),
        ("claim_1_1_x", "/api/v1/pause".to_owned()),
    ] {
        let (status, body) = bench.ask(Some(token), Method::POST, &path, None).await;
        assert_eq!((status, &body["reason"]), (StatusCode::UNAUTHORIZED, &json!("BadToken")), "{path}: {body}");
    }
    let good = claim_token(&secret, id, epoch);
    let (status, body) = bench.ask(Some(&good), Method::POST, &format!("/api/v1/tasks/{id}/heartbeat"), None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(asked.0.load(SeqCst), 0);
    bench.ask(Some("another token"), Method::GET, "/api/v1/tasks", None).await;
    assert_eq!(asked.0.load(SeqCst), 1);
}

#[tokio::test]
async fn every_refusal_has_an_error_a_reason_and_a_hint() {
    let (bench, _) = shop(TEAM).await;
    let long = "x".repeat(5_000);
    let post = |path: &str, kind: &'static str, body: &str| (Method::POST, path.to_owned(), kind, body.to_owned());
    let get = |path: &str| (Method::GET, path.to_owned(), "", String::new());
    let cases = [
        (get("/api/v1/tasks?limit=many"), 400, "limit"),
        (get("/api/v1/tasks?limit=0"), 400, "limit is 0"),
        (get("/api/v1/tasks?colour=red"), 400, "colour"),
        (get("/api/v1/tasks?limit=1&limit=2"), 400, "limit"),
        (get("/api/v1/tasks?after=x"), 400, "after"),
        (get("/api/v1/tasks?state=done"), 400, "state"),
        (get("/api/v1/tasks/results?before=3"), 400, "before"),
        (get("/api/v1/tasks/events?limit=3"), 400, "limit"),
        (get("/api/v1/tasks/abc"), 400, "path"),
        (get("/api/v1/tasks/%ff"), 400, "path"),
        (get("/api/v1/tasks/99999999999999999999"), 400, "path"),
        (get("/api/v1/tasks/4711"), 404, "task 4711"),
        (get("/api/v1/llm/default/none"), 404, "does not exist"),
        (get("/api/v1/pods"), 404, "pods"),
        (get("/elsewhere"), 404, "/elsewhere"),
        (get("/api/v1/events?limit=0"), 400, "limit"),
        (get("/api/v1/status?name=x"), 400, "name"),
        (get("/api/v1/events?kind=pods"), 400, "kind"),
        ((Method::DELETE, "/api/v1/status".to_owned(), "", String::new()), 405, "DELETE /api/v1/status"),
        ((Method::PUT, "/api/v1/tasks".to_owned(), "application/json", "{}".to_owned()), 405, "PUT"),
        (post("/api/v1/pause", "application/json", "[]"), 400, "is no JSON object"),
        (post("/api/v1/pause", "application/json", "[60]"), 400, "is no JSON object"),
        (post("/api/v1/pause", "application/json", "null"), 400, "is no JSON object"),
        (post("/api/v1/pause", "application/json", "{"), 400, "is no JSON"),
        (post("/api/v1/pause", "application/json", "{\"forSeconds\": \"1h\"}"), 400, "forSeconds"),
        (post("/api/v1/pause", "application/json", "{\"forSeconds\": 1, \"forSeconds\": 2}"), 400, "stands twice"),
        (post("/api/v1/pause", "text/yaml", "forSeconds: 60"), 415, "text/yaml"),
        (post("/api/v1/pause", "application/json", "\u{1}"), 400, "is no JSON object"),
        (post("/api/v1/tasks/commands", "application/json", ""), 400, "is empty"),
        (post("/api/v1/tasks/commands", "application/json", "[\"cancel\"]"), 400, "is no JSON object"),
        (post("/api/v1/tasks/commands", "application/json", "{\"command\": \"burn\"}"), 400, "burn"),
        (
            post(
                "/api/v1/tasks/commands",
                "application/json",
                &format!("{{\"command\": \"cancel\", \"all\": true, \"reason\": \"{long}\"}}"),
            ),
            400,
            "reason",
        ),
        (post("/api/v1/tasks", "application/xml", "<task/>"), 415, "application/xml"),
        (post("/api/v1/tasks", "application/json", ""), 400, "no task"),
        (post("/api/v1/tasks?dryRun=maybe", "application/json", "{}"), 400, "dryRun"),
        (
            post("/api/v1/tasks", "application/json", "{\"prompt\": \"a\", \"prompt\": \"b\"}"),
            422,
            "prompt: stands twice",
        ),
        (
            post("/api/v1/services/nobody/x/stop", "application/json", &format!("{{\"reason\": \"{long}\"}}")),
            400,
            "reason",
        ),
    ];
    for ((method, path, kind, body), expected, word) in cases {
        let mut request = bench.request(method.clone(), &path).bearer_auth(TOKEN);
        if !kind.is_empty() {
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let said: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {status} {text:?}"));
        assert_eq!(status, expected, "{method} {path}: {said}");
        for field in ["error", "reason", "hint"] {
            assert!(said[field].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}: {field} in {said}");
        }
        assert!(text.contains(word), "{method} {path}: {word} is not in {said}");
        for word in ["deserialize", "i64", "u32", "struct ", "Rust"] {
            assert!(!text.contains(word), "{method} {path}: {said}");
        }
        if status == 405 {
            assert!(headers.contains_key("allow"), "{method} {path}: {headers:?}");
        }
    }
    let packed = bench.request(Method::POST, "/api/v1/tasks").bearer_auth(TOKEN).header("content-encoding", "gzip");
    let answer = packed.body(vec![0x1f, 0x8b, 8, 0]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answer.text().await.unwrap().contains("compressed (gzip)"));
}

#[tokio::test]
async fn what_is_taken_can_be_read_and_comes_back_as_it_was() {
    let (bench, _) = shop("").await;
    // The task itself is the first level.
    let deep = (0..62).fold(json!([1]), |inner, _| json!([inner]));
    let numbers = json!([
        18446744073709551615_u64,
        -9223372036854775808_i64,
        0.1,
        0.30000000000000004,
        1e300,
        0.8414709848078965
    ]);
    for data in [deep, numbers] {
        let id = add(&bench, &[json!({"data": data})]).await[0];
        let (status, task) = bench.get(&format!("/api/v1/tasks/{id}")).await;
        assert_eq!((status, &task["payload"]["data"]), (StatusCode::OK, &data));
    }
    let (_, list) = bench.get("/api/v1/tasks?full=true").await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2), "{list}");
    for (line, field) in [
        ("{\"data\": {\"id\": 18446744073709551616}}".to_owned(), "data.id"),
        ("{\"data\": [-0]}".to_owned(), "data[0]"),
        ("{\"prompt\": \"a\", \"labels\": {\"a\": \"1\", \"a\": \"2\"}}".to_owned(), "labels.a"),
        (
            "{\"messages\": [{\"role\": \"user\", \"role\": \"user\", \"content\": \"a\"}]}".to_owned(),
            "messages[0].role",
        ),
        (format!("{{\"data\": {}{}}}", "[".repeat(124), "]".repeat(124)), "data[0]"),
        ("{\"prompt\": \"a\", \"schema\": {\"pattern\": \"(?=a)\"}}".to_owned(), "schema.pattern"),
        ("{\"prompt\": \"a\", \"schema\": {\"$ref\": \"http://127.0.0.1:1/x\"}}".to_owned(), "schema.$ref"),
    ] {
        let (status, body) = bench.text("/api/v1/tasks", &format!("{{\"prompt\": \"good\"}}\n{line}\n")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{line}: {body}");
        let problem = &body["problems"][0];
        assert_eq!(problem["line"], 2, "{line}: {body}");
        assert!(problem["field"].as_str().unwrap_or_default().starts_with(field), "{line}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    let bench = Bench::new(TEAM).await;
    let mut idle = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(bench.address()).await.unwrap();
        // Some are silent, some begin a request that they never end.
        if idle.len() % 2 == 0 {
            let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n").await;
        }
        idle.push(stream);
    }
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        let answer = raw(&bench, "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[tokio::test]
async fn pages_of_large_tasks_end_by_their_bytes_and_lose_none() {
    let (bench, _) = shop("").await;
    let text = "x".repeat(1_000_000);
    let tasks: Vec<Value> = (0..40).map(|i| json!({"prompt": format!("{i} {text}")})).collect();
    let mut ids = Vec::new();
    for some in tasks.chunks(20) {
        ids.extend(add(&bench, some).await);
    }
    let (mut seen, mut before) = (Vec::new(), String::new());
    loop {
        let (status, page) = bench.get(&format!("/api/v1/tasks?full=true&limit=1000{before}")).await;
        assert_eq!(status, StatusCode::OK);
        let items = page["items"].as_array().unwrap();
        assert!((1..=33).contains(&items.len()), "{}", items.len());
        seen.extend(items.iter().map(|task| task["id"].as_i64().unwrap()));
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    ids.reverse();
    assert_eq!(seen, ids);
    let (_, brief) = bench.get("/api/v1/tasks?limit=1000").await;
    assert_eq!((brief["items"].as_array().map(Vec::len), &brief["next"]), (Some(40), &Value::Null));
}
