//! Who calls, by key: what each caller may, and how its calls end when its key is withdrawn.

use std::time::{Duration, Instant};

use futures::{StreamExt, future::join_all};
use ostler::{
    calls::CallerKey,
    engines::EngineKind,
    simulate::{ActiveFault, SimulateOptions, SimulatedServer},
};
use serde_json::{Value, json};

use super::gate::{Gate, chat, quick};
use crate::worker::{
    eventually,
    shop::{Shop, until_in_flight},
};

const CHAT: &str = "/v1/chat/completions";

async fn gate(limit: i32) -> (Gate, SimulatedServer) {
    let shop = Shop::sqlite().await;
    let options = SimulateOptions { tokens_per_second: 100.0, parallel: 8, ..SimulateOptions::new(EngineKind::OpenAi) };
    let server = shop.simulated("one", options, limit, 10).await;
    (Gate::start_with(shop, quick()).await, server)
}

/// Declares a caller, with the hash of a new key.
pub async fn caller(gate: &Gate, name: &str, mut spec: Value) -> CallerKey {
    let key = CallerKey::generate();
    spec["keyHashes"] = json!([key.hash()]);
    gate.shop.declare("Caller", name, spec).await;
    let listed = async || {
        let listed = gate.http.get(format!("{}/v1/models", gate.url)).header("x-api-key", key.text()).send().await;
        listed.expect("an answer").status() == 200
    };
    eventually("the caller is known", listed).await;
    key
}

