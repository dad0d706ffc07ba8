//! `onFinished`: each end of a task arrives, signed, in the order of its task, whatever fails meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use ostler::host::{
    SigningSecret,
    sign::{self, Signature},
};
use serde_json::{Value, json};

use super::harness::{PATIENCE, Up};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What arrived, with the id under which it did; the first attempt at each is refused.
#[derive(Default)]
struct Got {
    seen: BTreeSet<String>,
    told: Vec<(String, Value)>,
}

async fn receive(State(got): State<Arc<Mutex<Got>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let given = Signature {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let secret = SigningSecret::parse(SECRET).unwrap();
    if sign::verify(&secret, &given, &body, jiff::Timestamp::now()).is_err() {
        return StatusCode::UNAUTHORIZED;
    }
    let mut got = got.lock().unwrap();
    if got.seen.insert(given.id.clone()) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    got.told.push((given.id, serde_json::from_slice(&body).unwrap()));
    StatusCode::NO_CONTENT
}

#[tokio::test]
async fn each_end_of_a_task_arrives_signed_and_in_order_through_failures_and_a_killed_leader() {
    let (got, listener) = (Arc::<Mutex<Got>>::default(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let hook = listener.local_addr().unwrap();
    let router = Router::new().route("/ended", post(receive)).with_state(Arc::clone(&got));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut up = Up::start(&[(
        "all.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: hook}}\nstringData: {{signingSecret: {SECRET}}}\n---\n\
             apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {{name: crawl}}\nspec:\n  claimedBy: Clients\n  \
             onFinished: {{url: 'http://{hook}/ended', secretRef: {{name: hook}}}}\n"
        ),
    )])
    .await;
    up.until_of("taskqueues", "crawl", "it is open", |seen| seen["status"]["state"] == "Open").await;
    up.add_tasks((0..5).map(|n| json!({"queue": "crawl", "prompt": "p", "key": format!("k{n}")})));
    let tasks = |command: &str| up.ostler_ok(&["tasks", command, "-q", "crawl", "--yes"]);
    for command in ["cancel", "retry", "cancel"] {
        tasks(command);
    }
    // Each was refused once by now, or is about to be: its second attempt is the successor's.
    let began = Instant::now();
    while got.lock().unwrap().seen.is_empty() {
        assert!(began.elapsed() < PATIENCE, "nothing arrives: {}", up.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    up.kill();
    up.run(&[]).await;
    let ends = || {
        let mut ends: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for (id, body) in &got.lock().unwrap().told {
            assert_eq!((&body["type"], &body["queue"]), (&"ostler.task.finished".into(), &"crawl".into()));
            assert_eq!(body["state"], "cancelled", "{body}");
            // Once more is possible: under the same id.
            if ids.insert(id.clone()) {
                ends.entry(body["key"].as_str().unwrap().to_owned()).or_default().push(body["cycle"].as_i64().unwrap());
            }
        }
        ends
    };
    while ends().values().map(Vec::len).sum::<usize>() < 10 {
        assert!(began.elapsed() < PATIENCE, "{:?}: {}", ends(), up.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ends(), (0..5).map(|n| (format!("k{n}"), vec![1, 2])).collect());
    assert!(up.reasons_of("TaskQueue", "crawl").await.contains(&"CallbackFailed".to_owned()));
    up.kill();
}
