//! Prompts that are longer than a model's context: refused before they wait, sent to a larger one, and never a success when they were cut.

use ostler::{
    engines::EngineKind,
    simulate::{Fault, SimulateOptions},
};
use serde_json::{Value, json};

use super::gate::{Gate, chat};
use crate::worker::{eventually, shop::Shop};

/// Some eight thousand tokens.
fn long() -> String {
    "hay oats ".repeat(4_000)
}

fn asks(path: &str) -> Value {
    match path {
        "/v1/completions" | "/api/generate" => json!({"model": "small", "prompt": long(), "max_tokens": 5}),
        _ => json!({"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": long()}]}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_prompt_over_every_context_is_refused_before_it_waits_as_each_protocol_says_it() {
    let shop = Shop::sqlite().await;
    let ollama = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 1, 10).await;
    let own = SimulateOptions::usual_model(EngineKind::Ollama);
    let model = json!({"name": own, "alias": "small", "contextTokens": 4096});
    // None of its slots is free: who waits would wait.
    shop.backend("ollama", "Ollama", ollama.url(), &[model], 0, 10).await;
    let gate = Gate::start(shop).await;
    for (path, error) in [
        ("/v1/chat/completions", json!({"code": "context_length_exceeded", "type": "invalid_request_error"})),
        ("/v1/completions", json!({"code": "context_length_exceeded"})),
        ("/v1/messages", json!({"type": "invalid_request_error"})),
        ("/api/chat", Value::Null),
        ("/api/generate", Value::Null),
    ] {
        let (status, answer) = gate.answer(path, &asks(path)).await;
        assert_eq!(status, 400, "{path}: {answer}");
        let told = answer["error"]["message"].as_str().or(answer["error"].as_str()).unwrap_or_default();
        assert!(told.starts_with("prompt is too long: ") && told.contains("> 4096 maximum"), "{path}: {answer}");
        for (field, value) in error.as_object().into_iter().flatten() {
            assert_eq!(&answer["error"][field], value, "{path}: {answer}");
        }
    }
    assert_eq!(ollama.log().inferences().count(), 0);
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_prompt_goes_to_a_larger_context_and_asks_ollama_by_the_name_that_has_it() {
    let shop = Shop::sqlite().await;
    let (small, large) = (SimulateOptions::new(EngineKind::Ollama), SimulateOptions::new(EngineKind::Mlx));
    let small = shop.simulated("first", small.with_models(&["tiny", "ostler/small"]), 2, 10).await;
    let large = shop.simulated("second", large, 2, 20).await;
    let mlx = SimulateOptions::usual_model(EngineKind::Mlx);
    let of = |name: &str, tokens: i32| [json!({"name": name, "alias": "small", "contextTokens": tokens})];
    shop.backend("first", "Ollama", small.url(), &of("tiny", 4096), 2, 10).await;
    shop.backend("second", "MLX", large.url(), &of(mlx, 65_536), 2, 20).await;
    let gate = Gate::start(shop).await;
    let backend = |response: &reqwest::Response| response.headers()["ostler-backend"].to_str().unwrap().to_owned();
    let response = gate.post("/v1/chat/completions", &chat(false)).send().await.expect("an answer");
    assert_eq!((response.status().as_u16(), backend(&response).as_str()), (200, "first"));
    let asked: Vec<_> = small.log().inferences().filter_map(|call| call.model.clone()).collect();
    assert_eq!(asked, ["ostler/small"], "and no other name, which would load the model anew");
    let response = gate.post("/v1/chat/completions", &asks("/v1/chat/completions")).send().await.expect("an answer");
    assert_eq!((response.status().as_u16(), backend(&response).as_str()), (200, "second"));
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_to_a_part_of_a_prompt_proves_nothing() {
    let shop = Shop::sqlite().await;
    let ollama = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 2, 10).await;
    let gate = Gate::start(shop).await;
    let served = || async {
        let reports = gate.shop.store().workers().await.expect("reports");
        let of = |row: &ostler::store::WorkerRow| row.report.evidence.iter().map(|of| of.served.len()).sum::<usize>();
        reports.iter().map(of).sum::<usize>()
    };
    ollama.set_faults([Fault::Context { tokens: 512 }.into()]);
    // As Ollama does by this path, which has no field against it.
    let (status, answer) = gate.answer("/v1/chat/completions", &asks("/v1/chat/completions")).await;
    assert_eq!((status, &answer["usage"]["prompt_tokens"]), (200, &json!(512)), "{answer}");
    ollama.set_faults([]);
    let (status, _) = gate.answer("/v1/chat/completions", &chat(false)).await;
    assert_eq!(status, 200);
    eventually("the second call is told of", || async { served().await > 0 }).await;
    assert_eq!(served().await, 1, "and the first is not");
    gate.end().await;
}
