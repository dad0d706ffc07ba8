//! Whose turn it is at a gateway: whoever left comes back to its turn, and a conversation to its server.

use std::time::{Duration, Instant};

use ostler::{
    engines::EngineKind,
    gateway::GatewayTimings,
    simulate::{SimulateOptions, SimulatedServer},
    store::{Slot, SlotRequest},
};
use serde_json::{Value, json};

use super::gate::{Gate, quick};
use crate::worker::{eventually, shop::Shop};

/// Somebody else has a slot.
async fn taken(shop: &Shop, server: &SimulatedServer) -> Slot {
    let minute = Duration::from_secs(60);
    let request =
        SlotRequest { server_url: server.url().to_owned(), ..crate::store::bench::request("somebody", minute, minute) };
    shop.bench.take(&request).await
}

fn says(said: &str) -> Value {
    json!({"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": said}]})
}

fn timings() -> GatewayTimings {
    let wait = Duration::from_secs(30);
    GatewayTimings {
        wait_whole: wait,
        report: Duration::from_millis(20),
        session_wait: Duration::from_millis(600),
        ..quick()
    }
}

/// So many calls are open at the gateway.
async fn until_open(gate: &Gate, calls: usize) {
    eventually("the calls are open", || async {
        let reports = gate.shop.store().workers().await.expect("reports");
        reports.iter().map(|row| row.report.open_calls.len()).sum::<usize>() == calls
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_leaves_and_asks_again_has_its_old_turn() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let slot = taken(&shop, &server).await;
    let gate = Gate::start_with(shop, timings()).await;
    let ask = |said: &str| tokio::spawn(gate.post("/v1/chat/completions", &says(said)).send());
    let mut calls = Vec::new();
    for (at, said) in ["first", "second", "third"].iter().enumerate() {
        calls.push(ask(said));
        until_open(&gate, at + 1).await;
    }
    calls.remove(0).abort();
    until_open(&gate, 2).await;
    calls.push(ask("first"));
    until_open(&gate, 3).await;
    gate.shop.store().release_slot(&slot, Duration::ZERO).await.expect("release");
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("an answer").status(), 200);
    }
    let served: Vec<_> = server.log().inferences().filter_map(|call| call.prompt.clone()).collect();
    assert_eq!(served, ["first", "second", "third"]);
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_conversation_goes_on_at_its_server_and_waits_for_it_a_while() {
    let shop = Shop::sqlite().await;
    let first = shop.simulated("first", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let second = shop.simulated("second", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    let slot = taken(&shop, &first).await;
    let gate = Gate::start_with(shop, timings()).await;
    let turn = async |said: &str, key: &str| -> String {
        let mut body = says(said);
        body["prompt_cache_key"] = key.into();
        let response = gate.post("/v1/chat/completions", &body).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.headers()["ostler-backend"].to_str().expect("text").to_owned()
    };
    assert_eq!(turn("a", "mine").await, "second", "the first is full");
    gate.shop.store().release_slot(&slot, Duration::ZERO).await.expect("release");
    gate.until_free(first.url()).await;
    assert_eq!(turn("b", "mine").await, "second", "it has what was said");
    assert_eq!(turn("c", "other").await, "first", "another conversation goes where it would");
    gate.until_free(second.url()).await;
    let _slot = taken(&gate.shop, &second).await;
    let began = Instant::now();
    assert_eq!(turn("d", "mine").await, "first", "it does not wait for ever");
    assert!(began.elapsed() >= timings().session_wait, "but a while: {:?}", began.elapsed());
    assert_eq!(turn("e", "mine").await, "first", "and is there from then on");
    gate.end().await;
}
