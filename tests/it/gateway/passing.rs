//! What passes through, and as what.

use serde_json::{Value, json};

use super::gate::{Canned, Gate, Reply, chat};
use crate::worker::shop::Shop;

const SSE: [&str; 4] = [
    "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hall\\u00f6",
    "chen\"}}],  \"odd\": 1.50}\n\n: a comment\n\ndata: {\"choices\":[{\"delta\":{},\"finish_re",
    "ason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];
const MESSAGES: [&str; 3] = [
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":3}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"a\"}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
];
const RESPONSES: [&str; 2] = [
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{}}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[]}}\n\n",
];
const NDJSON: [&str; 3] = [
    "{\"model\":\"own\",\"message\":{\"role\":\"assistant\",\"content\":\"a\"},\"done\":false}\n{\"mod",
    "el\":\"own\",\"message\":{\"role\":\"assistant\",\"content\":\"b\"},\"done\":false}\n",
    "{\"model\":\"own\",\"done\":true,\"eval_count\":2,\"prompt_eval_count\":9}\n",
];

async fn gate(engine: &str, reply: Reply) -> (Gate, Canned) {
    let canned = Canned::start(reply).await;
    let shop = Shop::sqlite().await;
    shop.backend("one", engine, &canned.url, &[json!({"name": "own", "alias": "small"})], 2, 10).await;
    (Gate::start(shop).await, canned)
}

#[tokio::test]
async fn an_answer_is_passed_on_byte_for_byte_and_only_listed_headers_pass() {
    let json = "{\"choices\": [{\"message\": {\"content\": \"a\"}}],\n \"usage\": {\"prompt_tokens\": 1}}";
    for (engine, path, body, content_type, pieces) in [
        ("OpenAI", "/v1/chat/completions", chat(true), "text/event-stream", &SSE[..]),
        ("OpenAI", "/v1/chat/completions", chat(false), "application/json", &[json]),
        ("Ollama", "/api/chat", chat(true), "application/x-ndjson", &NDJSON),
        ("Ollama", "/v1/chat/completions", chat(true), "text/event-stream", &SSE),
        ("Ollama", "/v1/messages", chat(true), "text/event-stream", &MESSAGES),
        ("Ollama", "/v1/responses", chat(true), "text/event-stream", &RESPONSES),
        ("OpenAI", "/v1/embeddings", json!({"model": "small", "input": "x"}), "application/json", &["{\"data\": []}"]),
    ] {
        let (gate, canned) = gate(engine, Reply::of(200, content_type, pieces)).await;
        let request = gate.post(path, &body).header("authorization", "Bearer mine").header("cookie", "a=b");
        let response = request.header("traceparent", "00-1-2-03").send().await.expect("an answer");
        let headers = response.headers().clone();
        let told = |name: &str| headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.bytes().await.expect("a body"), pieces.concat(), "{path}");
        assert_eq!(told("content-type").as_deref(), Some(content_type));
        assert_eq!(told("x-request-id").as_deref(), Some("of the engine"));
        assert_eq!((told("set-cookie"), told("ostler-model").as_deref()), (None, Some("small")));
        assert_eq!(told("ostler-backend").as_deref(), Some("one"));
        assert!(told("ostler-wait-ms").is_some_and(|wait| wait.parse::<u64>().is_ok()));
        let asked = canned.asked();
        let call = asked.iter().find(|asked| asked.path == path).expect("it was asked");
        assert_eq!(call.headers["ostler-call-id"].to_str().ok(), told("ostler-call-id").as_deref());
        assert!(!call.headers.contains_key("authorization") && !call.headers.contains_key("cookie"));
        assert_eq!(call.headers["traceparent"], "00-1-2-03");
        assert!(call.headers.contains_key("content-length"), "MLX answers 411 to chunks");
        assert_eq!(serde_json::from_slice::<Value>(&call.body).expect("JSON")["model"], "own");
        gate.until_free(&canned.url).await;
        gate.end().await;
    }
}

#[tokio::test]
async fn what_would_change_a_server_for_everybody_is_left_out() {
    let (gate, canned) = gate("Ollama", Reply::of(200, "application/x-ndjson", &NDJSON)).await;
    let body = json!({
        "model": "small:latest", "messages": [{"role": "user", "content": "x"}], "keep_alive": "1h",
        "options": {"num_ctx": 64, "temperature": 0.5},
    });
    assert_eq!(gate.answer("/api/chat", &body).await.0, 200);
    let sent: Value = serde_json::from_slice(&canned.asked().last().expect("a call").body).expect("JSON");
    assert_eq!((&sent["keep_alive"], &sent["truncate"]), (&Value::Null, &json!(false)));
    assert_eq!(sent["options"], json!({"temperature": 0.5}));
    let unload = json!({"model": "small", "keep_alive": 0});
    let before = canned.asked().len();
    let (status, answer) = gate.answer("/api/generate", &unload).await;
    assert_eq!((status, &answer["done"], &answer["done_reason"]), (200, &json!(true), &json!("unload")));
    assert_eq!(canned.asked().len(), before, "others use it");
    gate.end().await;
}

#[tokio::test]
async fn a_refusal_of_an_engine_is_passed_on_as_it_is() {
    let why = "{\"error\": {\"message\": \"temperature must be at most 2\",  \"code\": null}}";
    let (gate, _canned) = gate("OpenAI", Reply::of(422, "application/json", &[why])).await;
    let response = gate.post("/v1/chat/completions", &chat(true)).send().await.expect("an answer");
    assert_eq!((response.status().as_u16(), response.text().await.expect("a body").as_str()), (422, why));
    gate.end().await;
    let (gate, _canned) = self::gate("OpenAI", Reply::of(401, "application/json", &["{}"])).await;
    let (status, answer) = gate.answer("/v1/chat/completions", &chat(false)).await;
    assert_eq!(status, 503, "clients log out at a 401: {answer}");
    gate.end().await;
}
