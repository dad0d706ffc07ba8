//! Logs and probes.

use ostler::host::{
    AgentRefusal, ContainerExecRequest, ContainerLogsRequest, ContainerState, HostError, MAX_LOG_BYTES,
};
use serde_json::json;

use super::bench::{agent, named, shared, unique};
use crate::agent::bench::Bench;

#[tokio::test]
async fn real_docker_logs_are_bounded_masked_and_of_the_last_run() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("talker"));
    let agent = agent(&bench, docker, json!({"names": [name]})).await;
    let script = "echo first $DB_PASSWORD; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; \
                  echo token=abcdef last; sleep 1000";
    docker.run_container(&name, &["--env", "DB_PASSWORD=correct-horse"], &["sh", "-c", script]);
    agent.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    let mut request = ContainerLogsRequest { target: named(&name), head_bytes: 100, tail_bytes: 200 };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let logs = loop {
        let logs = agent.client.container_logs(&request).await.unwrap();
        if logs.tail.contains("last") {
            break logs;
        }
        assert!(std::time::Instant::now() < deadline, "{logs:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(logs.head.starts_with("first ***\nline 0\n") && logs.head.len() <= 100, "{logs:?}");
    assert!(logs.tail.ends_with("token=*** last\n") && logs.tail.len() <= 200, "{logs:?}");
    (request.head_bytes, request.tail_bytes) = (u32::MAX, 0);
    let logs = agent.client.container_logs(&request).await.unwrap();
    assert!(logs.head.len() <= MAX_LOG_BYTES as usize && logs.head.len() > 10_000 && logs.tail.is_empty());
    docker.docker(&["rm", "--force", &name]);
    agent.end().await;
}

#[tokio::test]
async fn real_docker_commands_run_in_containers_only_where_the_file_permits_it() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("probed"));
    docker.run_container(&name, &["--env", "API_TOKEN=correct-horse"], &["sleep", "1000"]);
    let request = |command: &[&str], timeout_seconds| ContainerExecRequest {
        target: named(&name),
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        timeout_seconds,
    };
    let shy = agent(&bench, docker, json!({"names": [name]})).await;
    shy.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    let refused = shy.client.container_exec(&request(&["sh"], 5), shy.caller).await.unwrap_err();
    assert!(
        matches!(&refused, HostError::ContainerNotAllowed { message, .. } if message.contains("exec")),
        "{refused}"
    );
    shy.end().await;

    let agent = agent(&bench, docker, json!({"names": [name], "exec": true})).await;
    agent.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    let run =
        async |command: &[&str], seconds| agent.client.container_exec(&request(command, seconds), agent.caller).await;
    let failed = run(&["sh", "-c", "echo no $API_TOKEN; exit 3"], 5).await.unwrap();
    assert_eq!((failed.exit_code, failed.output.as_str()), (Some(3), "no ***\n"));
    let slow = run(&["sleep", "100"], 1).await.unwrap();
    assert_eq!(slow.exit_code, None);
    docker.docker(&["kill", &name]);
    agent.until_container(&name, "dead", |c| c.state == ContainerState::Exited).await;
    let down = run(&["sh"], 5).await.unwrap_err();
    assert!(matches!(&down, HostError::Refused { reason: AgentRefusal::ContainerNotRunning, .. }), "{down}");
    docker.docker(&["rm", "--force", &name]);
    agent.end().await;
}
