//! Streamed answers: how they begin, break and end.

use std::time::Duration;

use futures::StreamExt;
use ostler::engines::EngineKind;
use serde_json::{Value, json};

use super::{Bench, LONG, SHORT, is_silent};

/// What each shape says in place of an answer of three tokens.
#[tokio::test]
async fn a_stream_breaks_in_each_shape_before_and_in_the_middle_of_an_answer() {
    let error = "data: {\"error\":{\"message\":\"simulated failure\",\"type\":\"server_error\",\"code\":500}}";
    let done = "\n\ndata: [DONE]\n\n";
    let cases = [
        ("error-field", format!("{error}{done}")),
        ("error-string", format!("data: {{\"error\":\"simulated failure\"}}{done}")),
        (
            "error-prefix",
            format!("error: {{\"code\":500,\"message\":\"simulated failure\",\"type\":\"server_error\"}}{done}"),
        ),
        (
            "error-object",
            format!(
                "data: {{\"object\":\"error\",\"message\":\"simulated failure\",\"type\":\"InternalServerError\",\"code\":500}}{done}"
            ),
        ),
        ("error-detail", format!("data: {{\"detail\":\"simulated failure\"}}{done}")),
        ("error-event", format!("event: error\ndata: {{\"message\":\"simulated failure\",\"code\":500}}{done}")),
        ("only-done", "data: [DONE]\n\n".to_owned()),
        ("cut", String::new()),
    ];
    for kind in EngineKind::ALL {
        let bench = Bench::new(kind, &[]).await;
        for (shape, end) in &cases {
            bench.set(&[&format!("stream:shape={shape}")]);
            assert_eq!(bench.openai_says(true, 3).await, (200, end.clone()), "{kind}: {shape}");
            bench.set(&[&format!("stream:shape={shape},after-tokens=2")]);
            let (status, text) = bench.openai_says(true, 3).await;
            assert_eq!((status, text.matches("\"content\":\"").count() >= 2), (200, true), "{shape}: {text}");
            assert!(text.ends_with(end) && !text.contains("\"length\""), "{shape}: {text}");
        }
        assert_eq!(bench.server.totals().failed, 16, "{kind}");
    }
}

#[tokio::test]
async fn a_line_of_error_breaks_ollamas_own_streams() {
    let bench = Bench::new(EngineKind::Ollama, &["stream:shape=error-field,after-tokens=1"]).await;
    let (status, text) = bench.native_says(true, 3).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!((status, lines.len(), &lines[1]), (200, 2, &json!({"error": "simulated failure"})));
}

#[tokio::test]
async fn a_stream_is_malformed_but_whole() {
    let bench = Bench::new(EngineKind::OpenAi, &[]).await;
    let says = async |shape: &str| {
        bench.set(&[&format!("stream:shape={shape}")]);
        bench.openai_says(true, 2).await.1
    };
    let whole = says("whole-json").await;
    let answer: Value = serde_json::from_str(&whole).expect("one object");
    assert!(answer["choices"][0]["message"]["content"].is_string(), "{whole}");
    let whole_done = says("whole-json-done").await;
    let (json, rest) = whole_done.split_once("\n\n").expect(&whole_done);
    assert_eq!(rest, "data: [DONE]\n\n");
    serde_json::from_str::<Value>(json).expect("one object");
    let message = says("message-for-delta").await;
    assert!(message.contains("\"message\":{") && !message.contains("\"delta\""), "{message}");
    let marked = says("byte-order-mark").await;
    assert!(marked.starts_with("\u{feff}data:") && marked.matches('\u{feff}').count() == 1, "{marked}");
    let lines = says("cr-lf").await;
    assert!(lines.contains("\r\n\r\n") && !lines.contains("\n\n"), "{lines}");
    let empty = says("no-content").await;
    assert!(empty.contains("\"finish_reason\":\"length\"") || empty.contains("\"finish_reason\":\"stop\""), "{empty}");
    assert!(!empty.contains("\"content\":\"the"), "{empty}");
}

#[tokio::test]
async fn the_connection_stays_open_after_the_finish_reason() {
    let bench = Bench::new(EngineKind::OpenAi, &["stream:shape=never-closes"]).await;
    let answer = bench.request("/v1/chat/completions", &bench.openai(true, 2)).send().await.expect("it streams");
    let mut chunks = answer.bytes_stream();
    let mut text = String::new();
    let finished = async {
        while !text.contains("\"finish_reason\":\"length\"") {
            let chunk = chunks.next().await.expect("more").expect("no error");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(LONG, finished).await.expect("it finishes");
    assert!(tokio::time::timeout(SHORT, chunks.next()).await.is_err(), "nothing more, and no end");
    assert!(!text.contains("[DONE]"));
    assert_eq!(bench.server.totals().served, 1, "the engine is done with it");
}

#[tokio::test]
async fn comments_fill_the_time_before_the_first_token_or_nothing_does() {
    let bench = Bench::new(EngineKind::Mlx, &["prefill:seconds=1.5,keepalive=true"]).await;
    let (status, text) = bench.openai_says(true, 2).await;
    let comments: Vec<&str> = text.lines().filter(|line| line.starts_with(": keepalive")).collect();
    assert_eq!(status, 200);
    assert_eq!(comments[..2], [": keepalive 0/2", ": keepalive 1/2"], "{text}");
    assert!(text.contains("data: [DONE]"));
    for kind in EngineKind::ALL {
        let bench = Bench::new(kind, &["prefill:seconds=60"]).await;
        assert!(is_silent(bench.request("/v1/chat/completions", &bench.openai(true, 2))).await, "{kind}");
        bench.set(&["prefill:tokens-per-second=0.01,keepalive=true"]);
        let answer = bench.request("/v1/chat/completions", &bench.openai(true, 2)).timeout(LONG).send().await;
        assert_eq!(answer.expect("a head, and comments").status(), 200, "{kind}");
    }
}

#[tokio::test]
async fn a_runner_that_stops_breaks_what_it_streams() {
    let bench = Bench::new(EngineKind::Ollama, &["stall-after:tokens=1"]).await;
    for (path, body) in [("/api/chat", bench.native(true, 3)), ("/v1/chat/completions", bench.openai(true, 3))] {
        bench.set(&["stall-after:tokens=1"]);
        let call = bench.request(path, &body).timeout(LONG).send().await.expect("its first token");
        bench.set(&["runner-stopped"]);
        let text = call.text().await.expect("its end");
        assert!(text.contains("{\"error\":") && text.contains("unexpectedly stopped"), "{text}");
    }
    tokio::time::timeout(Duration::from_secs(5), bench.until("both to be counted", |t| t.failed == 2))
        .await
        .expect("they are counted");
}
