//! A service is starting until its check passes or its time is over, whatever agents come and go meanwhile.

use ostler::host::{Action, Phase, ServiceState};
use serde_json::{Value, json};

use crate::real::free_port;

use super::bench::{Bench, engine, with};

/// A server that takes so long to load; its check is asked with little patience.
fn loading(port: u16, seconds: u32) -> Value {
    let mut service = engine("llm", port);
    let script = service["start"]["command"][2].as_str().unwrap().to_owned();
    service["start"]["command"][2] = json!(format!("{script} --fault hang:for-seconds={seconds}"));
    service["check"]["timeoutSeconds"] = json!(1);
    service
}

#[tokio::test]
async fn a_service_that_loads_is_left_alone_by_every_agent_until_it_answers() {
    let bench = Bench::new();
    let services = json!([loading(free_port(), 12)]);
    // Each agent makes several failing checks, and a restart would begin the loading anew.
    for _ in 0..3 {
        let agent = bench.start(services.clone()).await;
        let checks = |s: &ostler::host::ServiceReport| s.last_check.as_ref().map(|c| c.at);
        let mut seen = None;
        for _ in 0..3 {
            let next = agent.until("llm", "checked", |s| checks(s).is_some() && checks(s) != seen).await;
            seen = checks(&next);
        }
        agent.end().await;
    }
    let agent = bench.start(services).await;
    let up = agent.until("llm", "up", |s| s.state == ServiceState::Running).await;
    assert!(up.last_check.is_some_and(|c| c.ok));
    assert_eq!(bench.starts("llm.starts").len(), 1);
    assert_eq!((up.self_starts.count, up.failed_starts_in_row), (0, 0));
    agent.end().await;
    // The next agent knows that it has answered.
    let agent = bench.start(json!([loading(free_port(), 12)])).await;
    agent.operate("llm", Action::Stop).await;
    agent.end().await;
}

#[tokio::test]
async fn past_its_time_it_is_restarted_counted_from_its_own_start() {
    let bench = Bench::new();
    let services = json!([with(loading(free_port(), 3600), json!({"startupSeconds": 6, "stopGraceSeconds": 1}))]);
    let agent = bench.start(services.clone()).await;
    let starting = agent.until("llm", "starting", |s| s.state == ServiceState::Starting && s.instance.is_some()).await;
    let first = starting.instance;
    agent.end().await;
    let agent = bench.start(services).await;
    let again = agent.until("llm", "restarted", |s| s.instance.is_some() && s.instance != first).await;
    assert!(again.self_starts.count >= 1, "{again:#?}");
    agent.end().await;
}

#[tokio::test]
async fn a_restart_does_not_wait_for_a_start_that_goes_nowhere() {
    let bench = Bench::new();
    let agent = bench.start(json!([with(loading(free_port(), 3600), json!({"stopGraceSeconds": 1}))])).await;
    let first =
        agent.until("llm", "starting", |s| s.state == ServiceState::Starting && s.instance.is_some()).await.instance;
    let request = ostler::host::OperationRequest::new("llm", Action::Restart, "it hangs");
    let asked = agent.client.operate(&request, "restart", agent.caller).await.unwrap();
    agent.until("llm", "restarted", |s| s.instance.is_some() && s.instance != first).await;
    let stopped = agent.operate("llm", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    assert_eq!(agent.finished(&asked.id).await.phase, Phase::Failed, "superseded by the stop");
    agent.end().await;
}
