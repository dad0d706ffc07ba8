//! How containers end, and what is done about it.

use ostler::host::{ContainerAction, ContainerHealth, ContainerState, StoppedBy};
use serde_json::json;

use super::bench::{agent, named, shared, unique};
use crate::agent::bench::Bench;

const MI: i64 = 1 << 20;

#[tokio::test]
async fn real_docker_a_container_out_of_memory_is_seen_resized_and_runs() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("eater"));
    let agent = agent(&bench, docker, json!({"names": [name]})).await;
    docker.run_container(&name, &["--memory", "20m"], &["sh", "-c", "tail /dev/zero"]);
    let seen = agent.until_container(&name, "out of memory", |c| c.ended_out_of_memory() && c.oom_count > 0).await;
    assert_eq!((seen.memory_limit, seen.memory_peak), (Some(20 * MI), Some(20 * MI)));
    assert!(seen.stopped.is_none() && seen.last_oom_at.is_some(), "{seen:?}");

    agent.done(&named(&name), ContainerAction::Resize { memory_bytes: 40 * MI }).await;
    assert_eq!(agent.container(&name).await.unwrap().memory_limit, Some(40 * MI));
    let engine = docker.docker(&["inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", &name]);
    assert_eq!(engine.trim(), format!("{} {}", 40 * MI, 60 * MI), "as much swap as before");
    docker.docker(&["rm", "--force", &name]);
    agent.end().await;
}

#[tokio::test]
async fn real_docker_a_killed_container_is_no_persons_stop_and_comes_up_with_its_limit() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("killed"));
    let agent = agent(&bench, docker, json!({"names": [name]})).await;
    docker.run_container(&name, &["--memory", "20m"], &["sleep", "1000"]);
    agent.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    docker.docker(&["kill", &name]);
    let seen = agent.until_container(&name, "dead", |c| c.state == ContainerState::Exited).await;
    assert_eq!((seen.exit_code, seen.oom_killed, seen.stopped.clone()), (Some(137), false, None), "{seen:?}");

    agent.done(&named(&name), ContainerAction::Up).await;
    let seen = agent.container(&name).await.unwrap();
    assert_eq!((seen.state, seen.memory_limit), (ContainerState::Running, Some(20 * MI)));
    assert_eq!((seen.exit_code, seen.finished_at), (None, None));
    docker.docker(&["rm", "--force", &name]);
    agent.end().await;
}

#[tokio::test]
async fn real_docker_a_persons_stop_is_told_from_the_agents_own() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("stopped"));
    let first = agent(&bench, docker, json!({"names": [name]})).await;
    docker.run_container(&name, &[], &["sleep", "1000"]);
    first.until_container(&name, "running", |c| c.state == ContainerState::Running).await;

    first.done(&named(&name), ContainerAction::Stop).await;
    let by_agent = first.until_container(&name, "stopped by the agent", |c| c.stopped.is_some()).await;
    assert_eq!(by_agent.stopped.unwrap().by, StoppedBy::Agent);
    first.done(&named(&name), ContainerAction::Up).await;
    let before = first.container(&name).await.unwrap();
    first.done(&named(&name), ContainerAction::Restart).await;
    let after = first.container(&name).await.unwrap();
    assert!(after.state == ContainerState::Running && after.started_at > before.started_at, "{after:?}");

    docker.docker(&["stop", &name]);
    let down = |c: &ostler::host::ContainerReport| c.state == ContainerState::Exited;
    // An inspection for an event before may tell of the end a moment before the event of the stop does.
    let told = |c: &ostler::host::ContainerReport| down(c) && c.stopped.is_some();
    let by_person = first.until_container(&name, "stopped by somebody", told).await;
    assert_eq!(by_person.stopped.map(|s| s.by), Some(StoppedBy::Person));

    docker.docker(&["start", &name]);
    let started = first.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    assert_eq!(started.stopped, None);
    // Who stops it while no agent looks is known all the same.
    first.end().await;
    docker.docker(&["stop", &name]);
    let second = agent(&bench, docker, json!({"names": [name]})).await;
    let seen = second.until_container(&name, "stopped", down).await;
    assert_eq!(seen.stopped.map(|s| s.by), Some(StoppedBy::Person));
    docker.docker(&["rm", "--force", &name]);
    second.end().await;
}

#[tokio::test]
async fn real_docker_health_restarts_by_a_person_and_removal_are_followed() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("healthy"));
    let agent = agent(&bench, docker, json!({"labels": {"test": name}})).await;
    let check = [
        "--health-cmd",
        "test -e /ok || (echo no /ok here; exit 1)",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
    ];
    let label = format!("test={name}");
    let id = docker.run_container(&name, &[&check[..], &["--label", &label]].concat(), &["sleep", "1000"]);
    let sick = agent.until_container(&name, "unhealthy", |c| c.health == Some(ContainerHealth::Unhealthy)).await;
    assert_eq!(sick.health_output.as_deref(), Some("no /ok here"));
    docker.docker(&["exec", &name, "sh", "-c", "echo > /ok"]);
    agent.until_container(&name, "healthy", |c| c.health == Some(ContainerHealth::Healthy)).await;
    docker.docker(&["restart", &name]);
    let again = agent.until_container(&name, "restarted", |c| c.started_at > sick.started_at).await;
    assert_eq!((again.id.as_str(), again.stopped), (id.as_str(), None));
    docker.docker(&["pause", &name]);
    agent.until_container(&name, "paused", |c| c.state == ContainerState::Paused).await;
    docker.docker(&["rm", "--force", &name]);
    let gone = serde_json::from_value(json!({"labels": {"test": name}})).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !agent.list(ostler::host::ContainerSelector::clone(&gone)).await.unwrap().containers.is_empty() {
        assert!(std::time::Instant::now() < deadline, "never gone");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    agent.end().await;
}
