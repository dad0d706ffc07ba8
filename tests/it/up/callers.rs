//! Callers of an `ostler up`: made on the command line, served, seen, and withdrawn.

use std::time::Duration;

use ostler::{
    engines::EngineKind,
    simulate::{ActiveFault, SimulateOptions, SimulatedServer},
};
use serde_json::{Value, json};

use super::declared::Manifests;

async fn post(url: &str, key: &str, body: &Value) -> reqwest::Response {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    http.post(url).bearer_auth(key).json(body).send().await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_from_the_command_line_opens_the_gateway_until_it_is_suspended() {
    let options =
        SimulateOptions { tokens_per_second: 50.0, ..SimulateOptions::new(EngineKind::Ollama) }.with_models(&["own"]);
    let server = SimulatedServer::start(options).await.expect("start");
    let manifests = Manifests::default().backend("ollama", "Ollama", server.url(), "{name: own, alias: small}", "");
    let up = manifests.up().await;
    let url = format!("{}/v1/chat/completions", up.gateway());
    let asks = |model: &str, stream: bool| json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
    let said = up.ostler_ok(&["callers", "create", "editor", "--alias", "claude-*=small"]);
    let key = said.lines().next().expect("the key").to_owned();
    let file = up.root.join("manifests/caller-editor.yaml");
    assert!(file.exists() && key.starts_with("ostler_"), "{said}");
    up.until_of("callers", "editor", "active", |item| item["status"]["state"] == "Active").await;
    let twice = up.ostler(&["callers", "create", "editor"]);
    assert!(!twice.status.success(), "a name is given once");

    let begun = std::time::Instant::now();
    while post(&url, &key, &asks("claude-opus-4", false)).await.status() != 200 {
        assert!(begun.elapsed() < super::harness::PATIENCE, "{}", up.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    up.until_of("callers", "editor", "used", |item| item["live"]["tokensToday"].as_i64() > Some(0)).await;
    let listed = up.ostler_ok(&["get", "cl"]);
    assert!(listed.contains("editor") && listed.contains("TOKENS TODAY"), "{listed}");
    assert!(!format!("{}{}", up.get("/api/v1/callers").await, up.log()).contains(&key), "a key is never told again");

    // A call that runs is seen, and ended by a person.
    let open =
        || serde_json::from_str::<Value>(&up.ostler_ok(&["calls", "-o", "json"])).expect("JSON")["items"].clone();
    let begun = std::time::Instant::now();
    while open() != json!([]) {
        assert!(begun.elapsed() < super::harness::PATIENCE, "those that ended are told no more");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.set_faults(["long-answer:tokens=100000".parse::<ActiveFault>().expect("a fault")]);
    let running = tokio::spawn({
        let (url, key, body) = (url.clone(), key.clone(), asks("small", true));
        async move { post(&url, &key, &body).await.text().await }
    });
    let begun = std::time::Instant::now();
    let id = loop {
        let calls = open();
        if let Some(call) = calls.as_array().and_then(|items| items.iter().find(|call| call["state"] == "Running")) {
            assert_eq!(
                (&call["caller"], &call["backend"], &call["model"]),
                (&json!("editor"), &json!("ollama"), &json!("small"))
            );
            break call["id"].as_str().expect("an id").to_owned();
        }
        assert!(begun.elapsed() < super::harness::PATIENCE, "{calls}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(!up.ostler(&["calls", "cancel", "nobody"]).status.success());
    up.ostler_ok(&["calls", "cancel", &id]);
    let text = running.await.expect("no panic").expect("a whole body");
    assert!(text.contains("cancelled by a person") && !text.contains("[DONE]"), "{text}");

    let running = tokio::spawn({
        let (url, key, body) = (url.clone(), key.clone(), asks("small", true));
        async move { post(&url, &key, &body).await.text().await }
    });
    up.ostler_ok(&["suspend", "cl/editor"]);
    let text = running.await.expect("no panic").expect("a whole body");
    assert!(text.contains("suspended"), "{text}");
    up.ostler_ok(&["resume", "cl/editor"]);
    server.clear_faults();
    assert_eq!(post(&url, "none", &asks("small", false)).await.status(), 200, "local needs none");
    let set = up.ostler_ok(&["callers", "env", "local", "--for", "claude", "--gateway", &up.gateway()]);
    assert!(set.contains("ANTHROPIC_MODEL='small'"), "the one alias that is served: {set}");
}
