//! What the file does not permit does not exist for callers; operations are signed, fenced and done once.

use ostler::host::{
    AgentRefusal, Caller, ContainerAction, ContainerFailure, ContainerLogsRequest, ContainerSelector, ContainerState,
    ContainerTarget, HostError, Phase,
};
use serde_json::json;

use super::bench::{Project, agent, named, request, shared, unique};
use crate::{agent::bench::Bench, real::Docker};

#[tokio::test]
async fn real_docker_a_container_outside_the_list_or_a_name_that_is_none_is_refused() {
    let (bench, docker) = (Bench::new(), shared());
    let (ours, others) = (unique("ours"), unique("others"));
    docker.run_container(&ours, &[], &["sleep", "1000"]);
    let id = docker.run_container(&others, &[], &["sleep", "1000"]);
    let agent = agent(&bench, docker, json!({"names": [ours]})).await;
    agent.until_container(&ours, "running", |c| c.state == ContainerState::Running).await;
    let refused = |error: HostError, what: &str| {
        assert!(matches!(&error, HostError::ContainerNotAllowed { .. }), "{what}: {error}");
    };
    let tricks = [format!("/{ours}"), format!("{ours}/../{others}"), format!("../{others}"), format!("{ours}?x=1")];
    let names = [others.clone(), id.clone(), id[..12].to_owned(), String::new(), "*".to_owned()];
    for name in names.iter().chain(&tricks) {
        let target = named(name);
        for action in [ContainerAction::Stop, ContainerAction::Up, ContainerAction::Restart] {
            let asked = agent.client.operate_container(&request(&target, action), "k", agent.caller).await;
            refused(asked.unwrap_err(), name);
        }
        refused(agent.client.container_logs(&ContainerLogsRequest::new(target.clone())).await.unwrap_err(), name);
        refused(agent.list(ContainerSelector::Names(vec![ours.clone(), name.clone()])).await.unwrap_err(), name);
    }
    let project = json!({"service": {"projectDirectory": "/etc", "service": "x"}});
    let target: ContainerTarget = serde_json::from_value(project).unwrap();
    let asked = agent.client.operate_container(&request(&target, ContainerAction::Up), "k", agent.caller).await;
    refused(asked.unwrap_err(), "a folder that no project was seen in");
    // Who renames a container takes it out of what is permitted, and whoever has the name now is the one.
    docker.docker(&["rename", &ours, &format!("{ours}-old")]);
    docker.docker(&["rename", &others, &ours]);
    let now = agent.until_container(&ours, "the other one", |c| c.id == id).await;
    assert_eq!(now.state, ContainerState::Running);
    let old = agent.list(ContainerSelector::Names(vec![format!("{ours}-old")])).await.unwrap_err();
    refused(old, "the name that it has now");
    docker.docker(&["rename", &ours, &others]);
    docker.docker(&["rename", &format!("{ours}-old"), &ours]);
    assert!(docker.docker(&["ps", "--quiet", "--no-trunc"]).contains(&id), "untouched");
    for name in [ours, others] {
        docker.docker(&["rm", "--force", &name]);
    }
    agent.end().await;
}

#[tokio::test]
async fn real_docker_a_service_whose_name_is_none_is_refused_and_one_that_never_was_does_not_come_up() {
    let bench = Bench::new();
    let project = Project::up(&bench, shared());
    let agent = agent(&bench, shared(), project.allow()).await;
    let running = |c: &ostler::host::ContainerReport| c.state == ContainerState::Running;
    agent.until_container(&project.container("db"), "running", running).await;
    for name in ["--help", "*", "", "db nightly", "../db", "db;id", "db\n"] {
        let asked = request(&project.service(name), ContainerAction::Up);
        let error = agent.client.operate_container(&asked, "k", agent.caller).await.unwrap_err();
        assert!(matches!(&error, HostError::ContainerNotAllowed { .. }), "{name:?}: {error}");
    }
    project.write("1000", &format!("  other: {{image: {}, command: [sleep, '1000']}}\n", Docker::IMAGE));
    let ended = agent.act(&project.service("other"), ContainerAction::Up).await;
    assert_eq!(ended.failure, Some(ContainerFailure::ComposeDrift), "{ended:?}");
    assert!(!shared().docker(&["ps", "--all", "--format", "{{.Names}}"]).contains(&project.container("other")));
    agent.end().await;
}

#[tokio::test]
async fn real_docker_operations_are_fenced_by_epoch_and_id_and_done_once() {
    let (bench, docker, name) = (Bench::new(), shared(), unique("once"));
    let id = docker.run_container(&name, &[], &["sleep", "1000"]);
    let allow = json!({"names": [name]});
    let first = agent(&bench, docker, allow.clone()).await;
    let before = first.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    let restart = request(&named(&name), ContainerAction::Restart);
    let accepted = first.client.operate_container(&restart, "key", first.caller).await.unwrap();
    let ended = first.ended(&accepted.id).await;
    assert_eq!(ended.phase, Phase::Succeeded, "{ended:?}");
    let after = first.container(&name).await.unwrap();
    assert!(after.started_at > before.started_at);
    first.end().await;

    // The same key is the same operation, for another agent of this folder, too.
    let second = agent(&bench, docker, allow).await;
    second.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    let again = second.client.operate_container(&restart, "key", second.caller).await.unwrap();
    assert_eq!((again.id, again.phase), (accepted.id, Phase::Succeeded));
    assert_eq!(second.container(&name).await.unwrap().started_at, after.started_at, "and is not done again");
    let stop = request(&named(&name), ContainerAction::Stop);
    let reused = second.client.operate_container(&stop, "key", second.caller).await.unwrap_err();
    assert!(matches!(&reused, HostError::Refused { reason: AgentRefusal::KeyReused, .. }), "{reused}");
    let late = Caller { epoch: second.caller.epoch - 1, ..second.caller };
    let stale = second.client.operate_container(&stop, "late", late).await.unwrap_err();
    assert!(matches!(&stale, HostError::StaleEpoch { .. }), "{stale}");

    let mut of_another = stop.clone();
    of_another.id = Some("0".repeat(64));
    let accepted = second.client.operate_container(&of_another, "another", second.caller).await.unwrap();
    let left = second.ended(&accepted.id).await;
    assert_eq!(left.failure, Some(ContainerFailure::ContainerChanged), "{left:?}");
    let mut of_this = stop;
    of_this.id = Some(id);
    let accepted = second.client.operate_container(&of_this, "this", second.caller).await.unwrap();
    assert_eq!(second.ended(&accepted.id).await.phase, Phase::Succeeded);
    // One that was judged and is gone is not made anew.
    docker.docker(&["rm", "--force", &name]);
    let mut up = of_this.clone();
    up.action = ContainerAction::Up;
    let accepted = second.client.operate_container(&up, "gone", second.caller).await.unwrap();
    assert_eq!(second.ended(&accepted.id).await.failure, Some(ContainerFailure::ContainerChanged));
    second.end().await;
}
