//! What MLX's client must be careful about, and that the simulation is as the real one.

use std::time::Duration;

use ostler::engines::{EngineKind, Failure, ProbeVerdict, SendableModel, model_to_send};
use ostler::simulate::{Fault, SimulateOptions, SimulatedServer};
use serde_json::json;

use super::{LONG, Subject};
use crate::real::Mlx;

/// `/v1/models` answers 200 and nothing, `/api/tags` 404, `/health` 200: only an inference tells.
async fn an_empty_listing_is_decided_by_an_inference(subject: &Subject) {
    let verdict = subject.engine.probe(&subject.at, &[], LONG).await;
    assert_eq!(verdict, ProbeVerdict::NeedsInference { bad_body: true });
    let request = subject.request_raw(SendableModel::mlx_default(), 1);
    subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it serves its default model");
}

#[tokio::test]
async fn an_empty_listing_of_the_simulated_is_decided_by_an_inference() {
    let options =
        SimulateOptions::new(EngineKind::Mlx).with_fault(Fault::EmptyBody { path: Some("/v1/models".into()) });
    let server = SimulatedServer::start(options).await.expect("start");
    an_empty_listing_is_decided_by_an_inference(&Subject::new(EngineKind::Mlx, server.url())).await;
}

#[tokio::test]
async fn real_mlx_empty_listing_is_decided_by_an_inference() {
    let server = Mlx::without_hub();
    an_empty_listing_is_decided_by_an_inference(&Subject::new(EngineKind::Mlx, &server.url())).await;
}

/// What the client never sends, sent by hand.
async fn an_unknown_name_is_a_404(url: &str) -> String {
    let body = json!({"model": "no/such-model", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1});
    let reply =
        reqwest::Client::new().post(format!("{url}/v1/chat/completions")).json(&body).send().await.expect("an answer");
    assert_eq!(reply.status(), 404);
    let answer: serde_json::Value = reply.json().await.expect("JSON");
    answer["error"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn an_unknown_name_evicts_the_model_of_the_simulated() {
    let server = SimulatedServer::start(SimulateOptions::new(EngineKind::Mlx)).await.expect("start");
    let subject = Subject::new(EngineKind::Mlx, server.url());
    let model = SimulateOptions::usual_model(EngineKind::Mlx);
    subject.infer(model, 1).await.expect("it answers");
    an_unknown_name_is_a_404(server.url()).await;
    subject.infer(model, 1).await.expect("it answers again");
    let log = server.log();
    assert_eq!((log.loads[model], log.unloads[model]), (2, 1));
}

#[tokio::test]
async fn real_mlx_unknown_name_is_a_404_from_the_hub() {
    let server = Mlx::start();
    let subject = Subject::new(EngineKind::Mlx, &server.url());
    let why = an_unknown_name_is_a_404(&server.url()).await;
    assert!(!why.is_empty());
    subject.infer(server.model(), 1).await.expect("it loads its own again");
}

#[tokio::test]
async fn a_name_that_is_not_listed_never_reaches_the_server() {
    let server = SimulatedServer::start(SimulateOptions::new(EngineKind::Mlx)).await.expect("start");
    let subject = Subject::new(EngineKind::Mlx, server.url());
    let ProbeVerdict::Models(listed) = subject.engine.probe(&subject.at, &[], LONG).await else { panic!("no listing") };
    model_to_send(EngineKind::Mlx, "mlx-community/other", Some(&listed.models)).expect_err("it is not listed");
    model_to_send(EngineKind::Mlx, &listed.models[0], None).expect_err("no listing, no name");
}

#[tokio::test]
async fn real_mlx_killed_and_frozen_are_told_apart() {
    let server = Mlx::start();
    let subject = Subject::new(EngineKind::Mlx, &server.url());
    server.freeze();
    let short = Duration::from_millis(500);
    assert_eq!(subject.engine.probe(&subject.at, &[], short).await, ProbeVerdict::Timeout);
    server.thaw();
    subject.infer(server.model(), 1).await.expect("it goes on");
    server.kill();
    assert_eq!(subject.engine.probe(&subject.at, &[], short).await, ProbeVerdict::Refused);
    let failure = subject.infer(server.model(), 1).await.expect_err("it is dead").failure;
    assert_eq!(failure, Failure::Refused);
    server.resume();
    subject.infer(server.model(), 1).await.expect("it is back");
}
