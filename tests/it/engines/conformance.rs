//! Generic over the server: what is asserted here holds for the real ones and for their simulations.

use std::time::Duration;

use ostler::engines::{CallActivity, EmbedRequest, EngineKind, Failure, PathReply, ProbeVerdict, Sampling, same_model};
use ostler::simulate::{SimulateOptions, SimulatedServer};
use ostler::tasks::Message;
use serde_json::json;

use super::{LONG, Subject};
use crate::real::{Mlx, Ollama};

/// `model` is one that the server has.
pub async fn suite(kind: EngineKind, url: &str, model: &str) {
    let subject = Subject::new(kind, url);
    lists_its_models(&subject, model).await;
    answers_and_counts_tokens(&subject, model).await;
    answers_a_single_token(&subject, model).await;
    takes_a_conversation_and_its_parameters(&subject, model).await;
    matches_a_schema_where_it_can(&subject, model).await;
    embeds_or_says_that_it_cannot(&subject, model).await;
    says_that_a_model_is_missing(&subject, model).await;
    a_path_that_it_lacks_is_not_found(&subject).await;
    stops_when_the_caller_goes(&subject, model).await;
    if subject.engine.manages_models() {
        loads_and_unloads(&subject, model).await;
    } else {
        says_that_it_cannot_manage_models(&subject, model).await;
    }
}

async fn lists_its_models(subject: &Subject, model: &str) {
    let verdict = subject.engine.probe(&subject.at, &[], LONG).await;
    let ProbeVerdict::Models(listed) = &verdict else { panic!("no listing: {verdict:?}") };
    assert!(listed.models.iter().any(|name| same_model(subject.engine.kind(), name, model)), "{model} in {listed:?}");
}

async fn answers_and_counts_tokens(subject: &Subject, model: &str) {
    let mut seen = 0;
    let request = subject.request(model, 8);
    let outcome = subject
        .engine
        .infer(&subject.at, &request, &mut |activity| seen += u32::from(activity == CallActivity::Token))
        .await
        .expect("it answers");
    assert!((1..=8).contains(&outcome.tokens), "{outcome:?}");
    assert!((1..=outcome.tokens).contains(&seen), "{seen} pieces of {} tokens", outcome.tokens);
    assert!(outcome.first_token_after <= outcome.total);
    let measures = subject.engine.kind() == EngineKind::Ollama;
    assert_eq!(outcome.eval_duration_per_token.is_some(), measures, "{outcome:?}");
}

async fn answers_a_single_token(subject: &Subject, model: &str) {
    let outcome = subject.infer(model, 1).await.expect("it answers");
    assert!(outcome.tokens <= 1, "{outcome:?}");
}

async fn takes_a_conversation_and_its_parameters(subject: &Subject, model: &str) {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let mut request = subject.request(model, 6);
    request.messages = vec![
        message("system", "You are terse."),
        message("user", "a"),
        message("assistant", "b"),
        message("user", "c"),
    ];
    request.sampling =
        Sampling { temperature: Some(0.0), top_p: Some(0.9), seed: Some(7), stop: vec!["\u{1}".to_owned()] };
    request.count = true;
    let first = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it answers");
    let second = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it answers");
    assert_eq!(first.text, second.text, "the same seed at temperature 0");
    assert!(first.prompt_tokens.is_some_and(|n| n >= 4), "{first:?}");
    assert!(first.tokens <= 6 && (!first.cut_off || first.tokens == 6), "{first:?}");
}

async fn matches_a_schema_where_it_can(subject: &Subject, model: &str) {
    if !subject.engine.enforces_schemas() {
        return;
    }
    let schema = json!({"type": "object", "properties": {"n": {"enum": ["yes", "no"]}}, "required": ["n"], "additionalProperties": false});
    let mut request = subject.request(model, 200);
    request.schema = Some(schema.clone());
    request.sampling.temperature = Some(0.0);
    let outcome = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect("it answers");
    match serde_json::from_str(&outcome.text) {
        Ok(value) => assert!(jsonschema::is_valid(&schema, &value), "{}", outcome.text),
        // A model that says spaces for ever is within the format, too.
        Err(_) => assert!(outcome.cut_off, "{outcome:?}"),
    }
}

async fn embeds_or_says_that_it_cannot(subject: &Subject, model: &str) {
    let kind = subject.engine.kind();
    let model = subject.request(model, 1).model;
    let input = vec!["hay".to_owned(), "oats".to_owned(), "hay".to_owned()];
    let request = EmbedRequest { model, input, keep_alive: None, timeout: LONG };
    match subject.engine.embed(&subject.at, &request).await {
        Ok(outcome) => {
            assert_eq!(outcome.vectors.len(), 3);
            assert!(
                !outcome.vectors[0].is_empty() && outcome.vectors.iter().all(|v| v.len() == outcome.vectors[0].len())
            );
            assert!(outcome.vectors[0] != outcome.vectors[1]);
        }
        Err(error) => {
            // A chat model may not embed; MLX never does.
            let cannot = error.failure == Failure::Unsupported { engine: kind };
            assert!(cannot || error.to_string().contains("support"), "{error}");
            assert_eq!(cannot, kind == EngineKind::Mlx);
        }
    }
}

