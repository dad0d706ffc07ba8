//! Compose services that are stopped or missing come up as they were made.

use std::time::{Duration, Instant};

use ostler::host::{ContainerAction, ContainerFailure, ContainerReport, ContainerState, DiskSpace, Phase};

use super::bench::{Project, agent, named, shared};
use crate::agent::bench::{Bench, Running};

fn command_of(project: &Project, service: &str) -> String {
    shared().docker(&["inspect", "--format", "{{json .Config.Cmd}}", &project.container(service)])
}

async fn until_missing(agent: &Running, project: &Project, service: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let list = agent.list(project.selector(&["db", "nightly"])).await.unwrap();
        if list.missing == [project.service(service)] {
            return;
        }
        assert!(Instant::now() < deadline, "{service} is never missing: {list:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn real_docker_a_compose_service_that_exited_and_one_that_was_removed_come_up() {
    let bench = Bench::new();
    let project = Project::up(&bench, shared());
    let agent = agent(&bench, shared(), project.allow()).await;
    let name = project.container("nightly");
    let first = agent.until_container(&name, "running", |c| c.state == ContainerState::Running).await;
    assert_eq!(first.compose.as_ref().unwrap().service, "nightly");

    shared().docker(&["kill", &name]);
    agent.until_container(&name, "dead", |c| c.state == ContainerState::Exited).await;
    agent.done(&project.service("nightly"), ContainerAction::Up).await;
    let same = agent.container(&name).await.unwrap();
    assert_eq!((same.id.as_str(), same.state, &same.drift), (first.id.as_str(), ContainerState::Running, &None));

    shared().docker(&["rm", "--force", &name]);
    until_missing(&agent, &project, "nightly").await;
    agent.done(&named(&name), ContainerAction::Up).await;
    let new = agent.until_container(&name, "running again", |c| c.state == ContainerState::Running).await;
    assert_ne!(new.id, first.id);
    agent.end().await;
}

#[tokio::test]
async fn real_docker_a_half_edited_compose_file_is_not_deployed() {
    let bench = Bench::new();
    let project = Project::up(&bench, shared());
    let agent = agent(&bench, shared(), project.allow()).await;
    let (name, before) = (project.container("nightly"), command_of(&project, "nightly"));
    let network = shared().docker(&["network", "inspect", "--format", "{{.Id}}", &format!("{}_default", project.name)]);
    let edits = [
        ("another command", "2000", ""),
        ("another network", "1000", "networks: {default: {labels: {edited: half}}}\n"),
        ("no YAML", "1000", "networks: {default: [\n"),
    ];
    for (what, seconds, more) in edits {
        project.write(seconds, more);
        let running = |c: &ContainerReport| c.state == ContainerState::Running;
        agent.until_container(&name, "running", running).await;
        shared().docker(&["kill", &name]);
        agent.until_container(&name, "dead", |c| c.state == ContainerState::Exited).await;
        // What is stopped starts as it was made, and the drift is told.
        let up = agent.done(&project.service("nightly"), ContainerAction::Up).await;
        let now = agent.container(&name).await.unwrap();
        assert!(now.state == ContainerState::Running && now.drift.is_some(), "{what}: {up:?} {now:?}");
        assert_eq!(command_of(&project, "nightly"), before, "{what}");
    }
    let same = shared().docker(&["network", "inspect", "--format", "{{.Id}}", &format!("{}_default", project.name)]);
    assert_eq!(same, network);
    // What is missing stays missing until somebody deploys the file.
    shared().docker(&["rm", "--force", &name]);
    for (what, seconds, more) in edits {
        project.write(seconds, more);
        let refused = agent.act(&project.service("nightly"), ContainerAction::Up).await;
        assert_eq!((refused.phase, refused.failure), (Phase::Failed, Some(ContainerFailure::ComposeDrift)), "{what}");
        assert!(refused.message.contains("docker compose up -d nightly"), "{what}: {}", refused.message);
    }
    project.write("1000", "");
    agent.done(&project.service("nightly"), ContainerAction::Up).await;
    agent.end().await;
}

#[tokio::test]
async fn real_docker_a_missing_container_whose_image_is_gone_fails_as_such_and_one_that_stopped_still_starts() {
    let bench = Bench::new();
    let project = Project::up(&bench, shared());
    let agent = agent(&bench, shared(), project.allow()).await;
    // An image of its own: another one under another name would still be the same.
    let (name, image) = (project.container("db"), format!("local/{}:1", project.name));
    shared().docker(&["commit", "--change", "LABEL once=yes", &name, &image]);
    project.write_image("db", &image);
    project.compose(&["up", "--detach", "--pull", "never", "db"]);
    let running = |c: &ContainerReport| c.state == ContainerState::Running && c.image == image;
    agent.until_container(&name, "of the new image", running).await;
    shared().docker(&["kill", &name]);
    agent.until_container(&name, "dead", |c| c.state == ContainerState::Exited).await;
    shared().docker(&["rmi", "--force", &image]);
    // What the engine still has of the image is enough for a container that is there.
    agent.done(&named(&name), ContainerAction::Up).await;
    shared().docker(&["kill", &name]);
    agent.until_container(&name, "known to have none", |c| c.state == ContainerState::Exited && c.image_missing).await;
    shared().docker(&["rm", "--force", &name]);
    until_missing(&agent, &project, "db").await;
    let failed = agent.act(&named(&name), ContainerAction::Up).await;
    // On a machine with hardly any disk left nothing is pulled, and that is what is said.
    let full = agent
        .client
        .report()
        .await
        .unwrap()
        .disk
        .is_some_and(|disk| disk.is_short_of(DiskSpace::FOR_DOWNLOADS + (1 << 30)));
    let expected = |why| why == ContainerFailure::ImageMissing || (full && why == ContainerFailure::DiskFull);
    assert!(failed.phase == Phase::Failed && failed.failure.is_some_and(expected), "{failed:?}");
    agent.end().await;
}