async fn ask(gate: &Gate, key: &str, body: &Value) -> (u16, Value) {
    let response = gate.post(CHAT, body).bearer_auth(key).send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

fn said(answer: &Value) -> &str {
    answer["error"]["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_key_says_who_calls_and_without_one_it_is_local() {
    let (gate, server) = gate(4).await;
    let key = caller(&gate, "editor", json!({"aliases": [{"match": "gpt-*", "alias": "small"}]})).await;
    let asks = |model: &str| json!({"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "x"}]});
    let strange = CallerKey::generate();
    for (what, key, model, status) in [
        ("its name for a model", key.text(), "gpt-5", 200),
        ("the alias itself", key.text(), "small", 200),
        ("no key of ours is no key", "sk-none", "small", 200),
        ("the names of others are not local's", "sk-none", "gpt-5", 404),
        ("a key of nobody", strange.text(), "small", 401),
        ("half a key", &key.text()[..40], "small", 401),
    ] {
        assert_eq!(ask(&gate, key, &asks(model)).await.0, status, "{what}");
    }
    assert_eq!(server.log().inferences().count(), 3);
    for header in ["x-api-key", "api-key"] {
        let answer = gate.post(CHAT, &asks("gpt-5")).header(header, key.text()).send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{header}");
    }
    let passed_on = gate.post(CHAT, &asks("small")).header("x-forwarded-for", "203.0.113.7").send().await;
    let answer = passed_on.expect("an answer");
    assert_eq!(answer.status(), 401, "what a proxy passes on is not local");
    eventually("calls and tokens are counted", async || {
        let days = gate.shop.store().caller_days().await.expect("read");
        let calls = |caller: &str| days.iter().find(|day| day.caller == caller).map(|day| (day.calls, day.tokens > 0));
        calls("default/editor") == Some((4, true)) && calls("default/local") == Some((1, true))
    })
    .await;
    gate.end().await;
}

#[tokio::test]
async fn a_caller_sees_and_asks_for_what_it_may() {
    let (gate, server) = gate(4).await;
    let key = caller(&gate, "editor", json!({"models": ["big"]})).await;
    let (status, answer) = ask(&gate, key.text(), &chat(false)).await;
    assert_eq!(status, 404, "{answer}");
    assert!(!said(&answer).contains("there are: small"), "what it may not ask for is not told: {answer}");
    let listed: Value = {
        let request = gate.http.get(format!("{}/v1/models", gate.url)).bearer_auth(key.text());
        request.send().await.expect("an answer").json().await.expect("JSON")
    };
    assert_eq!(listed["data"], json!([]));
    let key = caller(&gate, "near", json!({"localOnly": true})).await;
    assert_eq!(ask(&gate, key.text(), &chat(false)).await.0, 200, "the server is of this machine");
    gate.shop.backend("one", "OpenAI", "https://llm.example.com", &[json!({"name": "small"})], 4, 10).await;
    eventually("it is elsewhere", async || {
        let (status, answer) = ask(&gate, key.text(), &chat(false)).await;
        status == 400 && said(&answer).contains("localOnly")
    })
    .await;
    assert!(server.log().inferences().count() >= 1);
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn at_once_a_caller_has_as_many_calls_as_it_may_and_the_others_wait_for_them_alone() {
    let (gate, server) = gate(8).await;
    let key = caller(&gate, "editor", json!({"maxConcurrent": 2, "maxWaitSeconds": 30})).await;
    server.set_faults(["long-answer:tokens=100".parse::<ActiveFault>().expect("a fault")]);
    let body = json!({"model": "small", "max_tokens": 100, "messages": [{"role": "user", "content": "x"}]});
    let calls = join_all((0..6).map(|_| ask(&gate, key.text(), &body)));
    let beside = async {
        until_in_flight(&server, 2).await;
        eventually("nobody gives a slot up for them", async || {
            gate.shop.store().interactive_waits().await.expect("read").is_empty()
        })
        .await;
        let begun = Instant::now();
        assert_eq!(gate.answer(CHAT, &chat(false)).await.0, 200, "others are not kept");
        begun.elapsed()
    };
    let (answers, took) = tokio::join!(calls, beside);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    assert!(server.log().in_flight_peak <= 3, "{}", server.log().in_flight_peak);
    // One waits for as long as its caller says, and hears why.
    let key = caller(&gate, "hasty", json!({"maxConcurrent": 1, "maxWaitSeconds": 1})).await;
    server.set_faults(["long-answer:tokens=400".parse::<ActiveFault>().expect("a fault")]);
    let body = json!({"model": "small", "max_tokens": 400, "messages": [{"role": "user", "content": "x"}]});
    let (one, other) = tokio::join!(ask(&gate, key.text(), &body), ask(&gate, key.text(), &body));
    let refused = if one.0 == 200 { &other } else { &one };
    assert_eq!(refused.0, 429, "{one:?} {other:?}");
    assert!(said(&refused.1).contains("maxConcurrent"), "{refused:?}");
    gate.end().await;
}

#[tokio::test]
async fn once_a_days_tokens_are_used_no_call_begins() {
    let (gate, server) = gate(4).await;
    let key = caller(&gate, "editor", json!({"tokensPerDay": 5})).await;
    assert_eq!(ask(&gate, key.text(), &chat(false)).await.0, 200);
    eventually("they are counted", async || !gate.shop.store().caller_days().await.expect("read").is_empty()).await;
    let response = gate.post(CHAT, &chat(true)).bearer_auth(key.text()).send().await.expect("an answer");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-should-retry"], "false");
    assert!(response.text().await.expect("a body").contains("tokensPerDay"));
    assert_eq!(server.log().inferences().count(), 1);
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_withdrawn_key_ends_calls_within_two_seconds_in_every_phase() {
    for engine in [EngineKind::Ollama, EngineKind::Mlx] {
        let shop = Shop::sqlite().await;
        let options = SimulateOptions { tokens_per_second: 20.0, parallel: 4, ..SimulateOptions::new(engine) };
        let server = shop.simulated("one", options, 2, 10).await;
        let gate = Gate::start(shop).await;
        let key = caller(&gate, "editor", json!({})).await;
        server.set_faults(["long-answer:tokens=60".parse::<ActiveFault>().expect("a fault")]);
        let streamed = gate.post(CHAT, &chat(true)).bearer_auth(key.text()).send().await.expect("an answer");
        let mut pieces = streamed.bytes_stream();
        assert!(pieces.next().await.expect("a piece").is_ok());
        let whole = tokio::spawn(gate.post(CHAT, &chat(false)).bearer_auth(key.text()).send());
        until_in_flight(&server, 2).await;
        let waits = tokio::spawn(gate.post(CHAT, &chat(false)).bearer_auth(key.text()).send());
        eventually("one waits", async || !gate.shop.store().interactive_waits().await.expect("read").is_empty()).await;
        let withdrawn = Instant::now();
        gate.shop.declare("Caller", "editor", json!({"keyHashes": []})).await;
        let mut rest = Vec::new();
        while let Some(piece) = pieces.next().await {
            rest.extend_from_slice(&piece.expect("a frame, not a broken connection"));
        }
        for call in [whole, waits] {
            assert_eq!(call.await.expect("no panic").expect("an answer").status(), 401, "{engine:?}");
        }
        assert!(withdrawn.elapsed() < Duration::from_secs(2), "{engine:?}: {:?}", withdrawn.elapsed());
        let text = String::from_utf8_lossy(&rest);
        assert!(text.contains("invalid_api_key") && !text.contains("[DONE]"), "{engine:?}: {text}");
        assert_eq!(ask(&gate, key.text(), &chat(false)).await.0, 401);
        gate.until_free(server.url()).await;
        gate.end().await;
    }
}
