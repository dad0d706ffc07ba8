//! What the API shows, it read from the store and the folder.

use std::time::Duration;

use jiff::Timestamp;
use ostler::store::{
    Admission, BackendRow, JournalEntry, Observation, ResourceKey, ServerRow, SlotAnswer, SlotPurpose, SlotRequest,
};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::bench::{Bench, TEAM};

const URL: &str = "http://127.0.0.1:11435";

#[tokio::test]
async fn a_backend_is_shown_with_its_slots_and_its_last_probe() {
    let bench = Bench::new(TEAM).await;
    let (fence, uid) = (bench.lead().await, bench.uid("mlx").await);
    let row = BackendRow {
        uid: uid.clone(),
        namespace: "default".into(),
        name: "mlx".into(),
        generation: 1,
        engine: "MLX".into(),
        url: URL.into(),
        server_url: URL.into(),
        priority: 10,
        spec: json!({}),
        state: "Serving".into(),
        reason: "Serving".into(),
        ready: true,
        ready_since: None,
    };
    bench.store.project_backend(&fence, &row).await.unwrap();
    let server =
        ServerRow { url: URL.into(), limit: 2, admission: Admission::Open, instance: None, calls_per_day: None };
    bench.store.put_server(&fence, &server).await.unwrap();
    let request = SlotRequest {
        server_url: URL.into(),
        holder: "a worker".into(),
        purpose: SlotPurpose::Call,
        class: None,
        caller: None,
        model: None,
        lease: Duration::from_secs(60),
        call_within: Duration::from_secs(60),
    };
    assert!(matches!(bench.store.take_slot(&request).await.unwrap(), SlotAnswer::Given(_)));
    let at = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let seen = Observation {
        probe_at: Some(at),
        probe_verdict: Some("Models".into()),
        probe_millis: Some(3),
        ..Observation::default()
    };
    bench.store.record_observations(&fence, &[(uid.clone(), seen.clone())]).await.unwrap();

    let (status, item) = bench.get("/api/v1/llm/default/mlx").await;
    assert_eq!(status, StatusCode::OK, "{item}");
    assert_eq!(item["spec"]["concurrency"]["min"], 1, "defaults are filled in");
    let live = &item["live"];
    assert_eq!((&live["slotsInUse"], &live["limit"], &live["admission"]), (&json!(1), &json!(2), &json!("Open")));
    assert_eq!(live["lastProbe"], json!({"at": at.to_string(), "verdict": "Models", "millis": 3}));

    let (_, screen) = bench.get("/api/v1/status").await;
    let line = screen["backends"].as_array().unwrap().iter().find(|b| b["name"] == "mlx").unwrap();
    assert_eq!((&line["slotsInUse"], &line["limit"]), (&json!(1), &json!(2)));
    assert_eq!(screen["leader"]["epoch"], fence.epoch);
}

#[tokio::test]
async fn lists_are_narrowed_by_namespace() {
    let bench = Bench::new(TEAM).await;
    for (query, names) in [("", vec!["mlx", "ollama"]), ("?namespace=team", vec!["ollama"]), ("?namespace=x", vec![])] {
        let (_, list) = bench.get(&format!("/api/v1/llmbackends{query}")).await;
        let found: Vec<_> = list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].clone()).collect();
        assert_eq!(found, names, "{query}");
    }
}

#[tokio::test]
async fn a_broken_manifest_is_named_with_file_line_and_field_and_the_rest_is_served() {
    let bench = Bench::new(TEAM).await;
    let (_, problems) = bench.get("/api/v1/problems").await;
    let all = problems["items"].as_array().unwrap();
    let unknown = all.iter().find(|p| p["field"] == "spec.uri").unwrap_or_else(|| panic!("{problems}"));
    assert_eq!((&unknown["file"], &unknown["error"]), (&json!("team.yaml"), &json!(true)));
    let line = TEAM.lines().position(|l| l.contains("uri:")).unwrap() + 1;
    assert_eq!(unknown["line"], line);
    let (_, screen) = bench.get("/api/v1/status").await;
    assert_eq!((screen["backends"].as_array().unwrap().len(), &screen["healthy"]), (2, &json!(false)));
}

#[tokio::test]
async fn events_are_read_newest_first_and_by_resource() {
    let bench = Bench::new(TEAM).await;
    for (second, name) in [(1_000, "mlx"), (2_000, "ollama"), (3_000, "mlx")] {
        let about = ResourceKey { kind: "LLMBackend".into(), namespace: "default".into(), name: name.into() };
        let at = Timestamp::now() - jiff::SignedDuration::from_secs(10_000 - second);
        let entry = JournalEntry { at, about, warning: false, reason: format!("At{second}"), message: String::new() };
        bench.store.append(&entry).await.unwrap();
    }
    let reasons = async |query: &str| {
        let (status, list) = bench.get(&format!("/api/v1/events{query}")).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        let items = list["items"].as_array().unwrap().iter().map(|e| e["reason"].as_str().unwrap().to_owned());
        items.collect::<Vec<_>>()
    };
    assert_eq!(reasons("").await, ["At3000", "At2000", "At1000"]);
    assert_eq!(reasons("?kind=llm&name=mlx&limit=1").await, ["At3000"]);
    let since = Timestamp::now() - jiff::SignedDuration::from_secs(8_500);
    assert_eq!(reasons(&format!("?since={since}")).await, ["At3000", "At2000"]);
    assert_eq!(bench.get("/api/v1/events?since=yesterday").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn health_names_the_loop_that_is_stuck() {
    let bench = Bench::new(TEAM).await;
    let get = async |path: &str| bench.ask(None, Method::GET, path, None).await;
    assert_eq!(get("/livez").await.0, StatusCode::OK);
    assert_eq!(get("/readyz").await.0, StatusCode::OK);
    let _late = bench.loops.register("the sweep", Duration::ZERO);
    let stop = tokio_util::sync::CancellationToken::new();
    let clock = tokio::spawn(bench.loops.clone().keep_time(stop.clone()));
    let deadline = Timestamp::now() + jiff::SignedDuration::from_secs(20);
    loop {
        let (status, text) = get("/livez").await;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(text.as_str().unwrap().contains("the sweep"), "{text}");
            break;
        }
        assert!(Timestamp::now() < deadline, "still {status}: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.cancel();
    clock.await.unwrap();
    let (_, page) = get("/metrics").await;
    assert!(page.as_str().unwrap().contains("ostler_leader 0"), "{page}");
}