/// MLX must not be asked: its client can't even be given the name.
async fn says_that_a_model_is_missing(subject: &Subject, model: &str) {
    let missing = format!("{model}-that-nobody-has");
    let sendable = ostler::engines::model_to_send(subject.engine.kind(), &missing, Some(&[model.to_owned()]));
    match sendable {
        Ok(name) => {
            let request = subject.request_raw(name, 1);
            let error = subject.engine.infer(&subject.at, &request, &mut |_| {}).await.expect_err("it lacks the model");
            assert!(matches!(error.failure, Failure::ModelMissing { .. }), "{error}");
        }
        Err(refused) => assert_eq!((subject.engine.kind(), refused.model), (EngineKind::Mlx, missing)),
    }
}

async fn a_path_that_it_lacks_is_not_found(subject: &Subject) {
    let reply = subject.engine.probe_path(&subject.at, "/nowhere/models", LONG).await;
    assert_eq!(reply, PathReply::NotFound);
    let verdict = subject.engine.probe(&subject.at, &["/nowhere/models".to_owned()], LONG).await;
    assert_eq!(verdict, ProbeVerdict::NeedsInference { bad_body: false });
}

/// A canary that is given up must leave the server free for the next call.
async fn stops_when_the_caller_goes(subject: &Subject, model: &str) {
    let mut request = subject.request(model, 1000);
    request.timeout = Duration::from_millis(300);
    if let Err(error) = subject.engine.infer(&subject.at, &request, &mut |_| {}).await {
        assert!(matches!(error.failure, Failure::Timeout { .. }), "{error}");
    }
    subject.infer(model, 1).await.expect("it serves the next call");
}

async fn loads_and_unloads(subject: &Subject, model: &str) {
    let (engine, at) = (subject.engine, &subject.at);
    let loaded = || async {
        let loaded = engine.loaded(at, LONG).await.expect("it lists").expect("it can tell");
        loaded.into_iter().find(|one| same_model(engine.kind(), &one.name, model))
    };
    engine.preload(at, model, LONG).await.expect("it loads");
    let expiry = loaded().await.expect("it is loaded").expires_at.expect("it has an expiry");
    let century = jiff::SignedDuration::from_hours(24 * 365 * 100);
    assert!(expiry.duration_since(jiff::Timestamp::now()) > century, "pinned, not until {expiry}");
    engine.unload(at, model, LONG).await.expect("it unloads");
    super::eventually("the model to go", || async { loaded().await.is_none() }).await;
    engine.unload(at, model, LONG).await.expect("to unload what is not loaded does no harm");
    let error = engine.unload(at, "nobody-has-this", LONG).await.expect_err("it lacks the model");
    assert!(matches!(error.failure, Failure::ModelMissing { .. }), "{error}");
}

async fn says_that_it_cannot_manage_models(subject: &Subject, model: &str) {
    let (engine, at) = (subject.engine, &subject.at);
    assert_eq!(engine.loaded(at, LONG).await, Ok(None));
    let unsupported = Failure::Unsupported { engine: engine.kind() };
    assert_eq!(engine.unload(at, model, LONG).await.expect_err("unload").failure, unsupported);
    assert_eq!(engine.preload(at, model, LONG).await.expect_err("preload").failure, unsupported);
    assert_eq!(engine.pull(at, model, LONG, &mut |_| {}).await.expect_err("pull").failure, unsupported);
}

#[tokio::test]
async fn every_simulated_engine_does_what_an_engine_must() {
    for kind in EngineKind::ALL {
        let server = SimulatedServer::start(SimulateOptions::new(kind)).await.expect("start");
        suite(kind, server.url(), SimulateOptions::usual_model(kind)).await;
    }
}

#[tokio::test]
async fn real_ollama_does_what_an_engine_must() {
    let server = Ollama::start();
    suite(EngineKind::Ollama, &server.url(), Ollama::MODEL).await;
}

#[tokio::test]
async fn real_ollama_does_what_an_openai_server_must() {
    let server = Ollama::start();
    let subject = Subject::new(EngineKind::OpenAi, &server.url());
    lists_its_models(&subject, Ollama::MODEL).await;
    answers_and_counts_tokens(&subject, Ollama::MODEL).await;
    takes_a_conversation_and_its_parameters(&subject, Ollama::MODEL).await;
    matches_a_schema_where_it_can(&subject, Ollama::MODEL).await;
    embeds_or_says_that_it_cannot(&subject, Ollama::MODEL).await;
    says_that_a_model_is_missing(&subject, Ollama::MODEL).await;
}

#[tokio::test]
async fn real_mlx_does_what_an_engine_must() {
    let server = Mlx::start();
    suite(EngineKind::Mlx, &server.url(), server.model()).await;
}
