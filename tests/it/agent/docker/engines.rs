//! The engine itself goes away and comes back.

use ostler::host::{
    ContainerAction, ContainerFailure, ContainerSelector, ContainerState, ContainerStop, HostError, StoppedBy,
};
use serde_json::json;

use super::bench::{agent, named, request};
use crate::{agent::bench::Bench, real::Docker};

fn all() -> ContainerSelector {
    ContainerSelector::Names(["other", "steady", "stopped"].map(str::to_owned).into())
}

#[tokio::test]
async fn real_docker_with_the_engine_away_nothing_is_told_and_afterwards_what_died_is_found() {
    let (bench, docker) = (Bench::new(), Docker::start());
    let agent = agent(&bench, &docker, json!({"names": ["other", "steady", "stopped"]})).await;
    docker.run_container("steady", &[], &["sleep", "1000"]);
    docker.run_container("stopped", &[], &["sleep", "1000"]);
    docker.docker(&["stop", "stopped"]);
    agent.until_container("steady", "running", |c| c.state == ContainerState::Running).await;
    agent.until_container("stopped", "down", |c| c.stopped.is_some()).await;

    docker.stop();
    agent.until_engine(false).await;
    let away = agent.list(all()).await.unwrap_err();
    assert!(matches!(&away, HostError::EngineUnavailable { .. }), "{away}");
    let refused = agent
        .client
        .operate_container(&request(&named("steady"), ContainerAction::Up), "k", agent.caller)
        .await
        .unwrap_err();
    assert!(matches!(&refused, HostError::EngineUnavailable { .. }), "{refused}");

    docker.resume();
    agent.until_engine(true).await;
    let steady = agent.until_container("steady", "down", |c| c.state == ContainerState::Exited).await;
    let person = |s: &Option<ContainerStop>| s.as_ref().is_some_and(|s| s.by == StoppedBy::Person);
    assert!(!person(&steady.stopped), "the engine's shutdown is no person's wish: {steady:?}");
    let stopped = agent.container("stopped").await.unwrap();
    assert!(person(&stopped.stopped), "and a person's wish outlives it: {stopped:?}");
    agent.done(&named("steady"), ContainerAction::Up).await;

    // A crash of the engine: nobody tells of anything.
    docker.run_container("other", &["--memory", "20m"], &["sh", "-c", "sleep 1000"]);
    docker.kill();
    agent.until_engine(false).await;
    docker.resume();
    agent.until_engine(true).await;
    let steady = agent.until_container("steady", "down", |c| c.state == ContainerState::Exited).await;
    assert!(!person(&steady.stopped) && !steady.oom_killed, "nor is what the next engine cleans up: {steady:?}");
    agent.until_container("other", "down", |c| c.state == ContainerState::Exited).await;
    agent.end().await;

    // Another crash while no agent listens; a person stops what the next engine had started.
    docker.kill();
    docker.resume();
    docker.docker(&["start", "steady"]);
    docker.docker(&["stop", "steady"]);
    let agent = super::bench::agent(&bench, &docker, json!({"names": ["other", "steady", "stopped"]})).await;
    let steady = agent.until_container("steady", "down", |c| c.stopped.is_some()).await;
    assert!(person(&steady.stopped), "a person's wish, though the agent did not hear of it: {steady:?}");
    agent.end().await;
}

#[tokio::test]
async fn real_docker_an_engine_that_hangs_is_away() {
    let (bench, docker) = (Bench::new(), Docker::start());
    let agent = agent(&bench, &docker, json!({"names": ["other", "steady", "stopped"]})).await;
    docker.run_container("steady", &[], &["sleep", "1000"]);
    agent.until_container("steady", "running", |c| c.state == ContainerState::Running).await;
    docker.freeze();
    let accepted = agent
        .client
        .operate_container(&request(&named("steady"), ContainerAction::Restart), "k", agent.caller)
        .await
        .unwrap();
    let failed = agent.ended(&accepted.id).await;
    assert_eq!(failed.failure, Some(ContainerFailure::EngineUnavailable), "{failed:?}");
    agent.until_engine(false).await;
    assert!(matches!(agent.list(all()).await.unwrap_err(), HostError::EngineUnavailable { .. }));
    docker.thaw();
    agent.until_engine(true).await;
    let steady = agent.container("steady").await.unwrap();
    assert_eq!(steady.state, ContainerState::Running);
    agent.end().await;
}
