//! Services of other managers, by commands.

use ostler::host::{Action, Phase, ServiceState};
use serde_json::{Value, json};

use crate::real::free_port;

use super::bench::{Bench, OSTLER, eventually, kill_9};

/// A manager of its own: starts a process apart, keeps its pid in a file.
fn managed() -> Value {
    let sh = |script: &str| json!({"command": ["sh", "-c", script], "timeoutSeconds": 20});
    json!({
        "name": "brewed",
        "manager": "Command",
        "start": sh("echo s >> starts; setsid sleep 100000 >/dev/null 2>&1 & echo $! > pid"),
        "stop": sh("kill $(cat pid)"),
        "status": sh("kill -0 $(cat pid) && ! grep -q ') Z ' /proc/$(cat pid)/stat"),
    })
}

#[tokio::test]
async fn commands_start_stop_and_ask() {
    let bench = Bench::new();
    let agent = bench.start(json!([managed()])).await;
    agent.until("brewed", "up", |s| s.state == ServiceState::Running).await;
    let restarted = agent.operate("brewed", Action::Restart).await;
    assert_eq!(restarted.phase, Phase::Succeeded, "{}", restarted.message);
    assert_eq!(bench.text("starts").lines().count(), 2);
    let stopped = agent.operate("brewed", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    agent.until("brewed", "stopped", |s| s.state == ServiceState::Stopped).await;
    agent.end().await;
}

#[tokio::test]
async fn who_has_the_port_is_reported_at_once() {
    let bench = Bench::new();
    let port = free_port();
    let start = format!("{OSTLER} simulate --engine openai --listen 127.0.0.1:{port} >/dev/null 2>&1 & echo $! > pid");
    let mut settings = bench.settings(json!([{
        "name": "brewed",
        "manager": "Command",
        "start": {"command": ["sh", "-c", start]},
        "stop": {"command": ["sh", "-c", "kill $(cat pid)"]},
        "check": {"url": format!("http://127.0.0.1:{port}/v1/models")},
    }]));
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let up = agent.until("brewed", "up", |s| s.state == ServiceState::Running && s.operation.is_none()).await;
    let pid: i32 = bench.text("pid").trim().parse().unwrap();
    assert_eq!(up.instance.map(|i| i.pid as i32), Some(pid));
    kill_9(pid);
    agent.until("brewed", "down", |s| s.state == ServiceState::Stopped && s.instance.is_none()).await;
    agent.end().await;
}

#[tokio::test]
async fn a_command_that_fails_says_what_it_said_and_one_that_hangs_is_killed() {
    let mut service = managed();
    service["start"] = json!({"command": ["sh", "-c", "echo no such formula >&2; exit 4"]});
    let mut hanging = managed();
    hanging["name"] = json!("hanging");
    hanging["start"] =
        json!({"command": ["sh", "-c", "echo $$ > hanging.pid; exec sleep 100000"], "timeoutSeconds": 1});
    let bench = Bench::observing();
    let agent = bench.start(json!([service, hanging])).await;
    let failed = agent.operate("brewed", Action::Start).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert!(failed.message.contains("no such formula"), "{}", failed.message);
    let killed = agent.operate("hanging", Action::Start).await;
    assert!(killed.message.contains("within 1 s"), "{}", killed.message);
    let pid: i32 = bench.text("hanging.pid").trim().parse().unwrap();
    eventually("killed", || !super::bench::alive(pid)).await;
    agent.end().await;
}
