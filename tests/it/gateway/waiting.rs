//! Waiting: signs of life, and an end.

use std::time::Duration;

use futures::StreamExt;
use ostler::{
    engines::EngineKind,
    gateway::GatewayTimings,
    simulate::{ActiveFault, SimulateOptions},
};
use serde_json::{Value, json};

use super::gate::{Gate, chat, quick};
use crate::worker::{
    PATIENCE,
    shop::{Shop, until_in_flight},
};

/// A server whose one slot somebody else has.
async fn full(engine: EngineKind) -> (Gate, ostler::simulate::SimulatedServer, ostler::store::Slot) {
    full_with(engine, quick()).await
}

async fn full_with(
    engine: EngineKind,
    timings: GatewayTimings,
) -> (Gate, ostler::simulate::SimulatedServer, ostler::store::Slot) {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(engine), 1, 10).await;
    let request = ostler::store::SlotRequest {
        server_url: server.url().to_owned(),
        ..crate::store::bench::request("somebody", Duration::from_secs(60), Duration::from_secs(60))
    };
    let slot = shop.bench.take(&request).await;
    (Gate::start_with(shop, timings).await, server, slot)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_for_a_stream_is_shown_signs_of_life_and_then_the_answer() {
    for (engine, path) in [(EngineKind::OpenAi, "/v1/chat/completions"), (EngineKind::Ollama, "/api/chat")] {
        let (gate, server, slot) = full(engine).await;
        let mut pieces = gate.post(path, &chat(true)).send().await.expect("begun while it waits").bytes_stream();
        for _ in 0..2 {
            let beat = pieces.next().await.expect("a sign of life").expect("bytes");
            let text = String::from_utf8(beat.to_vec()).expect("text");
            let value: Value = serde_json::from_str(text.trim_start_matches("data: ").trim()).expect(&text);
            let content = value["message"]["content"].as_str().or(value["choices"][0]["delta"]["content"].as_str());
            assert_eq!(content.unwrap_or_default(), "", "{text}");
            assert!(value.get("choices").is_some() || value["done"] == false, "{text}");
        }
        assert_eq!(server.log().inferences().count(), 0);
        gate.shop.store().release_slot(&slot, Duration::ZERO).await.expect("release");
        let rest: Vec<_> = pieces.map(|piece| piece.expect("a whole body")).collect().await;
        let text = String::from_utf8(rest.concat()).expect("text");
        assert!(text.contains("[DONE]") || text.contains("\"done\":true"), "{text}");
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_front_of_an_answer_to_responses_there_are_comments_and_seldom_an_event() {
    let timings = GatewayTimings {
        commit: Duration::from_millis(100),
        beat: Duration::from_millis(50),
        wait_streamed: PATIENCE,
        ..quick()
    };
    for engine in [EngineKind::Mlx, EngineKind::Ollama] {
        let (gate, _server, slot) = full_with(engine, timings.clone()).await;
        let body = json!({"model": "small", "stream": true, "input": "hello"});
        let mut pieces = gate.post("/v1/responses", &body).send().await.expect("begun while it waits").bytes_stream();
        let mut text = String::new();
        while !text.contains("event: keepalive\n") {
            text += std::str::from_utf8(&pieces.next().await.expect("a sign of life").expect("bytes")).expect("text");
        }
        // OpenAI's SDKs take no event there, Codex counts events alone.
        assert_eq!(text.split_once("event:").expect("an event").0, ": waiting\n\n".repeat(23));
        gate.shop.store().release_slot(&slot, Duration::ZERO).await.expect("release");
        let rest: Vec<_> = pieces.map(|piece| piece.expect("a whole body")).collect().await;
        let rest = String::from_utf8(rest.concat()).expect("text");
        let (_, answer) = rest.split_once("event: response.created\n").expect(&rest);
        assert!(!answer.contains(": waiting") && answer.contains("event: response.completed\n"), "{answer}");
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_too_long_is_told_when_to_come_again() {
    let (gate, _server, _slot) = full(EngineKind::OpenAi).await;
    let response = gate.post("/v1/chat/completions", &chat(false)).send().await.expect("an answer");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let after: u64 = response.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&after));
    let text =
        gate.post("/v1/chat/completions", &chat(true)).send().await.expect("begun").text().await.expect("an end");
    let last = text.trim_end().lines().last().expect("a line");
    assert!(last.contains("\"error\"") && !text.contains("[DONE]"), "{text}");
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_long_silence_of_the_engine_is_filled_between_frames() {
    let shop = Shop::sqlite().await;
    let fault = "prefill:seconds=1".parse::<ActiveFault>().expect("a fault");
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi).with_fault(fault), 1, 10).await;
    let gate = Gate::start_with(shop, quick()).await;
    let call = tokio::spawn(gate.post("/v1/chat/completions", &chat(true)).send());
    until_in_flight(&server, 1).await;
    let text = call.await.expect("no panic").expect("an answer").text().await.expect("a body");
    let beats = text.matches("\"delta\":{},\"finish_reason\":null").count();
    assert!(beats >= 2, "{text}");
    assert!(text.trim_end().ends_with("[DONE]"), "{text}");
    let whole = gate
        .answer("/v1/chat/completions", &json!({"model": "small", "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert_eq!(whole.0, 200, "an answer that is not streamed has no signs of life: {}", whole.1);
    gate.end().await;
}
