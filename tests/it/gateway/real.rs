//! Real engines behind a gateway: what they answer is what they answer directly.

use serde_json::{Value, json};

use super::gate::Gate;
use crate::{
    real::{Counter, Mlx, Ollama},
    worker::shop::Shop,
};

/// What is new in each answer: ids, times, and what was measured.
const NEW: [&str; 9] = [
    "id",
    "created",
    "created_at",
    "total_duration",
    "load_duration",
    "prompt_eval_duration",
    "eval_duration",
    "model",
    "system_fingerprint",
];

fn settled(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !NEW.contains(&name.as_str()));
            fields.values_mut().for_each(settled);
        }
        Value::Array(items) => items.iter_mut().for_each(settled),
        _ => {}
    }
}

/// The frames of an answer without what is new in each.
fn frames(text: &str) -> Vec<Value> {
    let lines = text
        .lines()
        .map(|line| line.trim_start_matches("data: "))
        .filter(|line| !line.is_empty() && *line != "[DONE]" && !line.starts_with("event:") && !line.starts_with(':'));
    let read = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        settled(&mut value);
        value
    };
    lines.map(read).collect()
}

async fn ask(http: &reqwest::Client, url: &str, path: &str, body: &Value) -> (u16, String) {
    let response = http.post(format!("{url}{path}")).json(body).send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_ollama_answers_through_the_gateway_as_it_does_directly() {
    let ollama = tokio::task::spawn_blocking(Ollama::start).await.expect("Ollama");
    let shop = Shop::sqlite().await;
    let (url, counter) = Counter::start("127.0.0.1", ollama.url()).await;
    shop.backend("ollama", "Ollama", &url, &[json!({"name": Ollama::MODEL, "alias": "small"})], 2, 10).await;
    let gate = Gate::start(shop).await;
    let chat = |stream: bool| {
        json!({"stream": stream, "messages": [{"role": "user", "content": "hay"}], "temperature": 0,
        "seed": 7, "max_tokens": 8, "options": {"temperature": 0, "seed": 7, "num_predict": 8}})
    };
    let generate = json!({"prompt": "hay", "options": {"temperature": 0, "seed": 7, "num_predict": 8}});
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    let mut structured = chat(false);
    structured["format"] = schema;
    for (path, body) in [
        ("/api/chat", chat(true)),
        ("/api/chat", chat(false)),
        ("/api/chat", structured),
        ("/api/generate", generate),
        ("/v1/chat/completions", chat(true)),
        ("/v1/chat/completions", chat(false)),
        ("/v1/messages", chat(true)),
        ("/v1/messages", chat(false)),
        ("/api/embed", json!({"input": ["hay", "oats"]})),
        ("/v1/chat/completions", json!({"messages": "no list"})),
    ] {
        let (mut direct, mut asked) = (body.clone(), body);
        direct["model"] = Ollama::MODEL.into();
        asked["model"] = "small".into();
        let (expected_status, expected) = ask(&gate.http, &ollama.url(), path, &direct).await;
        let (status, text) = ask(&gate.http, &gate.url, path, &asked).await;
        assert_eq!(status, expected_status, "{path}: {text} {expected}");
        assert_eq!(frames(&text), frames(&expected), "{path}");
    }
    let (status, shown) = gate.answer("/api/show", &json!({"model": "small"})).await;
    assert!(status == 200 && shown.get("model_info").is_some(), "{shown}");
    let loaded: Value = gate.get("/api/ps").await.json().await.expect("JSON");
    assert_eq!(loaded["models"][0]["name"], "small", "{loaded}");
    assert!(counter.peak() <= 2);
    gate.until_free(&url).await;
    gate.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_mlx_answers_through_the_gateway_and_never_more_than_two_calls_at_once() {
    let mlx = tokio::task::spawn_blocking(Mlx::start).await.expect("MLX");
    let shop = Shop::sqlite().await;
    let (url, counter) = Counter::start("127.0.0.1", mlx.url()).await;
    shop.backend("mlx", "MLX", &url, &[json!({"name": mlx.model(), "alias": "small"})], 2, 10).await;
    let gate = Gate::start(shop).await;
    let chat = |stream: bool| {
        json!({"stream": stream, "messages": [{"role": "user", "content": "hay"}], "temperature": 0,
        "seed": 7, "max_tokens": 8})
    };
    for body in [chat(true), chat(false)] {
        let (mut direct, mut asked) = (body.clone(), body);
        direct["model"] = mlx.model().into();
        asked["model"] = "small".into();
        let (expected_status, expected) = ask(&gate.http, &mlx.url(), "/v1/chat/completions", &direct).await;
        let (status, text) = ask(&gate.http, &gate.url, "/v1/chat/completions", &asked).await;
        assert_eq!((status, expected_status), (200, 200), "{text}");
        assert_eq!(frames(&text), frames(&expected));
    }
    for (path, body, end) in [
        ("/v1/messages", chat(true), "event: message_stop"),
        ("/v1/responses", json!({"stream": true, "input": "hay", "max_output_tokens": 8}), "event: response."),
    ] {
        let mut body = body;
        body["model"] = "small".into();
        let (status, text) = ask(&gate.http, &gate.url, path, &body).await;
        assert!(status == 200 && text.contains(end) && text.contains("\"output_tokens\":8"), "{path}: {text}");
    }
    let calls = (0..24_u64).map(|n| {
        let body = json!({"model": "small", "stream": n % 2 == 0, "max_tokens": 12, "messages": [{"role": "developer", "content": "hay"}]});
        let request = gate.post("/v1/chat/completions", &body);
        async move {
            let whole = async { request.send().await.expect("an answer").bytes().await };
            let patience = if n % 3 == 0 { std::time::Duration::from_millis(n * 20) } else { crate::worker::PATIENCE };
            tokio::time::timeout(patience, whole).await.is_ok_and(|body| body.is_ok())
        }
    });
    let served = futures::future::join_all(calls).await.into_iter().filter(|served| *served).count();
    assert!(served >= 16, "{served} of 24 stayed and were served");
    assert!(counter.peak() <= 2, "MLX had {} calls at once", counter.peak());
    gate.until_free(&url).await;
    gate.end().await;
}
