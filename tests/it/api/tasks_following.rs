//! Tasks by the API: followed as they end, and ended by the agents that they were handed over to.

use std::time::{Duration, Instant};

use futures::StreamExt;
use ostler::{
    host::{SigningSecret, sign::claim_token},
    store::{FreeClaim, Served, TaskCommand, TaskFilter},
    tasks::QueueKey,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    bench::Bench,
    tasks::{add, declared, shop},
};

async fn cancel(bench: &Bench, id: i64) {
    let one = TaskFilter { ids: vec![id], ..TaskFilter::default() };
    bench.store.command_tasks(&one, &TaskCommand::Cancel, "by ada", 1).await.unwrap();
}

#[tokio::test]
async fn results_come_once_in_the_order_of_their_ends_and_are_waited_for() {
    let (bench, _) = shop("").await;
    let ids = add(&bench, &[json!({"prompt": "a"}), json!({"prompt": "b"}), json!({"prompt": "c"})]).await;
    let (_, none) = bench.get("/api/v1/tasks/results").await;
    assert_eq!(none["items"], json!([]));
    let mut after = none["next"].as_str().unwrap().to_owned();
    let mut seen = Vec::new();
    for id in [ids[2], ids[0]] {
        let since = Instant::now();
        let path = format!("/api/v1/tasks/results?wait=20&after={after}");
        let waiting = bench.get(&path);
        let ((status, page), ()) = tokio::join!(waiting, cancel(&bench, id));
        assert_eq!(status, StatusCode::OK, "{page}");
        assert!(since.elapsed() < Duration::from_secs(15), "it did not wait to the end");
        seen.extend(page["items"].as_array().unwrap().iter().map(|t| t["id"].as_i64().unwrap()));
        after = page["next"].as_str().unwrap().to_owned();
    }
    assert_eq!(seen, [ids[2], ids[0]]);
    for bad in ["after=yesterday", "state=pending"] {
        assert_eq!(bench.get(&format!("/api/v1/tasks/results?{bad}")).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
}

/// Events of a stream: id and data, as many as asked for.
async fn events(response: reqwest::Response, count: usize) -> Vec<(String, Value)> {
    let mut stream = response.bytes_stream();
    let (mut text, mut events) = (String::new(), Vec::new());
    let read = async {
        while events.len() < count {
            text.push_str(std::str::from_utf8(&stream.next().await.expect("goes on").unwrap()).unwrap());
            while let Some((event, rest)) = text.clone().split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
                if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
                    assert_eq!(field("event:").as_deref(), Some("task"));
                    events.push((id, serde_json::from_str(&data).unwrap()));
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("events come");
    events
}

#[tokio::test]
async fn changes_are_sent_as_events_that_can_be_resumed() {
    let (bench, _) = shop("").await;
    let open = bench.open("/api/v1/tasks/events?queue=default", None).await;
    assert_eq!(open.headers()["content-type"], "text/event-stream");
    let ids = add(&bench, &[json!({"prompt": "a", "key": "k"}), json!({"prompt": "b", "queue": "nightly"})]).await;
    let first = events(open, 1).await;
    assert_eq!(
        (&first[0].1["id"], &first[0].1["state"], &first[0].1["key"]),
        (&json!(ids[0]), &json!("pending"), &json!("k"))
    );
    // While nobody listens.
    cancel(&bench, ids[0]).await;
    let resumed = bench.open("/api/v1/tasks/events?queue=default", Some(&first[0].0)).await;
    let second = events(resumed, 1).await;
    assert_eq!((&second[0].1["id"], &second[0].1["state"]), (&json!(ids[0]), &json!("cancelled")));
    assert_eq!(second[0].1["reason"], "by ada");
}

/// A task of the webhook expert `hook`, handed over; with its claim's epoch.
async fn handed_over(bench: &Bench) -> (i64, i64) {
    let id = add(bench, &[json!({"prompt": "a", "expert": "hook"})]).await[0];
    bench.post("/api/v1/tasks/assign", None).await;
    let queue = QueueKey { namespace: "default".into(), name: "default".into() };
    let lease = bench.store.open_lease("w", &queue, Duration::from_secs(60)).await.unwrap();
    let claim = FreeClaim { queues: vec![Served { queue, lease }], most: 1 };
    let claimed = bench.store.claim_free(&claim).await.unwrap();
    let epoch = claimed[0].task.epoch;
    bench.store.hand_over(id, epoch, Duration::from_secs(60)).await.unwrap();
    (id, epoch)
}

async fn agents_shop() -> (Bench, SigningSecret) {
    let secret = SigningSecret::generate();
    let manifest = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: hook}}\nstringData: {{signingSecret: {}}}\n",
        secret.expose()
    );
    let (bench, fence) = shop(&manifest).await;
    let spec = json!({"handler": "Webhook", "webhook": {"url": "http://127.0.0.1:1", "secretRef": {"name": "hook"}}, "maxConcurrentTasks": 5});
    bench.store.project_declared(&fence, &declared("Expert", "hook", spec)).await.unwrap();
    (bench, secret)
}

#[tokio::test]
async fn an_agent_keeps_and_ends_its_task_by_the_claim_token_alone() {
    let (bench, secret) = agents_shop().await;
    let (id, epoch) = handed_over(&bench).await;
    let token = claim_token(&secret, id, epoch);
    let say =
        async |token: &str, path: &str, body: Option<Value>| bench.ask(Some(token), Method::POST, path, body).await;
    let (heartbeat, complete) = (format!("/api/v1/tasks/{id}/heartbeat"), format!("/api/v1/tasks/{id}/complete"));
    let (status, beat) = say(&token, &heartbeat, None).await;
    assert_eq!((status, &beat["leaseSeconds"]), (StatusCode::OK, &json!(60)), "{beat}");
    for forged in [
        claim_token(&SigningSecret::generate(), id, epoch),
        claim_token(&secret, id + 1, epoch),
        token.replace("claim_", "claim_0"),
    ] {
        assert_eq!(say(&forged, &heartbeat, None).await.0, StatusCode::UNAUTHORIZED, "{forged}");
    }
    assert_eq!(say(&claim_token(&secret, id, epoch + 1), &heartbeat, None).await.0, StatusCode::CONFLICT);
    assert_eq!(say(&token, "/api/v1/tasks", None).await.0, StatusCode::UNAUTHORIZED, "it opens nothing else");
    let (status, body) = say(&token, &complete, Some(json!({}))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, done) = say(&token, &complete, Some(json!({"result": {"text": "Looks good."}}))).await;
    assert_eq!((status, &done["state"]), (StatusCode::OK, &json!("completed")), "{done}");
    let (status, late) = say(&token, &complete, Some(json!({"error": "no"}))).await;
    assert_eq!((status, &late["reason"]), (StatusCode::CONFLICT, &json!("NotHere")), "{late}");
    let (_, task) = bench.get(&format!("/api/v1/tasks/{id}")).await;
    assert_eq!((&task["result"], &task["attempts"][0]["class"]), (&json!({"text": "Looks good."}), &json!("Ok")));
}

#[tokio::test]
async fn an_agents_error_is_tried_again_or_fails_or_goes_to_a_human() {
    let (bench, secret) = agents_shop().await;
    for (body, expected) in
        [(json!({"error": "busy"}), "pending"), (json!({"error": "never", "retryable": false}), "failed")]
    {
        let (id, epoch) = handed_over(&bench).await;
        let path = format!("/api/v1/tasks/{id}/complete");
        let (_, done) = bench.ask(Some(&claim_token(&secret, id, epoch)), Method::POST, &path, Some(body)).await;
        assert_eq!(done["state"], expected, "{done}");
    }
    // Without a claim token: whoever may change tasks, with the epoch.
    let (id, epoch) = handed_over(&bench).await;
    let path = format!("/api/v1/tasks/{id}/complete");
    assert_eq!(bench.post(&path, Some(json!({"result": 1}))).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(bench.post(&path, Some(json!({"result": 1, "epoch": epoch - 1}))).await.0, StatusCode::CONFLICT);
    assert_eq!(bench.post(&path, Some(json!({"result": 1, "epoch": epoch}))).await.1["state"], "completed");
}
