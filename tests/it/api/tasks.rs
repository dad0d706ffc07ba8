//! Tasks by the API: given in, seen and changed.

use ostler::store::{DeclaredRow, Fence};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::bench::{Bench, TOKEN};

pub fn declared(kind: &str, name: &str, spec: Value) -> DeclaredRow {
    DeclaredRow {
        uid: format!("{kind}-{name}"),
        kind: kind.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        generation: 1,
        labels: Default::default(),
        spec,
        suspended: false,
        held: None,
    }
}

/// The queues `default` and `nightly`, the experts `igor` and `olga`; led by the test.
pub async fn shop(manifests: &str) -> (Bench, Fence) {
    let bench = Bench::new(manifests).await;
    let fence = bench.lead().await;
    bench.answer_rounds(fence.clone());
    let expert = |name: &str, domain: &str| {
        declared(
            "Expert",
            name,
            json!({"domains": [domain], "roles": ["engineer"], "model": "small", "maxConcurrentTasks": 5, "handler": "Chat"}),
        )
    };
    for row in [
        declared("TaskQueue", "default", json!({"leaseSeconds": 60, "retry": {"maxAttempts": 2}})),
        declared("TaskQueue", "nightly", json!({"leaseSeconds": 60})),
        expert("igor", "backend"),
        expert("olga", "backend"),
    ] {
        bench.store.project_declared(&fence, &row).await.unwrap();
    }
    (bench, fence)
}

pub async fn add(bench: &Bench, lines: &[Value]) -> Vec<i64> {
    let (status, reply) = bench.post("/api/v1/tasks", Some(Value::Array(lines.to_vec()))).await;
    assert_eq!(status, StatusCode::CREATED, "{reply}");
    reply["items"].as_array().unwrap().iter().map(|item| item["id"].as_i64().unwrap()).collect()
}

fn prompts(count: usize) -> Vec<Value> {
    (0..count)
        .map(|i| json!({"prompt": format!("task {i}"), "domain": "backend", "labels": {"n": i.to_string()}}))
        .collect()
}

async fn count(bench: &Bench) -> i64 {
    bench.store.count_tasks(&Default::default()).await.unwrap()
}

#[tokio::test]
async fn lines_are_taken_and_keys_are_taken_once() {
    let (bench, _) = shop("").await;
    let lines = "{\"prompt\": \"a\", \"key\": \"k1\"}\n\n{\"prompt\": \"b\", \"key\": \"k2\"}\n{\"prompt\": \"c\", \"key\": \"k1\"}\n";
    let (status, first) = bench.text("/api/v1/tasks", lines).await;
    assert_eq!((status, &first["inserted"], &first["existed"]), (StatusCode::CREATED, &json!(2), &json!(1)), "{first}");
    assert_eq!(first["items"][0]["id"], first["items"][2]["id"]);
    let (status, again) = bench.text("/api/v1/tasks", lines).await;
    assert_eq!((status, &again["inserted"]), (StatusCode::OK, &json!(0)), "{again}");
    assert_eq!(again["items"][1]["id"], first["items"][1]["id"]);
    assert_eq!(count(&bench).await, 2);
    let (status, one) = bench.text("/api/v1/tasks?dryRun=true", "{\"prompt\": \"z\"}").await;
    assert_eq!((status, &one["inserted"], count(&bench).await), (StatusCode::OK, &json!(0), 2));
}

