//! `kill -9` of `ostler up` with calls in flight, and start again, without an agent: what it held is free, and its tasks go on.

use std::time::{Duration, Instant};

use ostler::{
    engines::EngineKind,
    simulate::{Server, SimulateOptions},
};
use serde_json::json;

use super::harness::{PATIENCE, Up};

const LIMIT: usize = 4;
const TASKS: usize = 8;
const MAX_TOKENS: u32 = 24;
/// From the start of the next process until the engine has its first call.
const RESUMED: Duration = Duration::from_secs(15);

fn manifests(url: &str) -> String {
    format!(
        "apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: ollama}}
spec:
  engine: Ollama
  url: {url}
  models: [{{name: small}}]
  concurrency: {{max: {LIMIT}, adaptive: false}}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {{name: igor}}
spec: {{domains: [backend], model: small, parameters: {{maxTokens: {MAX_TOKENS}, timeoutSeconds: 600}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {{name: default}}
spec: {{defaultExpertRef: {{name: igor}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {{name: pool}}
spec: {{queueRefs: [{{name: default}}]}}
"
    )
}

async fn until(up: &Up, what: &str, within: Duration, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_calls_in_flight_the_next_one_goes_on_within_seconds_and_never_above_the_limit() {
    let mut options = SimulateOptions::new(EngineKind::Ollama).with_models(&["small"]);
    options.tokens_per_second = 4.0;
    let engine = Server::start(options).await.unwrap();
    let mut up = Up::start(&[("all.yaml", &manifests(engine.url()))]).await;
    up.until_ready("ollama").await;
    up.add_tasks((0..TASKS).map(|n| json!({"domain": "backend", "prompt": format!("Story {n}.")})));
    until(&up, "all slots in use", PATIENCE, async || engine.log().in_flight == LIMIT).await;

    up.kill();
    // Canaries have fewer tokens.
    let calls = || engine.log().inferences().filter(|call| call.max_tokens == Some(MAX_TOKENS)).count();
    let calls_before = calls();
    let restarted = Instant::now();
    up.run(&[]).await;
    until(&up, "a task is called again", RESUMED, async || calls() > calls_before).await;
    assert!(restarted.elapsed() < RESUMED, "{:?}\n{}", restarted.elapsed(), up.log());
    let completed = async || {
        let page = up.try_get("/api/v1/tasks?limit=1000").await;
        let items = page.as_ref().and_then(|page| page["items"].as_array()).cloned().unwrap_or_default();
        items.iter().filter(|task| task["state"] == "completed").count() == TASKS
    };
    until(&up, "all tasks completed", PATIENCE, completed).await;

    let log = engine.log();
    assert!(log.in_flight_peak <= LIMIT, "{} calls at once", log.in_flight_peak);
    for task in up.tasks().await {
        assert!(task["attemptsUsed"].as_i64().unwrap_or(0) <= 1, "a death uses no attempt: {task:#}");
    }
    let reasons = up.reasons("ollama").await;
    assert!(!reasons.iter().any(|reason| reason.contains("Hung") || reason.contains("Recovery")), "{reasons:?}");
}
