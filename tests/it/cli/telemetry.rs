//! Logs and traces of the real program.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::bench::{Bench, Said};

/// A collector that keeps what it is sent: content type and body.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Collected {
    /// Names in protobuf are plain text: enough to see which spans came.
    fn mentions(&self, word: &str) -> bool {
        let word = word.as_bytes();
        self.0.lock().unwrap().iter().any(|(_, body)| body.windows(word.len()).any(|w| w == word))
    }
}

async fn collector() -> (String, Collected) {
    let collected = Collected::default();
    let kept = collected.clone();
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        kept.0.lock().unwrap().push((kind, body));
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/traces", post(take))).await });
    (url, collected)
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_and_requests_are_exported_and_the_last_ones_are_sent_at_exit() {
    ostler::net::install_crypto();
    let (url, collected) = collector().await;
    let seen = collected.clone();
    tokio::task::spawn_blocking(move || {
        let (mut bench, _) = Bench::of_quickstart();
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_SERVICE_NAME", "ostler-of-a-test")];
        let said = bench.up_with(&["--gateway", "127.0.0.1:0"], &variables);
        bench.healthy();
        // A request after the last export but one: it is sent because the end flushes.
        bench.ostler(&["events"]);
        let call = json!({"model": "small", "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]});
        let (_, gateway) = said.split_once("scripts on ").unwrap();
        let url = format!("{}/v1/chat/completions", gateway.split_whitespace().next().unwrap());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = tokio::runtime::Handle::current().block_on(http.post(url).json(&call).send());
        assert_eq!(answer.unwrap().status(), 200, "{said}");
        assert_eq!(bench.ostler(&["down"]).code, 0);
        assert_eq!(bench.up_ended(), 0);
    })
    .await
    .unwrap();
    let passes = ["pass", "LLMBackend", "request", "/api/v1/events", "ostler-of-a-test", "service.version"];
    for word in passes.into_iter().chain(["call", "/v1/chat/completions", "wait", "chat small", "gen_ai.request.model"])
    {
        assert!(seen.mentions(word), "no span mentions {word}");
    }
    assert!(seen.0.lock().unwrap().iter().all(|(kind, _)| kind == "application/x-protobuf"));
}

#[test]
fn logs_are_json_when_asked_for_and_filtered_by_the_environment() {
    let (mut bench, _) = Bench::of_quickstart();
    bench.up_with(&["--log-format", "json"], &[("OSTLER_LOG", "ostler=info")]);
    bench.healthy();
    bench.write(
        "broken.yaml",
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: x}\nspec: {engine: Olama}\n",
    );
    bench.until(&["status"], |said| said.out.contains("broken.yaml"));
    assert_eq!(bench.ostler(&["down"]).code, 0);
    bench.up_ended();
    let log = std::fs::read_to_string(bench.path("up.log")).unwrap();
    let lines: Vec<Value> =
        log.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    assert!(lines.iter().any(|l| l["level"] == "INFO" && l["timestamp"].is_string()), "{log}");
    assert!(lines.iter().any(|l| l["file"] == "broken.yaml" && l["level"] == "WARN"), "{log}");
    for line in log.lines() {
        assert_eq!(line.matches("\"message\":").count(), 1, "{line}");
    }

    let misread = bench.command(&["up", "-f", "."]).env("OSTLER_LOG", "ostler=loud=very").output().unwrap();
    let said = Said::from(misread);
    assert!(said.code == 1 && said.err.contains("OSTLER_LOG"), "{said:?}");
}
