//! What people set outside of manifests is kept in the store.

use std::sync::Arc;

use ostler::http::{ResourceHome, TokenAuthorizer};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::bench::{Bench, TEAM, TOKEN};

#[tokio::test]
async fn a_suspension_is_kept_with_who_and_taken_back() {
    let bench = Bench::new(TEAM).await;
    let mlx = "/api/v1/llmbackends/default/mlx";
    assert_eq!(bench.post(&format!("{mlx}/suspend"), None).await.0, StatusCode::OK);
    let kept = bench.store.controls().await.unwrap().suspended;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].0.name.as_str(), kept[0].1.suspended, kept[0].1.by.as_str()), ("mlx", true, "ada"));
    assert_eq!(bench.get(mlx).await.1["live"]["suspension"]["by"], "ada");
    assert_eq!(bench.post(&format!("{mlx}/resume"), None).await.0, StatusCode::OK);
    assert_eq!(bench.store.controls().await.unwrap().suspended, []);
}

#[tokio::test]
async fn a_resume_overrules_the_manifest() {
    let bench = Bench::new(TEAM).await;
    bench.post("/api/v1/llm/team/ollama/resume", None).await;
    let kept = bench.store.controls().await.unwrap().suspended;
    assert_eq!((kept.len(), kept[0].1.suspended), (1, false));
}

#[tokio::test]
async fn a_reconcile_leaves_a_new_token_each_time() {
    let bench = Bench::new(TEAM).await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (status, _) = bench.post("/api/v1/llm/default/mlx/reconcile", None).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        tokens.push(bench.store.controls().await.unwrap().reconcile_requested[0].1.clone());
    }
    assert_ne!(tokens[0], tokens[1]);
}

#[tokio::test]
async fn a_pause_has_an_end_or_none_and_ends_on_request() {
    let bench = Bench::new(TEAM).await;
    let pause = async |body| bench.post("/api/v1/pause", body).await.0;
    let kept = async || bench.store.controls().await.unwrap().pause;
    assert_eq!(pause(None).await, StatusCode::OK);
    assert_eq!(kept().await.unwrap().until, None);
    assert_eq!(pause(Some(json!({"forSeconds": 60}))).await, StatusCode::OK);
    let paused = kept().await.unwrap();
    assert_eq!(paused.until.unwrap().duration_since(paused.since).as_secs(), 60);
    for bad in [json!({"forSeconds": 0}), json!({"forSeconds": "1h"}), json!({"for": 60})] {
        let status = pause(Some(bad.clone())).await;
        assert!(status.is_client_error(), "{bad}: {status}");
    }
    let (_, screen) = bench.get("/api/v1/status").await;
    assert_eq!(screen["pause"]["by"], "ada");
    assert_eq!(bench.ask(Some(TOKEN), Method::DELETE, "/api/v1/pause", None).await.0, StatusCode::OK);
    assert_eq!(kept().await, None);
}

#[tokio::test]
async fn in_a_cluster_its_api_server_keeps_suspend_resume_and_reconcile() {
    let bench = Bench::with(TEAM, Arc::new(TokenAuthorizer::new(TOKEN, "ada")), ResourceHome::Cluster).await;
    for word in ["suspend", "resume", "reconcile"] {
        let (status, body) = bench.post(&format!("/api/v1/llm/default/mlx/{word}"), None).await;
        assert_eq!((status, &body["reason"]), (StatusCode::CONFLICT, &json!("NotHere")), "{word}");
        assert!(body["hint"].as_str().unwrap().contains("kubectl"), "{body}");
    }
    assert_eq!(bench.store.controls().await.unwrap(), Default::default());
}

#[tokio::test]
async fn down_is_heard_by_the_process() {
    let bench = Bench::new(TEAM).await;
    assert_eq!(bench.post("/api/v1/down", None).await.0, StatusCode::ACCEPTED);
    assert!(bench.down.is_cancelled());
}

#[tokio::test]
async fn what_people_did_is_read_back_as_events() {
    let bench = Bench::new(TEAM).await;
    bench.post("/api/v1/llm/default/mlx/suspend", None).await;
    bench.post("/api/v1/llm/default/mlx/resume", None).await;
    bench.post("/api/v1/pause", None).await;
    bench.ask(Some(TOKEN), Method::DELETE, "/api/v1/pause", None).await;
    bench.ask(Some(TOKEN), Method::DELETE, "/api/v1/pause", None).await;
    let (_, list) = bench.get("/api/v1/events").await;
    let seen: Vec<_> = list["items"].as_array().unwrap().iter().rev().map(|e| e["reason"].as_str().unwrap()).collect();
    assert_eq!(seen, ["Suspended", "Resumed", "Paused", "Unpaused"]);
    assert_eq!(list["items"][3]["message"], "by ada");
}
