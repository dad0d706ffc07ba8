//! A person's will wins.

use ostler::host::{Action, HoldOwner, HostError, OperationRequest, Phase, ServiceState};
use serde_json::json;
use uuid::Uuid;

use super::bench::{Bench, Running, kill_9, sleeper};

async fn ask(agent: &Running, action: Action, owner: HoldOwner) -> Result<Phase, HostError> {
    let request = OperationRequest::new("one", action, "test").owned_by(owner);
    let accepted = agent.client.operate(&request, &Uuid::new_v4().to_string(), agent.caller).await?;
    Ok(agent.finished(&accepted.id).await.phase)
}

#[tokio::test]
async fn what_a_person_stopped_stays_stopped_for_agents_and_controllers_until_a_start() {
    let bench = Bench::new();
    let services = json!([sleeper("one"), sleeper("two")]);
    let agent = bench.start(services.clone()).await;
    agent.until("one", "up", |s| s.instance.is_some()).await;
    assert_eq!(ask(&agent, Action::Stop, HoldOwner::Person).await.unwrap(), Phase::Succeeded);
    agent.end().await;

    let agent = bench.start(services).await;
    let refused = ask(&agent, Action::Restart, HoldOwner::Person).await.unwrap_err();
    assert!(matches!(&refused, HostError::Held { service, .. } if service == "one"), "{refused}");
    // The other service is healed by the loop's third check at the earliest, and this one not at all.
    let two = agent.until("two", "up", |s| s.instance.is_some()).await.instance.unwrap();
    kill_9(two.pid as i32);
    agent.until("two", "healed", |s| s.instance.as_ref().is_some_and(|i| *i != two)).await;
    let one = agent.service("one").await;
    assert_eq!((one.state, one.holds.len(), one.self_starts.count), (ServiceState::Stopped, 1, 0));
    assert!(one.last_exit.is_some_and(|e| e.requested && e.signal == Some(15)));

    assert_eq!(ask(&agent, Action::Start, HoldOwner::Person).await.unwrap(), Phase::Succeeded);
    let one = agent.service("one").await;
    assert_eq!((one.state, one.holds), (ServiceState::Running, vec![]));
    assert_eq!(bench.starts("one.starts").len(), 2);
    agent.end().await;
}

#[tokio::test]
async fn each_owner_ends_its_own_hold_and_a_deferral_binds_the_loop_only() {
    let bench = Bench::new();
    let agent = bench.start(json!([sleeper("one")])).await;
    agent.until("one", "up", |s| s.instance.is_some()).await;
    for owner in [HoldOwner::Suspend, HoldOwner::Pause] {
        ask(&agent, Action::Hold, owner).await.unwrap();
        ask(&agent, Action::Release, HoldOwner::Person).await.unwrap();
        assert!(matches!(ask(&agent, Action::Restart, owner).await, Err(HostError::Held { .. })), "{owner:?}");
        ask(&agent, Action::Release, owner).await.unwrap();
        assert_eq!(agent.service("one").await.holds, []);
    }
    ask(&agent, Action::Hold, HoldOwner::Deferral).await.unwrap();
    assert_eq!(ask(&agent, Action::Restart, HoldOwner::Deferral).await.unwrap(), Phase::Succeeded);
    assert_eq!(agent.service("one").await.holds.len(), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_pause_ends_by_itself_when_its_time_is_over() {
    let bench = Bench::new();
    let agent = bench.start(json!([sleeper("one")])).await;
    let up = agent.until("one", "up", |s| s.instance.is_some()).await.instance.unwrap();
    let mut pause = OperationRequest::new("one", Action::Stop, "for a moment").owned_by(HoldOwner::Pause);
    pause.until = Some(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8));
    let stop = agent.client.operate(&pause, "pause", agent.caller).await.unwrap();
    agent.finished(&stop.id).await;
    assert_eq!(agent.service("one").await.holds.len(), 1);
    let again = agent.until("one", "up again", |s| s.instance.is_some()).await;
    assert!(jiff::Timestamp::now() >= pause.until.unwrap());
    assert!(again.instance.is_some_and(|i| i != up) && again.holds.is_empty());
    agent.end().await;
}

#[tokio::test]
async fn down_stops_what_the_agent_started_and_leaves_no_hold() {
    let bench = Bench::new();
    let services = json!([sleeper("one")]);
    let agent = bench.start(services.clone()).await;
    agent.until("one", "up", |s| s.instance.is_some()).await;
    for (name, result) in agent.handle.stop_services().await {
        assert!(result.is_ok(), "{name}: {result:?}");
    }
    let stopped = agent.service("one").await;
    assert_eq!((stopped.state, stopped.holds), (ServiceState::Stopped, vec![]));
    agent.end().await;
    let agent = bench.start(services).await;
    agent.until("one", "up", |s| s.instance.is_some()).await;
    agent.end().await;
}
