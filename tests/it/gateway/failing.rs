//! Engines that fail: before the first byte another one is asked, afterwards the client is told.

use ostler::{
    engines::EngineKind,
    simulate::{ActiveFault, SimulateOptions},
    store::Admission,
};
use serde_json::{Value, json};

use super::gate::{Gate, chat, quick};
use crate::worker::{eventually, shop::Shop};

fn broken(fault: &str) -> SimulateOptions {
    SimulateOptions::new(EngineKind::OpenAi).with_fault(fault.parse::<ActiveFault>().expect("a fault"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn until_the_first_byte_another_server_is_asked() {
    for fault in [
        "refuse",
        "reset:path=inferences",
        "status:code=500,path=inferences",
        "status:code=503,path=inferences",
        "status:code=401,path=inferences",
        "status:code=429,path=inferences",
        "empty-body:path=inferences",
    ] {
        let shop = Shop::sqlite().await;
        let first = shop.simulated("first", broken(fault), 2, 10).await;
        let second = shop.simulated("second", SimulateOptions::new(EngineKind::OpenAi), 2, 20).await;
        let gate = Gate::start(shop).await;
        let response = gate.post("/v1/chat/completions", &chat(true)).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{fault}");
        assert_eq!(response.headers()["ostler-backend"], "second", "{fault}");
        let text = response.text().await.expect("a body");
        assert!(text.contains("[DONE]") && !text.contains("error"), "{fault}: {text}");
        gate.until_free(first.url()).await;
        gate.until_free(second.url()).await;
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_first_byte_the_stream_ends_with_an_error_and_nobody_else_is_asked() {
    for (engine, path) in [(EngineKind::OpenAi, "/v1/chat/completions"), (EngineKind::Ollama, "/api/chat")] {
        let shop = Shop::sqlite().await;
        let fault = "reset-after:tokens=3".parse::<ActiveFault>().expect("a fault");
        let first = shop.simulated("first", SimulateOptions::new(engine).with_fault(fault), 2, 10).await;
        let second = shop.simulated("second", SimulateOptions::new(engine), 2, 20).await;
        let gate = Gate::start(shop).await;
        let response = gate.post(path, &chat(true)).send().await.expect("an answer");
        let text = response.text().await.expect("a well-formed end");
        let last = text.trim_end().lines().last().expect("a line").trim_start_matches("data: ");
        let last: Value = serde_json::from_str(last).expect(&text);
        assert!(last.get("error").is_some(), "{text}");
        assert!(!text.contains("[DONE]") && !text.contains("\"done\":true"), "{text}");
        assert_eq!(second.log().inferences().count(), 0);
        gate.until_free(first.url()).await;
        let reports = gate.shop.store().workers().await.expect("reports");
        let told = reports.iter().any(|row| row.report.evidence.iter().any(|of| !of.failed.is_empty()));
        if !told {
            eventually("the leader is told", || async {
                let reports = gate.shop.store().workers().await.expect("reports");
                reports.iter().any(|row| row.report.evidence.iter().any(|of| !of.failed.is_empty()))
            })
            .await;
        }
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_error_that_every_server_gives_is_passed_on() {
    let shop = Shop::sqlite().await;
    let first = shop.simulated("first", broken("status:code=500,path=inferences"), 2, 10).await;
    let second = shop.simulated("second", broken("status:code=500,path=inferences"), 2, 20).await;
    let gate = Gate::start(shop).await;
    let (status, answer) = gate.answer("/v1/chat/completions", &chat(false)).await;
    assert_eq!(status, 500, "{answer}");
    let asked = |server: &ostler::simulate::SimulatedServer| server.log().inferences().count();
    assert_eq!((asked(&first), asked(&second)), (1, 1));
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_recovers_is_waited_for_and_one_that_needs_a_person_is_not() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 2, 10).await;
    shop.admit(server.url(), 2, Admission::Closed).await;
    let gate = Gate::start_with(shop, quick()).await;
    let waits = tokio::spawn(gate.post("/v1/chat/completions", &chat(true)).send());
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    gate.shop.admit(server.url(), 2, Admission::Open).await;
    assert_eq!(waits.await.expect("no panic").expect("an answer").status(), 200);
    let mut row = gate.shop.store().backends().await.expect("read").remove(0);
    row.state = "Deferred".to_owned();
    gate.shop.store().project_backend(&gate.shop.fence, &row).await.expect("project");
    eventually("the gateway knows", || async {
        let (status, answer) = gate.answer("/v1/chat/completions", &chat(false)).await;
        assert!(status == 200 || status == 503, "{answer}");
        status == 503 && answer["error"]["message"].as_str().is_some_and(|why| why.contains("one is Deferred"))
    })
    .await;
    gate.end().await;
}

#[tokio::test]
async fn a_request_that_no_server_can_take_is_refused_in_its_protocols_shape() {
    let shop = Shop::sqlite().await;
    let _mlx = shop.simulated("mlx", SimulateOptions::new(EngineKind::Mlx), 2, 10).await;
    let gate = Gate::start(shop).await;
    let picture = json!({"model": "small", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]});
    for (path, body, status, words) in [
        ("/v1/chat/completions", json!({"model": "big", "messages": []}), 404, "there are: small"),
        ("/v1/chat/completions", picture, 400, "reads pictures"),
        ("/v1/embeddings", json!({"model": "small", "input": "x"}), 400, "don't have this call"),
        (
            "/api/chat",
            json!({"model": "small", "messages": [{"role": "user", "content": "x"}]}),
            400,
            "don't have this call",
        ),
        ("/api/chat", json!({"model": "big", "messages": [{"role": "user", "content": "x"}]}), 404, "there are: small"),
        ("/v1/chat/completions", json!({"model": "small", "Model": "other"}), 400, "write \"model\""),
        ("/api/pull", json!({"model": "small"}), 404, "are declared"),
        ("/v1/audio/speech", json!({}), 404, "is not served"),
        (
            "/v1/messages",
            json!({"model": "small", "messages": [{"role": "user", "content": [{"type": "document"}]}]}),
            400,
            "\"document\"",
        ),
        ("/v1/responses", json!({"model": "small", "previous_response_id": "resp_1"}), 400, "whole conversation"),
        ("/v1/messages/count_tokens", json!({"model": "nobody"}), 404, "there are: small"),
        ("/v1/messages/batches", json!({"model": "small"}), 404, "is not served"),
    ] {
        let (found, answer) = gate.answer(path, &body).await;
        let message = match path {
            _ if path.starts_with("/api") => &answer["error"],
            _ => &answer["error"]["message"],
        };
        assert_eq!(found, status, "{path}: {answer}");
        assert!(message.as_str().is_some_and(|message| message.contains(words)), "{path}: {answer}");
    }
    gate.end().await;
}
