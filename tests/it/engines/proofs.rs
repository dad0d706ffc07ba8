//! A proof is asked for in the form that a server takes.

use std::time::Duration;

use ostler::engines::{EngineKind, Failure, ProofRequest, ProofShape, Proved, SendableModel};
use ostler::simulate::{SimulateOptions, SimulatedServer};
use serde_json::{Value, json};

use super::canned::{Answer, Asked, Canned};
use super::{LONG, Subject};

const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"ok\"},\"finish_reason\":\"length\"}]}\n\n";
const VECTOR: &str = r#"{"data":[{"index":0,"embedding":[0.5]}]}"#;

async fn prove(subject: &Subject, hint: Option<ProofShape>) -> Result<Proved, Failure> {
    let request = ProofRequest { hint, ..ProofRequest::new(SendableModel::mlx_default(), LONG) };
    subject.engine.prove(&subject.at, &request, &mut |_| {}).await.map_err(|error| error.failure)
}

fn bad(words: &str) -> Answer {
    Answer::status("400 Bad Request", &json!({"error": {"message": words}}).to_string())
}

fn picky(asked: &Asked) -> Answer {
    let body = &asked.body;
    if body.get("max_tokens").is_some() {
        bad("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    } else if body["max_completion_tokens"].as_u64() < Some(16) {
        bad("Could not finish the message because max_tokens or model output limit was reached.")
    } else if body["stream"] == Value::Bool(true) {
        bad("your organization must be verified to stream this model")
    } else {
        Answer::status("200 OK", r#"{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}"#)
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_usual_form_is_asked_in_others_and_what_worked_comes_first_next_time() {
    let server = Canned::start(picky).await;
    let subject = Subject::new(EngineKind::OpenAi, &server.url());
    let proved = prove(&subject, None).await.expect("it serves");
    assert_eq!(proved.shape, ProofShape::Chat { max_tokens: 16, newer_limit: true, stream: false });
    assert_eq!(server.asked().len(), 4);
    assert_eq!(prove(&subject, Some(proved.shape)).await.expect("it serves").shape, proved.shape);
    assert_eq!(server.asked().len(), 5);
}

#[tokio::test]
async fn a_server_that_only_embeds_is_proved_by_a_vector() {
    let refusals = [
        ("501 Not Implemented", r#"{"error":{"code":501,"message":"This server does not support completions."}}"#),
        ("400 Bad Request", r#"{"message":"The model does not support Chat Completions API"}"#),
        ("404 Not Found", r#"{"detail":"Not Found"}"#),
        ("405 Method Not Allowed", ""),
    ];
    for (status, body) in refusals {
        let server = Canned::start(move |asked| match asked.line.contains("/v1/embeddings") {
            true => Answer::status("200 OK", VECTOR),
            false => Answer::status(status, body),
        })
        .await;
        let subject = Subject::new(EngineKind::OpenAi, &server.url());
        assert_eq!(prove(&subject, None).await.expect(status).shape, ProofShape::Embedding);
        assert_eq!(prove(&subject, Some(ProofShape::Embedding)).await.expect(status).shape, ProofShape::Embedding);
        assert_eq!(server.asked().len(), 3, "{status}");
    }
    let server = Canned::start(|asked| match asked.line.contains("/api/embed") {
        true => Answer::status("200 OK", r#"{"embeddings":[[0.5]]}"#),
        false => Answer::status("400 Bad Request", r#"{"error":"\"m\" does not support chat"}"#),
    })
    .await;
    let subject = Subject::new(EngineKind::Ollama, &server.url());
    assert_eq!(prove(&subject, None).await.expect("a vector").shape, ProofShape::Embedding);
}

#[tokio::test]
async fn a_hint_that_holds_no_more_is_given_up() {
    let server = Canned::start(|asked| match asked.line.contains("/v1/embeddings") {
        true => bad("this model does not embed"),
        false => Answer::stream(TOKEN),
    })
    .await;
    let subject = Subject::new(EngineKind::OpenAi, &server.url());
    assert_eq!(prove(&subject, Some(ProofShape::Embedding)).await.expect("it chats").shape, ProofShape::USUAL);
}

#[tokio::test]
async fn what_another_form_would_not_change_ends_the_proof_at_once() {
    let cases = [
        ("402 Payment Required", "{}", "Unauthorized"),
        ("401 Unauthorized", "{}", "Unauthorized"),
        ("429 Too Many Requests", "{}", "RateLimited"),
        ("500 Internal Server Error", "max_tokens", "ServerError"),
        ("503 Service Unavailable", "Loading model", "Loading"),
        ("404 Not Found", r#"{"error":"model 'm' not found"}"#, "ModelMissing"),
    ];
    for (status, body, variant) in cases {
        let server = Canned::always(Answer::status(status, body)).await;
        let failure = prove(&Subject::new(EngineKind::OpenAi, &server.url()), None).await.expect_err(status);
        assert!(format!("{failure:?}").starts_with(variant), "{status}: {failure:?}");
        assert_eq!(server.asked().len(), 1, "{status}");
    }
    let dying = Canned::start(|asked| match asked.line.contains("/v1/embeddings") {
        true => Answer::status("500 Internal Server Error", "boom"),
        false => Answer::status("501 Not Implemented", "no chat"),
    })
    .await;
    let failure = prove(&Subject::new(EngineKind::OpenAi, &dying.url()), None).await.expect_err("it fails");
    assert_eq!(failure, Failure::ServerError { status: 500, detail: "boom".into() });
    let server = Canned::always(bad("no")).await;
    let failure = prove(&Subject::new(EngineKind::OpenAi, &server.url()), None).await.expect_err("it refuses all");
    assert_eq!(failure, Failure::Rejected { status: 400, detail: "no".into() });
    assert!((2..=5).contains(&server.asked().len()));
}

#[tokio::test]
async fn every_simulated_engine_proves_that_it_serves() {
    for kind in EngineKind::ALL {
        let server = SimulatedServer::start(SimulateOptions::new(kind)).await.expect("start");
        let subject = Subject::new(kind, server.url());
        let model = subject.request(SimulateOptions::usual_model(kind), 1).model;
        let request = ProofRequest::new(model, LONG);
        let mut signs = 0;
        let proved = subject.engine.prove(&subject.at, &request, &mut |_| signs += 1).await.expect("it serves");
        assert_eq!(proved.shape, ProofShape::USUAL);
        assert!(signs > 0 && proved.first_token_after <= proved.total + Duration::from_millis(1));
    }
}
