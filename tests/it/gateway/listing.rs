//! What is listed.

use ostler::{engines::EngineKind, simulate::SimulateOptions};
use serde_json::{Value, json};

use super::gate::Gate;
use crate::worker::shop::Shop;

#[tokio::test]
async fn aliases_are_listed_for_each_protocol_with_who_serves_them() {
    let shop = Shop::sqlite().await;
    let _mlx = shop.simulated("mlx", SimulateOptions::new(EngineKind::Mlx), 2, 10).await;
    let ollama = shop.simulated("ollama", SimulateOptions::new(EngineKind::Ollama), 2, 20).await;
    let own = SimulateOptions::usual_model(EngineKind::Ollama);
    let models = [json!({"name": own, "alias": "small"}), json!({"name": "team/other", "alias": "team/embedder"})];
    shop.backend("ollama", "Ollama", ollama.url(), &models, 2, 20).await;
    let gate = Gate::start(shop).await;
    let models: Value = gate.get("/v1/models").await.json().await.expect("JSON");
    let of = |field: &str| {
        models["data"].as_array().expect("a list").iter().map(|one| one[field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("id"), [json!("small"), json!("team/embedder")]);
    assert_eq!(of("backends"), [json!(["mlx", "ollama"]), json!(["ollama"])]);
    assert_eq!(of("ready"), [json!(true), json!(true)]);
    let one: Value = gate.get("/v1/models/team/embedder").await.json().await.expect("JSON");
    assert_eq!((&one["id"], &one["type"]), (&json!("team/embedder"), &json!("model")));
    assert_eq!(gate.get("/v1/models/nobody").await.status(), 404);
    let tags: Value = gate.get("/api/tags").await.json().await.expect("JSON");
    assert_eq!(tags["models"].as_array().map(Vec::len), Some(2));
    // What the server says of its model; nobody has the other one.
    let small = &tags["models"][0];
    assert!(small["size"].as_u64().is_some_and(|size| size > 0) && small["details"]["format"] == "gguf", "{tags}");
    assert_eq!((&small["name"], &tags["models"][1]["size"]), (&json!("small"), &json!(0)));
    assert_eq!(gate.get("/").await.text().await.expect("text"), "Ollama is running");
    let version: Value = gate.get("/api/version").await.json().await.expect("JSON");
    assert!(version["version"].as_str().is_some_and(|version| version.contains('.')), "{version}");
    let (status, _) = gate
        .answer("/api/chat", &json!({"model": "small:latest", "messages": [{"role": "user", "content": "x"}]}))
        .await;
    assert_eq!(status, 200);
    let loaded: Value = gate.get("/api/ps").await.json().await.expect("JSON");
    assert_eq!(loaded["models"][0]["name"], "small", "{loaded}");
    assert_eq!(gate.answer("/api/show", &json!({"model": "nobody"})).await.0, 404);
    let prompt = json!({"model": "small", "system": "x".repeat(398), "messages": []});
    let (status, counted) = gate.answer("/v1/messages/count_tokens", &prompt).await;
    assert_eq!((status, counted), (200, json!({"input_tokens": 101})), "400 bytes and those of an empty list");
    gate.end().await;
}
