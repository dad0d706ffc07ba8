//! Processes outlive agents, are found again, are never started twice; other people's are left alone.

use std::process::Stdio;

use ostler::host::{Action, HostError, OperationRequest, Phase, ServiceState};
use serde_json::json;

use crate::real::free_port;

use super::bench::{Bench, OSTLER, alive, engine, eventually, kill_9, sleeper, with};

#[tokio::test]
async fn a_process_outlives_its_agent_and_is_not_started_again() {
    let bench = Bench::new();
    let services = json!([engine("llm", free_port())]);
    let agent = bench.start(services.clone()).await;
    let first = agent.until("llm", "up", |s| s.last_check.as_ref().is_some_and(|c| c.ok)).await.instance.unwrap();
    agent.end().await;
    assert!(alive(first.pid as i32));
    let agent = bench.start(services).await;
    let again = agent.until("llm", "checked", |s| s.last_check.as_ref().is_some_and(|c| c.ok)).await;
    assert_eq!(again.instance.as_ref(), Some(&first));
    assert_eq!(again.state, ServiceState::Running);
    let started = agent.operate("llm", Action::Start).await;
    assert_eq!((started.phase, started.message.as_str()), (Phase::Succeeded, "it runs already"));
    assert_eq!(bench.starts("llm.starts").len(), 1);
    kill_9(first.pid as i32);
    let healed = agent.until("llm", "healed", |s| s.instance.as_ref().is_some_and(|i| *i != first)).await;
    let exit = healed.last_exit.unwrap();
    // This test is the parent of both agents' children, so only the record tells that the first one ended.
    assert!(exit.unknown || exit.signal == Some(9), "{exit:?}");
    agent.end().await;
}

#[tokio::test]
async fn the_same_key_is_the_same_operation_for_the_next_agent_too() {
    let bench = Bench::new();
    let services = json!([sleeper("one")]);
    let agent = bench.start(services.clone()).await;
    agent.until("one", "up", |s| s.instance.is_some()).await;
    let restart = OperationRequest::new("one", Action::Restart, "it hangs");
    let first = agent.client.operate(&restart, "episode-1/1", agent.caller).await.unwrap();
    let again = agent.client.operate(&restart, "episode-1/1", agent.caller).await.unwrap();
    assert_eq!(first.id, again.id);
    let done = agent.finished(&first.id).await;
    assert_eq!(done.phase, Phase::Succeeded, "{}", done.message);
    agent.end().await;
    let agent = bench.start(services).await;
    let later = agent.client.operate(&restart, "episode-1/1", agent.caller).await.unwrap();
    assert_eq!((later.id, later.phase), (first.id, Phase::Succeeded));
    let other = OperationRequest::new("one", Action::Stop, "");
    let reused = agent.client.operate(&other, "episode-1/1", agent.caller).await.unwrap_err();
    assert!(matches!(reused, HostError::Refused { status: 422, .. }), "{reused}");
    assert_eq!(bench.starts("one.starts").len(), 2);
    agent.end().await;
}

#[tokio::test]
async fn a_foreign_process_on_the_port_is_never_killed() {
    let bench = Bench::new();
    let port = free_port();
    let mut foreign = std::process::Command::new(OSTLER)
        .args(["simulate", "--engine", "openai", "--listen", &format!("127.0.0.1:{port}")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = foreign.id() as i32;
    eventually("listening", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let agent = bench.start(json!([engine("llm", port)])).await;
    let seen = agent.until("llm", "foreign", |s| s.state == ServiceState::Foreign).await;
    assert_eq!(seen.port_owner.and_then(|o| o.pid), Some(pid as u32));
    for action in [Action::Start, Action::Restart, Action::Stop] {
        let done = agent.operate("llm", action).await;
        assert_eq!(done.phase, Phase::Failed, "{action:?}");
        assert!(done.message.contains(&format!("port {port}")) && done.message.contains("adopt"), "{}", done.message);
        assert!(alive(pid), "{action:?}");
    }
    assert_eq!(bench.starts("llm.starts").len(), 0);
    agent.end().await;

    // With leave, it is taken over, and then it is the agent's to stop.
    let agent = bench.start(json!([with(engine("llm", port), json!({"adopt": true}))])).await;
    let start = agent.operate("llm", Action::Start).await;
    assert_eq!(start.phase, Phase::Succeeded, "{}", start.message);
    let taken = agent.until("llm", "taken over", |s| s.state == ServiceState::Running).await;
    assert_eq!(taken.instance.map(|i| i.pid), Some(pid as u32));
    let stopped = agent.operate("llm", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    foreign.wait().unwrap();
    let exit = agent.until("llm", "ended", |s| s.last_exit.is_some()).await.last_exit.unwrap();
    assert!(exit.unknown && exit.requested, "{exit:?}");
    agent.end().await;
}

#[tokio::test]
async fn a_stop_ends_everything_that_the_service_started() {
    let bench = Bench::new();
    // A child that outlives its parent, and one that ignores SIGTERM.
    let script = "echo $$ >> one.starts; (trap '' TERM; echo $$ > /dev/null; exec sh -c 'echo $$ >> one.starts; exec sleep 100000') & \
                  (trap '' TERM; sh -c 'echo $$ >> one.starts; while :; do sleep 1; done') & exec sleep 100000";
    let service = json!({"name": "one", "stopGraceSeconds": 1, "start": {"command": ["sh", "-c", script]}});
    let agent = bench.start(json!([service])).await;
    eventually("started", || bench.starts("one.starts").len() == 3).await;
    let stopped = agent.operate("one", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    for pid in bench.starts("one.starts") {
        assert!(!alive(pid), "{pid} of {:?}", bench.starts("one.starts"));
    }
    agent.end().await;
}

#[tokio::test]
async fn what_a_dead_process_left_running_does_not_keep_its_port() {
    let bench = Bench::new();
    let port = free_port();
    let mut service = engine("llm", port);
    let script = service["start"]["command"][2].as_str().unwrap().replace("exec ", "") + " & wait";
    service["start"]["command"][2] = json!(script);
    let agent = bench.start(json!([service])).await;
    let up = agent.until("llm", "up", |s| s.last_check.as_ref().is_some_and(|c| c.ok)).await;
    let (shell, server) = (up.instance.unwrap(), up.port_owner.and_then(|o| o.pid).unwrap());
    assert_ne!(shell.pid, server);
    kill_9(shell.pid as i32);
    let healed = agent.until("llm", "healed", |s| s.instance.as_ref().is_some_and(|i| *i != shell)).await;
    assert!(!alive(server as i32), "{healed:?}");
    agent.until("llm", "answering", |s| s.port_owner.as_ref().is_some_and(|o| o.pid != Some(server))).await;
    agent.operate("llm", Action::Stop).await;
    agent.end().await;
}

#[tokio::test]
async fn two_agents_do_not_share_a_state_folder() {
    let bench = Bench::new();
    let agent = bench.start(json!([])).await;
    let second = ostler::agent::start(bench.settings(json!([])), Default::default()).await.unwrap_err();
    assert!(second.to_string().contains("another agent uses the state folder"), "{second}");
    agent.end().await;
    bench.start(json!([])).await.end().await;
}
