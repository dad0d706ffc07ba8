//! Logs are rotated under a service that goes on writing, and read for lack of memory.

use ostler::host::Action;
use serde_json::json;

use super::bench::{Bench, eventually};

#[tokio::test]
async fn a_log_is_rotated_while_its_service_writes() {
    let bench = Bench::new();
    let script = "i=0; while :; do i=$((i+1)); echo line $i of many; sleep 0.01; done";
    let log = json!({"file": "chatty.log", "maxBytes": "1Ki", "files": 2});
    let service = json!({"name": "chatty", "start": {"command": ["sh", "-c", script]}, "log": log});
    let agent = bench.start(json!([service])).await;
    eventually("rotated twice", || bench.path("chatty.log.2").exists()).await;
    let number = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    // In this order: a rotation in between makes the newer one newer still.
    let older = bench.text("chatty.log.2");
    let newest = bench.text("chatty.log.1");
    assert!(older.lines().last().and_then(number) < newest.lines().next().and_then(number));
    eventually("writing on", || !bench.text("chatty.log").is_empty()).await;
    assert!(!bench.path("chatty.log.3").exists());
    agent.operate("chatty", Action::Stop).await;
    agent.end().await;
}

#[tokio::test]
async fn a_lack_of_memory_in_the_log_is_reported() {
    let bench = Bench::new();
    let script = "test -e warned || { touch warned; echo 'metal: Insufficient Memory'; exit 1; }; exec sleep 100000";
    let service = json!({"name": "mlx", "start": {"command": ["sh", "-c", script]},
        "outOfMemoryPatterns": ["Insufficient Memory"]});
    let agent = bench.start(json!([service])).await;
    let seen = agent.until("mlx", "out of memory", |s| s.out_of_memory_at.is_some()).await;
    let up = agent.until("mlx", "up", |s| s.instance.is_some()).await;
    assert_eq!(seen.out_of_memory_at, up.out_of_memory_at, "it was out of memory once");
    agent.operate("mlx", Action::Stop).await;
    agent.end().await;
}
