//! Why a service is down is told: what its program said, who has its port; and what was stopped for a restart comes back.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use ostler::host::{Action, Phase, ServiceState};
use serde_json::{Value, json};

use crate::real::free_port;

use super::bench::{Bench, OSTLER, alive, engine, eventually, sleeper, with, write};

#[tokio::test]
async fn a_program_that_is_not_there_or_not_executable_is_named() {
    let bench = Bench::new();
    write(&bench.path("script"), "#!/bin/sh\nexec sleep 100000\n");
    let script = bench.path("script").display().to_string();
    let agent = bench
        .start(json!([
            {"name": "missing", "start": {"command": ["mlx_lm.server.nowhere", "--port", "8080"]}},
            {"name": "locked", "start": {"command": [script]}},
        ]))
        .await;
    let missing = agent.until("missing", "told", |s| s.last_failure.is_some()).await.last_failure.unwrap();
    assert!(missing.starts_with("can't run mlx_lm.server.nowhere: no such file in PATH"), "{missing}");
    let locked = agent.until("locked", "told", |s| s.last_failure.is_some()).await.last_failure.unwrap();
    assert!(locked.starts_with(&format!("can't run {script}: permission denied")), "{locked}");
    agent.end().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_who_has_it() {
    let bench = Bench::new();
    let port = free_port();
    // The one that has it is left by the service itself: the agent saw a free port, the server did not.
    let agent = bench.start(json!([leaves_a_holder(port, "", "")])).await;
    let failed = agent.until("llm", "told", |s| s.last_failure.is_some()).await.last_failure.unwrap();
    assert!(
        failed.starts_with("exited with code 1 after ") && failed.contains("[Errno 98] Address already in use"),
        "{failed}"
    );
    assert!(
        failed.contains(&format!("(port {port} is held by pid ")) && failed.contains(" ostler of user "),
        "{failed}"
    );
    assert!(!failed.contains('\u{1b}') && failed.chars().count() <= 300, "{failed}");
    agent.operate("llm", Action::Stop).await;
    agent.end().await;
}

/// A service that starts an engine, waits until that listens, and ends because its port is taken.
fn leaves_a_holder(port: u16, options: &str, pause: &str) -> Value {
    let listens = format!("grep -q ':{port:04X} [0-9A-F:]* 0A ' /proc/net/tcp");
    let script = "printf '\\033[31mOSError: [Errno 98] Address already in use\\033[0m\\n' >&2; exit 1";
    let engine = format!("{OSTLER} simulate --engine openai --listen 127.0.0.1:{port} {options}");
    json!({
        "name": "llm",
        "start": {"command": ["sh", "-c", format!("{engine} & until {listens}; do sleep 0.05; done; {pause} {script}")]},
        "check": {"url": format!("http://127.0.0.1:{port}/v1/models"), "timeoutSeconds": 10},
    })
}

#[tokio::test]
async fn an_answer_of_what_a_process_left_running_does_not_hide_that_it_ended() {
    let bench = Bench::new();
    let port = free_port();
    // It is asked while it runs; the answer comes when it has ended.
    let service = leaves_a_holder(port, "--fault latency:millis=3000", "sleep 1.5;");
    let mut settings = bench.settings(json!([service]));
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let told = agent.until("llm", "told", |s| s.last_failure.is_some()).await;
    assert_eq!(told.state, ServiceState::Stopped);
    let counted = agent.until("llm", "a failed start", |s| s.failed_starts_in_row == 1).await;
    let failed = counted.last_failure.unwrap_or_default();
    assert!(failed.contains("Address already in use"), "{failed}");
    agent.operate("llm", Action::Stop).await;
    agent.end().await;
}

#[tokio::test]
async fn who_is_in_the_way_of_a_service_is_told() {
    let bench = Bench::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let agent = bench.start(json!([engine("llm", port)])).await;
    let seen = agent.until("llm", "foreign", |s| s.state == ServiceState::Foreign).await;
    let told = seen.last_failure.unwrap();
    assert!(told.starts_with(&format!("port {port} is held by pid {}", std::process::id())), "{told}");
    drop(taken);
    let up = agent.until("llm", "up", |s| s.state == ServiceState::Running).await;
    assert_eq!(up.last_failure, None);
    agent.end().await;
}

#[tokio::test]
async fn a_restart_waits_for_the_port_that_its_own_old_process_left() {
    let bench = Bench::new();
    let port = free_port();
    // The server is in a session of its own and nobody's child: it goes a while after the process that the agent stops.
    let holder = format!(
        "{OSTLER} simulate --engine openai --listen 127.0.0.1:{port} & S=$!; \
         while kill -0 $1 2>/dev/null && ! grep -q ') Z ' /proc/$1/stat; do sleep 0.1; done; sleep 3; kill -9 $S"
    );
    write(&bench.path("holder.sh"), &holder);
    let first = "test -e again && exec sleep 100000; touch again; (setsid sh holder.sh $$ >/dev/null 2>&1 &); exec sleep 100000";
    let service = json!({
        "name": "llm",
        "stopGraceSeconds": 1,
        "startupSeconds": 20,
        "start": {"command": ["sh", "-c", format!("echo $$ >> llm.starts; {first}")]},
        "check": {"url": format!("http://127.0.0.1:{port}/v1/models"), "timeoutSeconds": 1},
    });
    let agent = bench.start(json!([service])).await;
    eventually("held", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let pid = bench.starts("llm.starts")[0];
    let request = ostler::host::OperationRequest::new("llm", Action::Restart, "test");
    let asked = agent.client.operate(&request, "restart", agent.caller).await.unwrap();
    eventually("started again", || bench.starts("llm.starts").len() == 2).await;
    assert!(!alive(pid));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is free by then");
    // The second one never listens: the operation is ended by the stop.
    agent.operate("llm", Action::Stop).await;
    let restart = agent.finished(&asked.id).await;
    assert!(!restart.message.contains("held by"), "{}", restart.message);
    agent.end().await;
}

#[tokio::test]
async fn a_restart_of_which_only_the_stop_was_done_is_finished_within_seconds() {
    let bench = Bench::new();
    // Its log can't be opened for a while: nothing can be started.
    let mut settings = bench.settings(json!([with(sleeper("one"), json!({"log": {"file": "logs/one.log"}}))]));
    settings.spec.self_check_seconds = 3600;
    std::fs::create_dir(bench.path("logs")).unwrap();
    let agent = bench.start_with(settings).await;
    agent.until("one", "up", |s| s.instance.is_some() && s.operation.is_none()).await;
    std::fs::rename(bench.path("logs"), bench.path("away")).unwrap();
    let restart = agent.operate("one", Action::Restart).await;
    assert_eq!(restart.phase, Phase::Failed, "{}", restart.message);
    let down = agent.service("one").await;
    assert!(down.instance.is_none() && down.last_failure.is_some(), "{down:#?}");
    std::fs::rename(bench.path("away"), bench.path("logs")).unwrap();
    let up = agent.until("one", "up again", |s| s.instance.is_some()).await;
    assert_eq!(up.self_starts.count, 1, "a controller counts it: {up:#?}");
    agent.end().await;
}

#[tokio::test]
async fn what_a_command_said_is_kept_though_its_child_holds_the_pipe() {
    let bench = Bench::observing();
    let sh = |script: &str| json!({"command": ["sh", "-c", script], "timeoutSeconds": 2});
    let service = |name: &str, start: &str| json!({"name": name, "manager": "Command", "start": sh(start), "stop": sh("true"), "status": sh("false")});
    let left = "echo no such formula >&2; (echo $BASHPID; exec sleep 100000) & echo $! > left.pid; exit 4";
    let hangs = "echo waiting for the lock; yes y | head -c 10000000 >&2; echo still waiting >&2; sleep 100000";
    let agent = bench.start(json!([service("left", left), service("hangs", hangs)])).await;
    let begun = Instant::now();
    let failed = agent.operate("left", Action::Start).await;
    assert!(failed.message.contains("no such formula"), "{}", failed.message);
    assert!(begun.elapsed() < Duration::from_secs(30));
    let told = agent.service("left").await.last_failure.unwrap();
    assert!(told.contains("no such formula"), "{told}");
    let killed = agent.operate("hangs", Action::Start).await;
    assert!(killed.message.contains("within 2 s") && killed.message.contains("still waiting"), "{}", killed.message);
    super::bench::kill_9(bench.text("left.pid").trim().parse().unwrap());
    agent.end().await;
}
