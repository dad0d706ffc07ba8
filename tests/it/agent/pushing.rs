//! Who waits for another revision of the report is told of a change at once.

use std::time::{Duration, Instant};

use ostler::{
    host::{Action, AgentReport, HostError, HttpHost, Phase, ServiceReport, ServiceState},
    net::HttpClient,
};
use serde_json::json;

use crate::real::free_port;

use super::bench::{Bench, Running, engine, kill_9, sleeper, with};

/// Longer than any test may take, so that an answer within it was no end of the wait.
const WAIT: Duration = Duration::from_secs(60);

/// Follows the revisions until a service is as wanted, by waiting alone.
async fn pushed(
    agent: &Running,
    mut known: AgentReport,
    name: &str,
    what: &str,
    wanted: impl Fn(&ServiceReport) -> bool,
) -> AgentReport {
    let begun = Instant::now();
    while !known.service(name).is_some_and(&wanted) {
        let revision = known.revision.unwrap();
        known = agent.client.report_after(revision, WAIT).await.unwrap();
        assert_ne!(known.revision, Some(revision), "{name} is never {what}: {known:#?}");
        assert!(begun.elapsed() < WAIT, "{name} is not {what} in time: {known:#?}");
    }
    known
}

#[tokio::test]
async fn deaths_and_starts_are_pushed_each_with_its_instance() {
    let bench = Bench::new();
    let mut settings = bench.settings(json!([sleeper("one")]));
    // Nothing but the push can tell in time.
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let report = agent.client.report().await.unwrap();
    let idle = |s: &ServiceReport| s.instance.is_some() && s.operation.is_none();
    let report = pushed(&agent, report, "one", "up", idle).await;
    let first = report.service("one").unwrap().instance.clone().unwrap();
    kill_9(first.pid as i32);
    let report = pushed(&agent, report, "one", "dead", |s| s.last_exit.is_some()).await;
    let dead = report.service("one").unwrap();
    assert_eq!((dead.state, &dead.instance), (ServiceState::Stopped, &None));
    assert!(dead.last_failure.as_deref().is_some_and(|f| f.starts_with("killed by signal 9 after ")), "{dead:#?}");
    let restarted = agent.operate("one", Action::Restart).await;
    assert_eq!(restarted.phase, Phase::Succeeded, "{}", restarted.message);
    let report = pushed(&agent, report, "one", "up again", idle).await;
    let again = report.service("one").unwrap();
    assert_ne!(again.instance, Some(first));
    assert_eq!(again.last_failure, None);
    assert!(again.running_seconds.is_some_and(|s| s < 60.0), "{again:#?}");
    agent.end().await;
}

#[tokio::test]
async fn the_end_of_a_process_that_an_earlier_agent_started_is_pushed_too() {
    let bench = Bench::new();
    let agent = bench.start(json!([sleeper("one")])).await;
    agent.until("one", "up", |s| s.instance.is_some() && s.operation.is_none()).await;
    agent.end().await;
    let mut settings = bench.settings(json!([sleeper("one")]));
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let report = agent.client.report().await.unwrap();
    let instance = report.service("one").unwrap().instance.clone().unwrap();
    // The end is watched for from the first upkeep on; nothing tells of that, and it is at once.
    kill_9(instance.pid as i32);
    pushed(&agent, report, "one", "dead", |s| s.instance.is_none() && s.last_exit.is_some()).await;
    agent.end().await;
}

