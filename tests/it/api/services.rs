//! A person's hold goes to a real agent, under the leader's epoch.

use std::time::Duration;

use ostler::{
    agent::{self, AgentHandle, AgentSettings},
    host::{HoldOwner, ServiceState, SigningSecret},
    net::HttpClient,
    telemetry::Metrics,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use crate::real::free_port;

fn manifests(port: u16, secret: &SigningSecret) -> String {
    let agent = json!({"apiVersion": "ostler.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": "mac"},
        "spec": {"url": format!("http://127.0.0.1:{port}"), "secretRef": {"name": "mac"}}});
    let lost = json!({"apiVersion": "ostler.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": "lost"},
        "spec": {"url": "http://127.0.0.1:9", "secretRef": {"name": "nowhere"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mac"},
        "stringData": {"signingSecret": secret.expose()}});
    format!("{agent}\n---\n{lost}\n---\n{secret}\n")
}

async fn start(bench: &Bench, port: u16, secret: SigningSecret, stop: &CancellationToken) -> AgentHandle {
    let spec = json!({"listen": format!("127.0.0.1:{port}"), "services": [
        {"name": "sleeper", "start": {"command": ["sleep", "600"]}}]});
    let settings = AgentSettings {
        name: "mac".into(),
        spec: serde_json::from_value(spec).unwrap(),
        base_dir: bench.folder().into(),
        state_dir: bench.folder().join("agent"),
        observe: false,
        version: "test".into(),
        exe: env!("CARGO_BIN_EXE_ostler").into(),
        http: HttpClient::direct().unwrap(),
        signing_secret: Some(secret),
        metrics: Metrics::new(),
    };
    agent::start(settings, stop.clone()).await.unwrap()
}

async fn followed(bench: &Bench, (status, mut at): (StatusCode, Value)) -> Value {
    assert_eq!(status, StatusCode::ACCEPTED, "{at}");
    for _ in 0..200 {
        if at["finished"] == true {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        at = bench.get(&format!("/api/v1/operations/mac/{}", at["id"].as_str().unwrap())).await.1;
    }
    panic!("not over: {at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_holds_the_service_for_a_person_and_a_start_ends_that() {
    let (port, secret, stop) = (free_port(), SigningSecret::generate(), CancellationToken::new());
    let bench = Bench::new(&manifests(port, &secret)).await;
    let agent = start(&bench, port, secret, &stop).await;
    let sleeper = "/api/v1/services/mac/sleeper";

    let (status, body) = bench.post(&format!("{sleeper}/stop"), None).await;
    assert_eq!((status, &body["reason"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("NoLeader")));

    bench.lead().await;
    let done = followed(&bench, bench.post(&format!("{sleeper}/stop"), Some(json!({"reason": "upgrade"}))).await).await;
    assert_eq!(done["phase"], "Succeeded", "{done}");
    let report = agent.report();
    let service = report.service("sleeper").unwrap();
    assert_eq!((service.state, service.holds[0].owner), (ServiceState::Stopped, HoldOwner::Person));
    assert_eq!(service.holds[0].reason, "by ada: upgrade");

    let done = followed(&bench, bench.post(&format!("{sleeper}/start"), None).await).await;
    assert_eq!(done["phase"], "Succeeded", "{done}");
    assert!(agent.report().service("sleeper").unwrap().holds.is_empty());

    for (path, expected, reason) in [
        ("/api/v1/services/mac/other/stop", StatusCode::NOT_FOUND, "ServiceUnknown"),
        ("/api/v1/services/nobody/sleeper/stop", StatusCode::NOT_FOUND, "NotFound"),
        ("/api/v1/services/mac/sleeper/stop?namespace=team", StatusCode::NOT_FOUND, "NotFound"),
        ("/api/v1/services/lost/sleeper/stop", StatusCode::CONFLICT, "NotHere"),
    ] {
        let (status, body) = bench.post(path, None).await;
        assert_eq!((status, &body["reason"]), (expected, &json!(reason)), "{path}: {body}");
    }
    agent.stop_services().await;
    stop.cancel();
    agent.join().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_is_a_bad_gateway() {
    let secret = SigningSecret::generate();
    let bench = Bench::new(&manifests(free_port(), &secret)).await;
    bench.lead().await;
    let (status, body) = bench.post("/api/v1/services/mac/sleeper/stop", None).await;
    assert_eq!((status, &body["reason"]), (StatusCode::BAD_GATEWAY, &json!("HostAgentUnreachable")), "{body}");
}
