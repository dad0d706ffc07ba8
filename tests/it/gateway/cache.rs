//! Answers that are given again: to their own caller alone, to the same request alone, and never at another's cost.

use std::sync::Mutex;

use futures::{StreamExt, stream};
use ostler::{
    engines::EngineKind,
    simulate::{Fault, SimulateOptions, SimulatedServer},
    tasks::{NewTask, Payload, TaskState},
};
use serde_json::{Value, json};

use super::{
    callers::caller,
    gate::{Gate, quick},
};
use crate::worker::{
    eventually,
    shop::{Shop, new_task},
};

const CHAT: &str = "/v1/chat/completions";

async fn gate() -> (Gate, SimulatedServer) {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 4, 10).await;
    (Gate::start_with(shop, quick()).await, server)
}

fn says(said: &str, stream: bool) -> Value {
    json!({"model": "small", "stream": stream, "max_tokens": 5, "messages": [{"role": "user", "content": said}]})
}

/// Status, the header of the cache, and the body.
async fn ask(gate: &Gate, key: &str, body: &Value) -> (u16, String, String) {
    let response = gate.post(CHAT, body).bearer_auth(key).send().await.expect("an answer");
    let status = response.status().as_u16();
    let cache = response.headers().get("ostler-cache").map_or("", |value| value.to_str().expect("text")).to_owned();
    (status, cache, response.text().await.expect("a body"))
}

/// Asks until the answer is kept, which is done beside the end of the call: all answers that came. One of them is kept.
async fn until_kept(gate: &Gate, key: &str, body: &Value) -> Vec<String> {
    let seen = Mutex::new(Vec::new());
    eventually("it is kept", || async {
        let (status, cache, text) = ask(gate, key, body).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(cache == "miss", cache != "hit", "{cache}");
        seen.lock().expect("no panic").push(text);
        cache == "hit"
    })
    .await;
    seen.into_inner().expect("no panic")
}

/// How many; ten thousand by hand: `OSTLER_TEST_CACHED=10000`.
fn calls_made() -> usize {
    std::env::var("OSTLER_TEST_CACHED").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn identical_prompts_of_two_callers_are_answered_to_each_by_its_own() {
    let (gate, server) = gate().await;
    let one = caller(&gate, "one", json!({"cache": {}})).await;
    let two = caller(&gate, "two", json!({"cache": {"seconds": 60, "mebibytes": 1}})).await;
    let body = says("the same", false);
    until_kept(&gate, one.text(), &body).await;
    let asked = server.log().inferences().count();
    until_kept(&gate, two.text(), &body).await;
    assert!(server.log().inferences().count() > asked, "another's answer is none of its");
    let asked = server.log().inferences().count();
    let many = calls_made();
    let calls = stream::iter(0..many).map(|n| {
        let (gate, body, key) = (&gate, &body, [&one, &two][n % 2]);
        async move { ask(gate, key.text(), body).await }
    });
    let answered: Vec<_> = calls.buffer_unordered(16).collect().await;
    // A busy machine may look an answer up too late, which is a miss.
    let hits = answered.iter().filter(|(_, cache, _)| cache == "hit").count();
    assert!(hits * 10 >= many * 9, "{hits} of {many} were kept answers");
    assert!(answered.iter().all(|(status, ..)| *status == 200));
    assert_eq!(
        server.log().inferences().count() - asked,
        many - hits,
        "an engine was asked for each miss, and for no hit"
    );
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_kept_answer_is_the_same_bytes_streamed_or_whole_and_clients_may_refuse_it() {
    let (gate, server) = gate().await;
    let key = caller(&gate, "one", json!({"cache": {}})).await;
    let without = caller(&gate, "without", json!({})).await;
    for stream in [false, true] {
        let body = says("hello", stream);
        let seen = until_kept(&gate, key.text(), &body).await;
        let hit = gate.post(CHAT, &body).bearer_auth(key.text()).send().await.expect("an answer");
        let kind = if stream { "text/event-stream" } else { "application/json" };
        assert!(hit.headers()["content-type"].to_str().expect("text").starts_with(kind), "{:?}", hit.headers());
        assert!(hit.headers().contains_key("age") && hit.headers().contains_key("ostler-call-id"));
        let text = hit.text().await.expect("a body");
        assert!(seen.contains(&text) && (!stream || text.contains("[DONE]")), "{text}");
    }
    let body = says("hello", false);
    for (said, cache) in [("no-cache", "miss"), ("no-store", "")] {
        let asked = server.log().inferences().count();
        let request = gate.post(CHAT, &body).bearer_auth(key.text()).header("cache-control", said);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.headers().get("ostler-cache").map_or("", |v| v.to_str().expect("text")), cache, "{said}");
        assert_eq!(server.log().inferences().count(), asked + 1, "{said}");
    }
    assert_eq!(ask(&gate, without.text(), &body).await.1, "", "without a cache nothing is looked for");
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_failed_is_not_kept() {
    let (gate, server) = gate().await;
    let key = caller(&gate, "one", json!({"cache": {}})).await;
    let body = says(&"hay oats ".repeat(4_000), false);
    server.set_faults([Fault::Context { tokens: 512 }.into()]);
    assert_ne!(ask(&gate, key.text(), &body).await.0, 200);
    server.set_faults([]);
    let (status, cache, _) = ask(&gate, key.text(), &body).await;
    assert_eq!((status, cache.as_str()), (200, "miss"));
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queues_results_are_given_again_to_the_same_task() {
    let shop = Shop::sqlite().await;
    let server = shop.simulated("one", SimulateOptions::new(EngineKind::OpenAi), 1, 10).await;
    shop.queue(json!({"leaseSeconds": 90, "retry": {"backoffSeconds": 1}, "cache": {"seconds": 600}})).await;
    shop.expert("igor", "small").await;
    let task = |said: &str| -> NewTask { new_task(Payload { prompt: Some(said.to_owned()), ..Payload::default() }) };
    let worker = shop.worker().await;
    let first = shop.give_these(&[task("same")], &["igor"], Some("small")).await;
    shop.until_completed(&first).await;
    let mut all = first.clone();
    // It is kept beside the end of its task.
    let mut is_given_again = false;
    while !is_given_again {
        assert!(all.len() < 100, "no result is given again");
        let asked = server.log().inferences().count();
        all.extend(shop.give_these(&[task("same")], &["igor"], Some("small")).await);
        shop.until_completed(&all).await;
        is_given_again = server.log().inferences().count() == asked;
    }
    let asked = server.log().inferences().count();
    let others = shop.give_these(&[task("other")], &["igor"], Some("small")).await;
    all.extend(others);
    shop.until_completed(&all).await;
    assert_eq!(server.log().inferences().count(), asked + 1, "another task is done");
    let done = shop.tasks(&all).await;
    assert!(done.iter().all(|task| task.state == TaskState::Completed));
    worker.end().await;
}
