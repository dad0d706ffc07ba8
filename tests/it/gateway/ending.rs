//! However a call ends, its slot is given back once, and the limit holds at the engine.

use std::time::{Duration, Instant};

use futures::StreamExt;
use ostler::{
    engines::EngineKind,
    simulate::{ActiveFault, SimulateOptions, SimulatedServer},
};
use serde_json::{Value, json};

use super::gate::{Gate, chat};
use crate::worker::{
    eventually,
    shop::{Shop, until_in_flight},
};

const ENGINES: [EngineKind; 3] = [EngineKind::Ollama, EngineKind::Mlx, EngineKind::OpenAi];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Waiting,
    Prefill,
    Streaming,
    Whole,
}

fn fault(text: &str) -> ActiveFault {
    text.parse().expect("a fault")
}

async fn gate(engine: EngineKind) -> (Gate, SimulatedServer) {
    let shop = Shop::sqlite().await;
    let options = SimulateOptions { tokens_per_second: 100.0, parallel: 4, ..SimulateOptions::new(engine) };
    let server = shop.simulated("one", options, 1, 10).await;
    (Gate::start(shop).await, server)
}

fn long(stream: bool) -> Value {
    json!({"model": "small", "stream": stream, "max_tokens": 150, "messages": [{"role": "user", "content": "at length"}]})
}

/// A client that leaves in a phase of its call.
async fn leaves(gate: &Gate, server: &SimulatedServer, phase: Phase) {
    if phase == Phase::Prefill {
        server.set_faults([fault("prefill:seconds=2")]);
    } else {
        server.set_faults([fault("long-answer:tokens=150")]);
    }
    let request = gate.post("/v1/chat/completions", &long(phase != Phase::Whole));
    match phase {
        Phase::Streaming => {
            let mut pieces = request.send().await.expect("an answer").bytes_stream();
            assert!(pieces.next().await.expect("a piece").is_ok());
        }
        Phase::Prefill | Phase::Whole => {
            let call = tokio::spawn(request.send());
            until_in_flight(server, 1).await;
            call.abort();
        }
        Phase::Waiting => {
            let first = tokio::spawn(gate.post("/v1/chat/completions", &long(true)).send());
            until_in_flight(server, 1).await;
            let call = tokio::spawn(request.send());
            tokio::time::sleep(Duration::from_millis(100)).await;
            call.abort();
            assert_eq!(
                first.await.expect("no panic").expect("an answer").text().await.map(|text| text.is_empty()).ok(),
                Some(false)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_leaves_in_any_phase_frees_its_slot_and_the_engine() {
    for engine in ENGINES {
        let (gate, server) = gate(engine).await;
        for phase in [Phase::Waiting, Phase::Prefill, Phase::Streaming, Phase::Whole] {
            leaves(&gate, &server, phase).await;
            let left = Instant::now();
            eventually(&format!("{engine} {phase:?}: the engine is free"), || async { server.log().in_flight == 0 })
                .await;
            // What MLX does not notice it does to its end.
            let is_noticed = engine != EngineKind::Mlx || phase == Phase::Streaming;
            let took = left.elapsed();
            assert!(took < Duration::from_secs(1) || !is_noticed, "{engine} {phase:?}: {took:?} until it stopped");
            gate.until_free(server.url()).await;
            server.clear_faults();
            let (status, answer) = gate.answer("/v1/chat/completions", &chat(false)).await;
            assert_eq!(status, 200, "{engine} {phase:?}: {answer}");
        }
        let peak = server.log().in_flight_peak;
        assert_eq!(peak, 1, "{engine}: the limit holds at the engine while clients leave");
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_come_and_leave_at_random_leave_no_slot_behind() {
    for engine in ENGINES {
        let (gate, server) = gate(engine).await;
        let calls = (0..40_u64).map(|n| {
            let body = json!({"model": "small", "stream": n % 4 > 0, "max_tokens": 20, "messages": [{"role": "user", "content": "x"}]});
            let request = gate.post("/v1/chat/completions", &body);
            async move {
                let patience = Duration::from_millis(n * 37 % 400);
                let whole = async { request.send().await.expect("an answer").bytes().await };
                tokio::time::timeout(patience, whole).await.is_ok()
            }
        });
        let done = futures::future::join_all(calls).await.into_iter().filter(|done| *done).count();
        eventually(&format!("{engine}: the engine is free"), || async { server.log().in_flight == 0 }).await;
        gate.until_free(server.url()).await;
        let peak = server.log().in_flight_peak;
        assert!(peak <= 1, "{engine}: {peak} calls at once; {done} of 40 were served");
        gate.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_gateway_that_ends_finishes_streams_and_sends_those_away_that_wait() {
    let (gate, server) = gate(EngineKind::OpenAi).await;
    server.set_faults([fault("long-answer:tokens=150")]);
    let streamed = tokio::spawn(gate.post("/v1/chat/completions", &long(true)).send());
    until_in_flight(&server, 1).await;
    let waits = tokio::spawn(gate.post("/v1/chat/completions", &long(false)).send());
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.stop();
    let sent_away = waits.await.expect("no panic").expect("an answer");
    assert_eq!((sent_away.status().as_u16(), sent_away.headers().contains_key("retry-after")), (503, true));
    let text = streamed.await.expect("no panic").expect("an answer").text().await.expect("a whole body");
    assert!(text.trim_end().ends_with("[DONE]"), "{text}");
    let shop = gate.end().await;
    assert_eq!(shop.occupied(server.url()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slot_that_is_taken_away_ends_its_call() {
    let (gate, server) = gate(EngineKind::OpenAi).await;
    server.set_faults([fault("long-answer:tokens=100000")]);
    let body = json!({"model": "small", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let mut pieces = gate.post("/v1/chat/completions", &body).send().await.expect("an answer").bytes_stream();
    assert!(pieces.next().await.expect("a piece").is_ok());
    gate.shop.store().abort_slots(&gate.shop.fence, server.url()).await.expect("abort");
    let rest: Vec<_> = pieces.map(|piece| piece.expect("a well-formed end")).collect().await;
    let text = String::from_utf8(rest.concat()).expect("text");
    assert!(text.contains("\"error\"") && !text.contains("[DONE]"), "{}", &text[text.len().saturating_sub(500)..]);
    eventually("the engine is free", || async { server.log().in_flight == 0 }).await;
    gate.end().await;
}
