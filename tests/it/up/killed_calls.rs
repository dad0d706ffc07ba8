//! `kill -9` of `ostler up` with calls in flight, and start again, without an agent: what it held is free, and its tasks go on.

use std::time::{Duration, Instant};

use ostler::{
    engines::EngineKind,
    simulate::{SimulateOptions, SimulatedServer},
};

use super::{
    declared::{MLX_MODEL, Manifests, prompts},
    harness::{PATIENCE, Up},
};

const LIMIT: usize = 4;
const TASKS: usize = 8;
const MAX_TOKENS: u32 = 24;
/// From the start of the next process until the engine has its first call.
const RESUMED: Duration = Duration::from_secs(15);

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
    let engine = SimulatedServer::start(options).await.unwrap();
    let rest = format!("concurrency: {{max: {LIMIT}, adaptive: false}}");
    let manifests = Manifests::default().backend("ollama", "Ollama", engine.url(), "{name: small}", &rest);
    let mut up = manifests.work(&format!("maxTokens: {MAX_TOKENS}, timeoutSeconds: 600"), "").up().await;
    up.until_ready("ollama").await;
    up.add_tasks(prompts(TASKS));
    until(&up, "all slots in use", PATIENCE, async || engine.log().in_flight == LIMIT).await;

    up.kill();
    // Canaries have fewer tokens.
    let calls = || engine.log().inferences().filter(|call| call.max_tokens == Some(MAX_TOKENS)).count();
    let calls_before = calls();
    let restarted = Instant::now();
    up.run(&[]).await;
    until(&up, "a task is called again", RESUMED, async || calls() > calls_before).await;
    assert!(restarted.elapsed() < RESUMED, "{:?}\n{}", restarted.elapsed(), up.log());
    until(&up, "all tasks completed", PATIENCE, async || completed(&up).await == TASKS).await;

    let log = engine.log();
    assert!(log.in_flight_peak <= LIMIT, "{} calls at once", log.in_flight_peak);
    for task in up.tasks().await {
        assert!(task["attemptsUsed"].as_i64().unwrap_or(0) <= 1, "a death uses no attempt: {task:#}");
    }
    let reasons = up.reasons("ollama").await;
    assert!(!reasons.iter().any(|reason| reason.contains("Hung") || reason.contains("Recovery")), "{reasons:?}");
}

async fn completed(up: &Up) -> usize {
    let page = up.try_get("/api/v1/tasks?limit=1000").await;
    let items = page.as_ref().and_then(|page| page["items"].as_array()).cloned().unwrap_or_default();
    items.iter().filter(|task| task["state"] == "completed").count()
}

/// MLX reads a prompt to its end although its client is gone: the calls of the dead process count until they must have ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_mlx_reads_prompts_the_next_one_never_sends_it_more_than_its_limit() {
    const MLX_LIMIT: usize = 2;
    let mut options = SimulateOptions::new(EngineKind::Mlx);
    options.tokens_per_second = 40.0;
    let engine = SimulatedServer::start(options).await.unwrap();
    let rest = format!("concurrency: {{max: {MLX_LIMIT}, adaptive: false, unsafeMax: true}}");
    let manifests = Manifests::default().backend("mlx", "MLX", engine.url(), MLX_MODEL, &rest);
    let mut up = manifests.work(&format!("maxTokens: {MAX_TOKENS}, timeoutSeconds: 16"), "").up().await;
    up.until_ready("mlx").await;
    engine.set_faults(["prefill:seconds=12", "unnoticed-disconnect"].map(|fault| fault.parse().unwrap()));
    up.add_tasks(prompts(4));
    until(&up, "both slots in use", PATIENCE, async || engine.log().in_flight == MLX_LIMIT).await;

    up.kill();
    up.run(&[]).await;
    let killed = Instant::now();
    until(&up, "the calls of the dead process to end", PATIENCE, async || engine.log().in_flight == 0).await;
    assert!(killed.elapsed() > Duration::from_secs(2), "they were to outlive it");
    engine.clear_faults();
    until(&up, "all tasks completed", PATIENCE, async || completed(&up).await == 4).await;
    let log = engine.log();
    assert!(log.in_flight_peak <= MLX_LIMIT, "{} calls at once", log.in_flight_peak);
    assert!(up.tasks().await.iter().all(|task| task["attemptsUsed"] == 1), "a death uses no attempt");
}
