//! Messages and Responses for engines that have chat completions alone.

use ostler::{engines::EngineKind, simulate::SimulateOptions};
use serde_json::{Value, json};

use super::gate::{Canned, Gate, Reply, chat};
use crate::worker::shop::Shop;

const CHAT: [&str; 4] = [
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"con",
    "tent\":\"lo\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"read\",\"arguments\":\"{}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
];
const WHOLE: &str = "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}";

async fn gate(engine: &str, reply: Reply) -> (Gate, Canned) {
    let canned = Canned::start(reply).await;
    let shop = Shop::sqlite().await;
    shop.backend("one", engine, &canned.url, &[json!({"name": "own", "alias": "small"})], 2, 10).await;
    (Gate::start(shop).await, canned)
}

async fn text(gate: &Gate, path: &str, body: &Value) -> (u16, String) {
    let response = gate.post(path, body).send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

fn responses(stream: bool) -> Value {
    json!({"model": "small", "stream": stream, "input": "hello"})
}

#[tokio::test]
async fn a_chat_is_asked_and_its_answer_comes_in_the_protocol_that_was_asked_in() {
    for (engine, path, body, end) in [
        ("OpenAI", "/v1/messages", chat(true), "event: message_stop\n"),
        ("MLX", "/v1/messages", chat(true), "event: message_stop\n"),
        ("OpenAI", "/v1/responses", responses(true), "event: response.completed\n"),
    ] {
        let (gate, canned) = gate(engine, Reply::of(200, "text/event-stream", &CHAT)).await;
        let (status, text) = text(&gate, path, &body).await;
        assert_eq!(status, 200, "{text}");
        assert_eq!(text.matches(end).count(), 1, "{text}");
        for word in ["\"Hel\"", "\"lo\"", "\"read\"", "\"small\""] {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("choices") && !text.contains("[DONE]"), "{text}");
        let asked = canned.asked();
        let call = asked.iter().find(|asked| asked.path == "/v1/chat/completions").expect("a chat was asked for");
        let sent: Value = serde_json::from_slice(&call.body).expect("JSON");
        // MLX is asked for what it lists alone.
        let own = if engine == "MLX" { "default_model" } else { "own" };
        assert_eq!((&sent["model"], &sent["messages"][0]["content"]), (&json!(own), &json!("hello")));
        assert_eq!(sent["stream_options"]["include_usage"], true);
        gate.until_free(&canned.url).await;
        gate.end().await;
    }
    for (path, body, pointer) in [
        ("/v1/messages", chat(false), "/content/0/text"),
        ("/v1/responses", responses(false), "/output/0/content/0/text"),
    ] {
        let (gate, canned) = gate("OpenAI", Reply::of(200, "application/json", &[&WHOLE[..40], &WHOLE[40..]])).await;
        let (status, answer) = gate.answer(path, &body).await;
        assert_eq!((status, answer.pointer(pointer)), (200, Some(&json!("Hello"))), "{answer}");
        assert_eq!(answer["usage"]["input_tokens"], 7);
        gate.until_free(&canned.url).await;
        gate.end().await;
    }
}

#[tokio::test]
async fn what_goes_wrong_has_the_shape_of_the_protocol_that_was_asked_in() {
    let refused = "{\"error\":{\"message\":\"max_tokens is too large\",\"type\":\"invalid_request_error\"}}";
    let (gate_, canned) = gate("OpenAI", Reply::of(400, "application/json", &[refused])).await;
    let (status, answer) = gate_.answer("/v1/messages", &chat(false)).await;
    assert_eq!(
        (status, &answer["type"], &answer["error"]["type"]),
        (400, &json!("error"), &json!("invalid_request_error"))
    );
    assert_eq!(answer["error"]["message"], "max_tokens is too large");
    let document =
        json!({"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": [{"type": "document"}]}]});
    let (status, answer) = gate_.answer("/v1/messages", &document).await;
    assert!(
        status == 400 && answer["error"]["message"].as_str().is_some_and(|why| why.contains("document")),
        "{answer}"
    );
    gate_.until_free(&canned.url).await;
    gate_.end().await;
    // It breaks off: there is no mark of a whole answer.
    let (gate_, canned) = gate("OpenAI", Reply::of(200, "text/event-stream", &CHAT[..2])).await;
    let (_, text) = text(&gate_, "/v1/messages", &chat(true)).await;
    assert!(text.contains("event: error\n") && !text.contains("message_stop"), "{text}");
    gate_.until_free(&canned.url).await;
    gate_.end().await;
    let (gate_, canned) = gate("OpenAI", Reply::of(200, "application/json", &["{\"no\": \"answer\"}"])).await;
    let (status, answer) = gate_.answer("/v1/messages", &chat(false)).await;
    assert_eq!((status, &answer["type"]), (502, &json!("error")), "{answer}");
    gate_.until_free(&canned.url).await;
    gate_.end().await;
}

#[tokio::test]
async fn a_page_is_no_answer() {
    let (gate, canned) = gate("OpenAI", Reply::of(200, "text/html; charset=utf-8", &["<html>sign in</html>"])).await;
    let (status, answer) = gate.answer("/v1/chat/completions", &chat(false)).await;
    assert_eq!(status, 502, "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|why| why.contains("HTML page")), "{answer}");
    gate.until_free(&canned.url).await;
    gate.end().await;
}

#[tokio::test]
async fn a_turn_with_a_tool_is_the_same_with_every_simulated_engine() {
    let parameters = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    let messages = json!({
        "model": "small", "max_tokens": 200, "messages": [{"role": "user", "content": "please call read"}],
        "tools": [{"name": "read", "input_schema": parameters}],
    });
    let responses = json!({
        "model": "small", "input": "please call read",
        "tools": [{"type": "function", "name": "read", "parameters": parameters}],
    });
    for engine in [EngineKind::Ollama, EngineKind::Mlx, EngineKind::OpenAi] {
        let shop = Shop::sqlite().await;
        let server = shop.simulated("one", SimulateOptions::new(engine), 2, 10).await;
        let gate = Gate::start(shop).await;
        let (status, answer) = gate.answer("/v1/messages", &messages).await;
        assert_eq!((status, &answer["stop_reason"]), (200, &json!("tool_use")), "{engine:?}: {answer}");
        let call = answer["content"].as_array().and_then(|content| content.last()).expect("a block");
        assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("read")));
        assert!(call["input"]["path"].is_string(), "{answer}");
        let (status, answer) = gate.answer("/v1/responses", &responses).await;
        assert_eq!((status, &answer["output"][0]["type"]), (200, &json!("function_call")), "{engine:?}: {answer}");
        let mut streamed = messages.clone();
        streamed["stream"] = true.into();
        let (_, text) = text(&gate, "/v1/messages", &streamed).await;
        assert!(text.contains("\"input_json_delta\"") && text.ends_with("{\"type\":\"message_stop\"}\n\n"), "{text}");
        if engine == EngineKind::Ollama {
            let (status, shown) = gate.answer("/api/show", &json!({"model": "small"})).await;
            assert!(status == 200 && shown["model_info"]["llama.context_length"].is_number(), "{shown}");
        }
        gate.until_free(server.url()).await;
        gate.end().await;
    }
}
