//! Tasks that clients claim by the API, on both databases: limits, leases, slots, retries.

use ostler::store::{Admission, BackendRow, Fence, ServerRow};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    bench::Bench,
    tasks::{add, declared},
};
use crate::real::Postgres;

const URL: &str = "http://127.0.0.1:11435";

macro_rules! on_both {
    ($($case:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case(super::Bench::new("").await).await;
            })*
        }
        mod real_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let url = tokio::task::spawn_blocking(|| super::Postgres::shared().database()).await.unwrap();
                super::$case(super::Bench::postgres(&url).await).await;
            })*
        }
    };
}

on_both! {
    a_claim_takes_a_slot_with_each_task_and_its_end_gives_it_back,
    a_task_without_a_call_takes_none_and_is_tried_again_by_the_queues_rules,
    a_claim_whose_slot_is_taken_away_is_over_and_uses_no_attempt,
    what_is_not_for_clients_is_not_claimed,
    a_claim_waits_for_what_comes,
}

async fn shop(bench: &Bench) -> Fence {
    let fence = bench.lead().await;
    bench.answer_rounds(fence.clone());
    let server =
        ServerRow { url: URL.into(), limit: 2, admission: Admission::Open, instance: None, calls_per_day: None };
    bench.store.put_server(&fence, &server).await.unwrap();
    let backend = BackendRow {
        uid: "b".into(),
        namespace: "default".into(),
        name: "mlx".into(),
        generation: 1,
        engine: "MLX".into(),
        url: URL.into(),
        server_url: URL.into(),
        priority: 10,
        spec: json!({"engine": "MLX", "url": URL, "models": [{"name": "m7b", "alias": "small"}], "concurrency": {"max": 2}}),
        state: "Serving".into(),
        reason: "Serving".into(),
        ready: true,
        ready_since: None,
    };
    bench.store.project_backend(&fence, &backend).await.unwrap();
    let chat = json!({"domains": ["talk"], "model": "small", "handler": "Chat", "systemPrompt": "Be brief.", "maxConcurrentTasks": 5});
    for row in [
        declared(
            "TaskQueue",
            "crawl",
            json!({"claimedBy": "Clients", "leaseSeconds": 60, "retry": {"maxAttempts": 2, "backoffSeconds": 3600, "maxBackoffSeconds": 3600}}),
        ),
        declared("TaskQueue", "default", json!({"leaseSeconds": 60})),
        declared("Expert", "igor", chat),
        declared("Expert", "typist", json!({"domains": ["type"], "handler": "External", "maxConcurrentTasks": 2})),
        declared(
            "Expert",
            "hook",
            json!({"domains": ["hook"], "handler": "Webhook", "webhook": {"url": "http://h:1"}}),
        ),
    ] {
        bench.store.project_declared(&fence, &row).await.unwrap();
    }
    fence
}

async fn give(bench: &Bench, domain: &str, count: usize) -> Vec<i64> {
    let ids = add(bench, &vec![json!({"queue": "crawl", "domain": domain, "prompt": "p"}); count]).await;
    bench.post("/api/v1/tasks/assign", None).await;
    ids
}