#[tokio::test]
async fn what_is_wrong_is_told_by_line_and_nothing_is_half_in() {
    let (bench, _) = shop("").await;
    let huge = format!("{{\"prompt\": \"{}\"}}", "x".repeat(2 * 1024 * 1024));
    let cases = [
        (r#"{"prompt": "a", "queue": "nowhere"}"#, "queue", "there is no TaskQueue \"nowhere\""),
        (r#"{"prompt": ""}"#, "prompt", "is empty"),
        (huge.as_str(), "prompt", "1048576 are allowed"),
        (r#"{"prompt": "a""#, "", "is no JSON"),
        (r#"{"prompt": "a", "promt": "b"}"#, "promt", "did you mean"),
        (r#"{"prompt": "a", "expert": "boris"}"#, "expert", "there are igor, olga"),
        (r#"{"prompt": "a", "priority": 1000}"#, "priority", "-100 to 100"),
    ];
    for (line, field, message) in cases {
        let (status, body) = bench.text("/api/v1/tasks", &format!("{{\"prompt\": \"good\"}}\n{line}\n")).await;
        assert_eq!((status, &body["reason"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("InvalidTasks")), "{body}");
        let problem = &body["problems"][0];
        assert_eq!((&problem["line"], problem["field"].as_str().unwrap_or("")), (&json!(2), field), "{body}");
        assert!(problem["message"].as_str().unwrap().contains(message), "{body}");
    }
    let (status, body) = bench.text("/api/v1/tasks", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    assert_eq!(count(&bench).await, 0);
}

#[tokio::test]
async fn ten_thousand_come_in_one_request_and_one_more_is_refused() {
    let (bench, _) = shop("").await;
    let line = "{\"prompt\": \"Say hello.\", \"domain\": \"backend\"}\n";
    let (status, body) = bench.text("/api/v1/tasks", &line.repeat(10_001)).await;
    assert_eq!((status, &body["reason"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("TooLarge")), "{body}");
    assert_eq!(count(&bench).await, 0);
    let (status, body) = bench.text("/api/v1/tasks", &line.repeat(10_000)).await;
    assert_eq!((status, &body["inserted"]), (StatusCode::CREATED, &json!(10_000)));
    assert_eq!(count(&bench).await, 10_000);
    let (_, queues) = bench.get("/api/v1/tasks/queues").await;
    assert_eq!(
        (&queues["items"][0]["pending"], &queues["items"][1]["queue"]),
        (&json!(10_000), &json!("nightly")),
        "{queues}"
    );
}

#[tokio::test]
async fn lists_are_filtered_and_paged_newest_first() {
    let (bench, _) = shop("").await;
    let ids = add(&bench, &prompts(5)).await;
    let list = async |query: &str| {
        let (status, body) = bench.get(&format!("/api/v1/tasks?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let ids: Vec<i64> = body["items"].as_array().unwrap().iter().map(|t| t["id"].as_i64().unwrap()).collect();
        (ids, body["next"].as_i64(), body)
    };
    let (first, next, body) = list("limit=2").await;
    assert_eq!((first, next), (vec![ids[4], ids[3]], Some(ids[3])));
    assert_eq!(body["items"][0]["payload"], json!({}), "brief");
    let (rest, next, _) = list(&format!("limit=4&before={}", ids[3])).await;
    assert_eq!((rest, next), (vec![ids[2], ids[1], ids[0]], None));
    assert_eq!(list("labels=n%3D3").await.0, [ids[3]]);
    assert_eq!(list(&format!("ids={},{}", ids[0], ids[1])).await.0, [ids[1], ids[0]]);
    assert_eq!(list("state=failed").await.0, [0_i64; 0]);
    assert_eq!(list("namespace=other").await.0, [0_i64; 0]);
    assert_eq!(list("full=true&limit=1").await.2["items"][0]["payload"]["prompt"], "task 4");
    for bad in ["state=done", "limit=0", "ids=x", "statee=failed"] {
        assert_eq!(bench.get(&format!("/api/v1/tasks?{bad}")).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    let (status, one) = bench.get(&format!("/api/v1/tasks/{}", ids[2])).await;
    assert_eq!((status, &one["payload"]["prompt"]), (StatusCode::OK, &json!("task 2")));
    for missing in ["999999".to_owned(), format!("{}?namespace=other", ids[2])] {
        let (status, body) = bench.get(&format!("/api/v1/tasks/{missing}")).await;
        assert_eq!((status, &body["reason"]), (StatusCode::NOT_FOUND, &json!("NotFound")), "{missing}");
    }
}

#[tokio::test]
async fn assignment_is_reported_first_dry_then_done_and_a_task_says_why_it_waits() {
    let (bench, _) = shop("").await;
    let mut tasks = prompts(4);
    tasks.push(json!({"prompt": "sue", "domain": "legal"}));
    let ids = add(&bench, &tasks).await;
    for dry in [true, false] {
        let (status, report) = bench.post(&format!("/api/v1/tasks/assign?dryRun={dry}"), None).await;
        assert_eq!(status, StatusCode::OK, "{report}");
        assert_eq!(
            [&report["pending"], &report["unassigned"], &report["already"]],
            [&json!(5), &json!(5), &json!(0)],
            "{report}"
        );
        let given: Vec<_> =
            report["assigned"].as_array().unwrap().iter().map(|g| (&g["expert"], &g["count"])).collect();
        assert_eq!(given, [(&json!("igor"), &json!(2)), (&json!("olga"), &json!(2))], "{report}");
        assert!(report["nobody"][0]["why"].as_str().unwrap().contains("legal"), "{report}");
    }
    let (_, elsewhere) = bench.post("/api/v1/tasks/assign?namespace=team", None).await;
    assert_eq!([&elsewhere["pending"], &elsewhere["already"]], [&json!(0), &json!(0)], "{elsewhere}");
    // Empty is every namespace, and is answered at once.
    let (_, report) = bench.post("/api/v1/tasks/assign?namespace=", None).await;
    assert_eq!([&report["already"], &report["assigned"]], [&json!(4), &json!([])], "{report}");
    let (_, nobody) = bench.get(&format!("/api/v1/tasks/{}/explain", ids[4])).await;
    assert!(nobody["why"].as_str().unwrap().contains("no expert does \"legal\""), "{nobody}");
    let (_, waits) = bench.get(&format!("/api/v1/tasks/{}/explain", ids[0])).await;
    assert_eq!((&waits["state"], &waits["expert"]), (&json!("pending"), &json!("igor")));
    assert!(waits["why"].as_str().unwrap().contains("no backend serves \"small\""), "{waits}");
    let (_, experts) = bench.get("/api/v1/tasks/experts").await;
    assert_eq!(
        (&experts["items"][0]["name"], &experts["items"][0]["pending"]),
        (&json!("igor"), &json!(2)),
        "{experts}"
    );
    let (_, status) = bench.get("/api/v1/status").await;
    let line = &status["queues"][0];
    assert_eq!(
        (&line["name"], &line["waiting"], &line["level"]),
        (&json!("default"), &json!(5), &json!("Warning")),
        "{status}"
    );
    assert_eq!(line["detail"], "4: no backend serves \"small\" · 1: no expert does \"legal\"");
}

#[tokio::test]
async fn commands_change_one_or_all_that_match_and_count_first() {
    let (bench, _) = shop("").await;
    let ids = add(&bench, &prompts(4)).await;
    let command = async |body: Value| bench.post("/api/v1/tasks/commands", Some(body)).await;
    let state = async |id: i64| bench.get(&format!("/api/v1/tasks/{id}")).await.1["state"].clone();
    for (bad, word) in [
        (json!({"command": "cancel"}), "set ids, a filter, or all"),
        (json!({"command": "cancel", "all": true, "ids": [1]}), "remove one of them"),
        (json!({"command": "cancel", "ids": [1], "to": "igor"}), "only `reassign`"),
        (json!({"command": "reassign", "ids": [1]}), "say which expert"),
        (json!({"command": "reassign", "ids": [1], "to": "boris"}), "there are: igor, olga"),
    ] {
        let (status, body) = command(bad.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {body}");
        assert!(body["error"].as_str().unwrap().contains(word), "{bad}: {body}");
    }
    let (_, dry) = command(json!({"command": "cancel", "domain": "backend", "dryRun": true})).await;
    assert_eq!((&dry["count"], state(ids[0]).await), (&json!(4), json!("pending")));
    let (_, one) = command(json!({"command": "cancel", "ids": [ids[0], ids[0]], "reason": "wrong"})).await;
    assert_eq!(one, json!({"count": 1, "ids": [ids[0]]}));
    let (_, task) = bench.get(&format!("/api/v1/tasks/{}", ids[0])).await;
    assert_eq!((&task["state"], &task["reason"]), (&json!("cancelled"), &json!("by ada: wrong")));
    let (_, none) = command(json!({"command": "close", "ids": [ids[1]]})).await;
    assert_eq!(none["count"], 0, "nothing needs a human");
    let (_, moved) = command(json!({"command": "reassign", "all": true, "to": "olga"})).await;
    assert_eq!(moved["count"], 3);
    assert_eq!(bench.get(&format!("/api/v1/tasks/{}", ids[1])).await.1["assignedModel"], "small");
    let (_, again) = command(json!({"command": "retry", "states": ["cancelled"]})).await;
    assert_eq!((&again["count"], state(ids[0]).await), (&json!(1), json!("pending")));
    command(json!({"command": "cancel", "all": true})).await;
    let purge =
        async |query: &str| bench.ask(Some(TOKEN), Method::DELETE, &format!("/api/v1/tasks?{query}"), None).await;
    assert_eq!(purge("namespace=default").await.0, StatusCode::BAD_REQUEST, "nothing was named");
    assert_eq!(purge("all=true&dryRun=true").await.1["count"], 4);
    assert_eq!(purge(&format!("ids={}", ids[3])).await.1, json!({"count": 1, "ids": [ids[3]]}));
    assert_eq!(purge("all=true").await.1["count"], 3);
    assert_eq!(count(&bench).await, 0);
}