#[tokio::test]
async fn a_port_that_accepts_is_pushed_before_the_check_passes() {
    let bench = Bench::new();
    let mut service = engine("llm", free_port());
    let script = service["start"]["command"][2].as_str().unwrap().to_owned() + " --fault hang:for-seconds=3";
    service["start"]["command"][2] = json!(script);
    service["check"]["timeoutSeconds"] = json!(1);
    let mut settings = bench.settings(json!([service]));
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let report = agent.client.report().await.unwrap();
    let report = pushed(&agent, report, "llm", "accepting", |s| s.accepting_since.is_some()).await;
    assert_eq!(report.service("llm").unwrap().state, ServiceState::Starting);
    let report = pushed(&agent, report, "llm", "running", |s| s.state == ServiceState::Running).await;
    let first = report.service("llm").unwrap().clone();
    kill_9(first.instance.unwrap().pid as i32);
    let report = pushed(&agent, report, "llm", "dead", |s| s.instance.is_none()).await;
    assert_eq!(report.service("llm").unwrap().accepting_since, None);
    agent.end().await;
}

#[tokio::test]
async fn without_a_change_the_same_revision_comes_when_the_wait_is_over() {
    let bench = Bench::observing();
    let mut settings = bench.settings(json!([sleeper("one")]));
    settings.spec.self_check_seconds = 3600;
    let agent = bench.start_with(settings).await;
    let revision = agent.client.report().await.unwrap().revision.unwrap();
    let begun = Instant::now();
    let report = agent.client.report_after(revision, Duration::from_secs(1)).await.unwrap();
    assert_eq!(report.revision, Some(revision));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // Of more callers than there are places, one is answered at once; all the others go on waiting.
    let waits = (0..17).map(|_| {
        let client = agent.client.clone();
        async move { client.report_after(revision, WAIT).await.unwrap().revision }
    });
    let (first, _, others) = futures::future::select_all(waits.map(Box::pin)).await;
    assert_eq!((first, others.len()), (Some(revision), 16));
    // An agent that ends lets nobody wait.
    drop(others);
    let client = agent.client.clone();
    let waiting = tokio::spawn(async move { client.report_after(revision, WAIT).await });
    agent.end().await;
    // It was answered, or it came too late.
    let _ = waiting.await.unwrap();
}

#[tokio::test]
async fn a_wait_needs_the_same_credentials_and_has_bounds() {
    let bench = Bench::observing();
    let agent = bench.start(json!([sleeper("one")])).await;
    let nobody =
        HttpHost::new(HttpClient::direct().unwrap(), &agent.handle.url(), "bench", Default::default()).unwrap();
    let refused = nobody.report_after(0, WAIT).await.unwrap_err();
    assert!(matches!(refused, HostError::Unauthorized { .. }), "{refused}");
    for (query, expected) in [("after=1&waitSeconds=61", 400), ("after=x", 400), ("after=-1", 400)] {
        let url = format!("{}/v1/report?{query}", agent.handle.url());
        let path = format!("/v1/report?{query}");
        let bound = ostler::host::sign::Bound { agent: "bench", method: "GET", path: &path, ..Default::default() };
        let signature = ostler::host::sign::sign_request(&bench.secret, bound, b"", jiff::Timestamp::now());
        let request = signature.headers().into_iter().fold(reqwest::Client::new().get(url), |r, (k, v)| r.header(k, v));
        assert_eq!(request.send().await.unwrap().status(), expected, "{query}");
    }
    agent.end().await;
}

#[tokio::test]
async fn the_metric_follows_the_process_at_once() {
    let bench = Bench::new();
    let mut settings = bench.settings(json!([with(sleeper("one"), json!({"restart": "OnFailure"}))]));
    settings.spec.self_check_seconds = 3600;
    let metrics = settings.metrics.clone();
    let agent = bench.start_with(settings).await;
    // As another process's page shows them: nobody asks the agent's own.
    let shown = |up: u8| {
        let page = metrics.render(jiff::Timestamp::now());
        page.contains(&format!("ostler_agent_service_up{{agent=\"bench\",service=\"one\"}} {up}"))
    };
    super::bench::eventually("up", || shown(1)).await;
    let pid = bench.starts("one.starts")[0];
    kill_9(pid);
    super::bench::eventually("down", || shown(0)).await;
    agent.end().await;
}
