//! Services of the agent's file that are containers.

use ostler::host::{
    Action, ContainerState, HoldOwner, HostError, LastExit, Manager, OperationRequest, Phase, ServiceReport,
    ServiceState,
};
use serde_json::{Value, json};

use super::bench::{Project, agent_with, shared, unique};
use crate::agent::bench::{Bench, Running};

fn service(container: Value) -> Value {
    json!([{"name": "search", "manager": "Container", "container": container}])
}

fn runs(report: &ServiceReport) -> bool {
    report.state == ServiceState::Running
}

fn by_a_person(report: &ServiceReport) -> bool {
    report.holds.iter().any(|h| h.owner == HoldOwner::Person && h.reason.contains("container engine"))
}

async fn restart(agent: &Running) -> Result<(), HostError> {
    let request = OperationRequest::new("search", Action::Restart, "test");
    agent.client.operate(&request, &uuid::Uuid::new_v4().to_string(), agent.caller).await.map(drop)
}

#[tokio::test]
async fn real_docker_a_service_that_is_a_container_is_kept_up_and_what_a_person_stops_is_held() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("search"));
    docker.run_container(&name, &[], &["sleep", "1000"]);
    docker.docker(&["kill", &name]);
    let agent = agent_with(&bench, docker, json!({"names": [name]}), service(json!({"name": name}))).await;
    let first = agent.until("search", "up", runs).await;
    assert_eq!(first.manager, Manager::Container);

    // A kill from outside is no wish: the agent's own loop brings it up again.
    docker.docker(&["kill", &name]);
    let again = agent.until("search", "up again", |s| runs(s) && s.instance != first.instance).await;
    let exit: LastExit = again.last_exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.out_of_memory, exit.requested), (None, Some(9), false, false));
    assert_eq!(again.self_starts.count, first.self_starts.count + 1);

    docker.docker(&["stop", &name]);
    let held = agent.until("search", "held", by_a_person).await;
    assert_eq!(held.state, ServiceState::Stopped);
    assert!(matches!(restart(&agent).await.unwrap_err(), HostError::Held { .. }));
    // It ends with a start by the same means, and is not made again of the same stop.
    docker.docker(&["start", &name]);
    let up = agent.until("search", "up and free", |s| runs(s) && s.holds.is_empty()).await;
    assert_eq!(up.self_starts.count, again.self_starts.count);
    docker.docker(&["pause", &name]);
    agent.until("search", "held while paused", by_a_person).await;
    docker.docker(&["unpause", &name]);
    agent.until("search", "free again", |s| runs(s) && s.holds.is_empty()).await;
    agent.end().await;
    docker.docker(&["rm", "--force", &name]);
}

#[tokio::test]
async fn real_docker_operations_on_a_service_that_is_a_container() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("search"));
    docker.run_container(&name, &["--memory", "20m"], &["sleep", "1000"]);
    let agent = agent_with(&bench, docker, json!({"names": [name]}), service(json!({"name": name}))).await;
    let before = agent.until("search", "up", runs).await;
    let restarted = agent.operate("search", Action::Restart).await;
    assert_eq!(restarted.phase, Phase::Succeeded, "{restarted:?}");
    let after = agent.until("search", "another run", |s| runs(s) && s.instance != before.instance).await;
    assert!(after.running_seconds.is_some() && after.holds.is_empty(), "{after:?}");
    let stopped = agent.operate("search", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{stopped:?}");
    let down = agent.until("search", "down", |s| s.state == ServiceState::Stopped && s.last_exit.is_some()).await;
    assert_eq!(down.holds[0].owner, HoldOwner::Person);
    assert!(!by_a_person(&down), "the agent's own stop is not taken for another hold: {down:?}");
    assert_eq!(agent.operate("search", Action::Start).await.phase, Phase::Succeeded);
    assert!(agent.service("search").await.holds.is_empty());

    // One that ends at once has not started, and says how it ended.
    docker.docker(&["rm", "--force", &name]);
    let id = docker.run_container(&name, &[], &["sh", "-c", "exit 3"]);
    agent.until_container(&name, "another one, ended", |c| c.id == id && c.state == ContainerState::Exited).await;
    let failed = agent.operate("search", Action::Restart).await;
    assert!(failed.phase == Phase::Failed && failed.exited_early, "{failed:?}");
    assert!(failed.message.contains("exit code 3"), "{}", failed.message);
    agent.end().await;
    docker.docker(&["rm", "--force", &name]);
}

#[tokio::test]
async fn real_docker_a_service_of_a_compose_project_that_was_removed_comes_up_and_one_not_permitted_is_never_touched() {
    let bench = Bench::new();
    let project = Project::up(&bench, shared());
    let container = json!({"projectDirectory": project.folder, "service": "nightly"});
    let agent = agent_with(&bench, shared(), project.allow(), service(container.clone())).await;
    let first = agent.until("search", "up", runs).await;
    shared().docker(&["rm", "--force", &project.container("nightly")]);
    agent.until("search", "made anew", |s| runs(s) && s.instance != first.instance).await;
    agent.end().await;

    let name = unique("foreign");
    shared().run_container(&name, &[], &["sleep", "1000"]);
    let other = Bench::new();
    let agent = agent_with(&other, shared(), project.allow(), service(json!({"name": name}))).await;
    agent.until_container(&project.container("nightly"), "seen", |c| c.state == ContainerState::Running).await;
    let refused = agent.operate("search", Action::Stop).await;
    assert!(refused.phase == Phase::Failed && refused.message.contains("spec.docker.allow"), "{refused:?}");
    assert_eq!(agent.service("search").await.state, ServiceState::Unknown);
    assert_eq!(shared().docker(&["inspect", "--format", "{{.State.Running}}", &name]).trim(), "true");
    agent.end().await;
    shared().docker(&["rm", "--force", &name]);
}