async fn claim(bench: &Bench, most: i32) -> Vec<Value> {
    let body = json!({"queues": ["crawl"], "worker": "py-1", "most": most});
    let (status, reply) = bench.post("/api/v1/claims", Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{reply}");
    reply["items"].as_array().unwrap().clone()
}

async fn say(bench: &Bench, claimed: &Value, what: &str, mut body: Value) -> (StatusCode, Value) {
    body["claim"] = claimed["claim"].clone();
    bench.post(&format!("/api/v1/tasks/{}/{what}", claimed["id"]), Some(body)).await
}

async fn task(bench: &Bench, claimed: &Value) -> Value {
    bench.get(&format!("/api/v1/tasks/{}", claimed["id"])).await.1
}

async fn taken(bench: &Bench) -> i64 {
    bench.store.servers().await.unwrap()[0].occupied
}

async fn a_claim_takes_a_slot_with_each_task_and_its_end_gives_it_back(bench: Bench) {
    shop(&bench).await;
    let ids = give(&bench, "talk", 3).await;
    let claimed = claim(&bench, 5).await;
    assert_eq!(claimed.len(), 2, "as many as the server has slots: {claimed:?}");
    assert_eq!(claimed[0]["id"], ids[0]);
    let call = &claimed[0]["call"];
    assert_eq!((&call["url"], &call["model"], &call["engine"]), (&URL.into(), &"m7b".into(), &"MLX".into()));
    assert_eq!((&call["systemPrompt"], &claimed[0]["attempt"]), (&"Be brief.".into(), &1.into()));
    assert_eq!((claim(&bench, 5).await.len(), taken(&bench).await), (0, 2));
    assert_eq!(say(&bench, &claimed[0], "heartbeat", json!({})).await, (StatusCode::OK, json!({"leaseSeconds": 60})));
    let ended = say(&bench, &claimed[0], "complete", json!({"result": {"text": "hi"}})).await;
    assert_eq!(ended, (StatusCode::OK, json!({"state": "completed"})));
    assert_eq!(taken(&bench).await, 1);
    let attempt = &task(&bench, &claimed[0]).await["attempts"][0];
    assert_eq!(
        (&attempt["holder"], &attempt["backend"], &attempt["model"]),
        (&"py-1".into(), &"mlx".into(), &"m7b".into())
    );
    let twice = say(&bench, &claimed[0], "complete", json!({"result": 1})).await;
    assert_eq!(twice.0, StatusCode::CONFLICT, "{}", twice.1);
    assert_eq!(claim(&bench, 5).await.len(), 1, "the third, in the slot that is free now");
}

async fn a_task_without_a_call_takes_none_and_is_tried_again_by_the_queues_rules(bench: Bench) {
    shop(&bench).await;
    let ids = give(&bench, "type", 3).await;
    let claimed = claim(&bench, 5).await;
    assert_eq!((claimed.len(), taken(&bench).await), (2, 0), "maxConcurrentTasks of the expert: {claimed:?}");
    assert!(claimed[0].get("call").is_none());
    let ended = say(&bench, &claimed[0], "complete", json!({"error": "away", "unavailable": true})).await;
    assert_eq!(ended.1["state"], "pending", "{ended:?}");
    let failed = task(&bench, &claimed[0]).await;
    assert_eq!((&failed["attemptsUsed"], &failed["attempts"][0]["class"]), (&0.into(), &"Unavailable".into()));
    let ended = say(&bench, &claimed[1], "complete", json!({"error": "broken"})).await;
    assert_eq!(ended.1["state"], "pending", "{ended:?}");
    assert_eq!(task(&bench, &claimed[1]).await["attemptsUsed"], 1);
    let third = claim(&bench, 1).await;
    assert_eq!(third[0]["id"], ids[2], "the others wait for their next attempt");
    let ended = say(&bench, &third[0], "complete", json!({"error": "never", "retryable": false})).await;
    assert_eq!(ended.1["state"], "failed");
    let schema = json!({"type": "object", "required": ["n"]});
    let id = add(&bench, &[json!({"queue": "crawl", "domain": "type", "prompt": "p", "schema": schema})]).await[0];
    bench.post("/api/v1/tasks/assign", None).await;
    // The first may be due again by now.
    let claimed = claim(&bench, 5).await;
    let claimed = claimed.iter().find(|claimed| claimed["id"] == id).expect("it is claimed");
    assert_eq!(say(&bench, claimed, "complete", json!({"result": {"m": 1}})).await.1["state"], "pending");
    let reason = task(&bench, claimed).await["reason"].to_string();
    assert!(reason.contains("\\\"n\\\" is a required property"), "{reason}");
}

async fn a_claim_whose_slot_is_taken_away_is_over_and_uses_no_attempt(bench: Bench) {
    let fence = shop(&bench).await;
    give(&bench, "talk", 1).await;
    let claimed = claim(&bench, 1).await;
    assert_eq!(bench.store.abort_slots(&fence, URL).await.unwrap(), 1);
    let (status, reply) = say(&bench, &claimed[0], "heartbeat", json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{reply}");
    let given_back = task(&bench, &claimed[0]).await;
    assert_eq!((&given_back["state"], &given_back["attemptsUsed"]), (&"pending".into(), &0.into()));
    assert!(given_back["reason"].as_str().unwrap().contains("its slot was taken away"), "{given_back}");
    assert_eq!(taken(&bench).await, 0, "nobody calls any more");
}

async fn what_is_not_for_clients_is_not_claimed(bench: Bench) {
    shop(&bench).await;
    let (status, reply) = bench.post("/api/v1/claims", Some(json!({"queues": ["default"], "worker": "py"}))).await;
    assert_eq!(
        (status, &reply["error"]),
        (StatusCode::CONFLICT, &"the tasks of queue default/default are done by workers".into())
    );
    let (status, _) = bench.post("/api/v1/claims", Some(json!({"queues": ["none"], "worker": "py"}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, reply) =
        bench.post("/api/v1/claims", Some(json!({"queues": ["crawl"], "worker": "py", "most": 99}))).await;
    assert_eq!((status, &reply["error"]), (StatusCode::BAD_REQUEST, &"most: is 99: write 1 to 16".into()));
    let hooked = give(&bench, "hook", 1).await;
    let external = add(&bench, &[json!({"domain": "type", "prompt": "p"})]).await;
    bench.post("/api/v1/tasks/assign", None).await;
    assert_eq!(claim(&bench, 5).await.len(), 0, "a webhook's task is sent by a worker");
    for (id, word) in
        [(hooked[0], "set its handler to External"), (external[0], "set claimedBy of the TaskQueue to Clients")]
    {
        let why = bench.get(&format!("/api/v1/tasks/{id}/explain")).await.1;
        assert!(why["why"].as_str().unwrap().contains(word), "{why}");
    }
    let waits = give(&bench, "type", 1).await[0];
    let why = bench.get(&format!("/api/v1/tasks/{waits}/explain")).await.1;
    assert_eq!(why["why"], "it waits for a client that claims it (POST /api/v1/claims)");
}

async fn a_claim_waits_for_what_comes(bench: Bench) {
    shop(&bench).await;
    let body = json!({"queues": ["crawl"], "worker": "py-1", "waitSeconds": 30});
    let began = std::time::Instant::now();
    let (claimed, given) = tokio::join!(bench.post("/api/v1/claims", Some(body)), give(&bench, "type", 1));
    assert_eq!(claimed.1["items"][0]["id"], given[0], "{}", claimed.1);
    assert!(began.elapsed().as_secs() < 20, "it was told");
}
