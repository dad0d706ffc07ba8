//! A real Ollama that is busy, hangs or loses its runners while calls are open: what is judged, done and claimed.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::real::{Counter, Mlx, Ollama};

use super::{
    declared::{Manifests, prompts, recovery},
    harness::{PATIENCE, Up, is_ready, state},
};

const TASKS: usize = 40;
const STALL: u64 = 8;
const SLOTS: usize = 4;

fn work(manifests: Manifests) -> Manifests {
    manifests.work("maxTokens: 1900, timeoutSeconds: 1200", "retry: {maxAttempts: 1}")
}

/// One slot of its own, four of ours; tight probes; long answers.
fn manifests(ollama: &Ollama, url: &str, agent: bool) -> Manifests {
    let mut environment = ollama.environment();
    environment.retain(|(name, _)| name != "OLLAMA_NUM_PARALLEL");
    environment.push(("OLLAMA_NUM_PARALLEL".into(), "1".into()));
    let recovery = if agent { format!(", {}", recovery("ollama", "")) } else { String::new() };
    let rest = format!(
        "stallSeconds: {STALL}, probe: {{periodSeconds: 1, timeoutSeconds: 1}}, canary: {{periodSeconds: 1, timeoutSeconds: 3}},
         concurrency: {{max: {SLOTS}, adaptive: false}}{recovery}"
    );
    let all = work(Manifests::default().backend("ollama", "Ollama", url, "{name: tiny, alias: small}", &rest));
    if agent { all.ollama_service(ollama, &environment) } else { all }
}

async fn start(ollama: &Ollama, agent: bool) -> Up {
    manifests(ollama, &ollama.url(), agent).up().await
}

async fn until_all_done(up: &Up, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let all = up.tasks().await;
        if all.len() == count && all.iter().all(|task| task["state"] == "completed") {
            return all;
        }
        let failed: Vec<_> = all.iter().filter(|task| task["state"] != "completed").take(2).collect();
        assert!(begun.elapsed() < Duration::from_secs(420), "not all done: {failed:#?}\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Somebody else's calls, three at once, each as long as it gets.
fn saturate(ollama: &Ollama) -> CancellationToken {
    let stop = CancellationToken::new();
    for _ in 0..3 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/api/generate", ollama.url());
        let options = json!({"num_predict": -1, "num_ctx": 2048});
        let endless = json!({"model": "tiny", "prompt": "hi", "stream": true, "options": options});
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                if let Ok(mut answer) = client.post(&url).json(&endless).send().await {
                    while let Ok(Some(_)) = answer.chunk().await {}
                }
            }
        }));
    }
    stop
}

async fn history(up: &Up, backend: &str) -> Vec<Value> {
    let backend = up.backend(backend).await;
    backend["status"]["recovery"]["history"].as_array().cloned().unwrap_or_default()
}

/// How long the saturation lasts; ten minutes by hand: `OSTLER_TEST_SATURATED=600`.
fn saturated_for() -> Duration {
    let seconds = std::env::var("OSTLER_TEST_SATURATED").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(45))
}

async fn saturated(agent: bool) {
    let ollama = if agent { Ollama::idle() } else { Ollama::start() };
    let up = start(&ollama, agent).await;
    up.until_ready("ollama").await;
    let stop = saturate(&ollama);
    up.add_tasks(prompts(4));
    let begun = Instant::now();
    while begun.elapsed() < saturated_for() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let backend = up.backend("ollama").await;
        let recovery = &backend["status"]["recovery"];
        assert!(
            recovery["history"].as_array().is_none_or(Vec::is_empty),
            "something was done: {recovery:#}\n{}",
            up.log()
        );
    }
    stop.cancel();
    for task in until_all_done(&up, 4).await {
        assert_eq!(task["attemptsUsed"], 1, "{task:#}");
    }
    assert!(history(&up, "ollama").await.is_empty());
}

#[tokio::test]
async fn real_ollama_saturated_by_others_is_left_alone_with_an_agent() {
    saturated(true).await;
}

#[tokio::test]
async fn real_ollama_saturated_by_others_is_left_alone_without_an_agent() {
    saturated(false).await;
}

#[tokio::test]
async fn real_ollama_that_hangs_with_calls_open_is_unloaded_after_stall_seconds() {
    let ollama = Ollama::idle();
    let up = start(&ollama, true).await;
    up.until_ready("ollama").await;
    up.add_tasks(prompts(TASKS));
    up.until("ollama", "at work", |b| b["live"]["lastByteAt"].is_string()).await;
    ollama.freeze_runners();
    let frozen = Instant::now();
    let hung = |b: &Value| matches!(state(b), "Hung" | "Recovering");
    up.until("ollama", "hung", hung).await;
    let seen_after = frozen.elapsed();
    // `stallSeconds` if one of them had a byte; if all had just begun, 30 s and what it takes to know that the processes are idle.
    assert!(seen_after < Duration::from_secs(45), "seen after {seen_after:?}");
    let helped = |b: &Value| {
        let history = b["status"]["recovery"]["history"].as_array().cloned().unwrap_or_default();
        is_ready(b) && history.iter().any(|attempt| attempt["outcome"] == "Helped")
    };
    up.until("ollama", "unloaded and ready", helped).await;
    let done = until_all_done(&up, TASKS).await;
    assert!(done.iter().all(|task| task["attemptsUsed"] == 1), "{done:#?}");
    let history = history(&up, "ollama").await;
    assert_eq!(history.len(), 1, "no other recovery is claimed: {history:#?}");
    assert_eq!((&history[0]["step"], &history[0]["cause"]), (&json!("Unload"), &json!("Hung")), "{history:#?}");
    let evidence = history[0]["evidence"].as_str().unwrap();
    assert!(evidence.contains("was served by tiny"), "it quotes the call: {evidence}");
}

/// A runner that stands still before the calls come: Ollama asks it for 10 s for each of them, and at last loads another one.
#[tokio::test]
async fn real_ollama_that_hangs_before_the_first_byte_is_seen_by_its_idle_processes() {
    let ollama = Ollama::idle();
    let up = start(&ollama, true).await;
    up.until_ready("ollama").await;
    ollama.freeze_runners();
    up.add_tasks(prompts(TASKS));
    let hung = |b: &Value| matches!(state(b), "Hung" | "Recovering");
    up.until("ollama", "hung", hung).await;
    let done = until_all_done(&up, TASKS).await;
    assert!(done.iter().all(|task| task["attemptsUsed"] == 1), "{done:#?}");
}

#[tokio::test]
async fn real_ollama_whose_runners_are_killed_costs_no_task_an_attempt() {
    let ollama = Ollama::idle();
    let up = start(&ollama, true).await;
    up.until_ready("ollama").await;
    up.add_tasks(prompts(TASKS));
    up.until("ollama", "at work", |b| b["live"]["lastByteAt"].is_string()).await;
    for _ in 0..3 {
        for runner in ollama.runners() {
            super::healing::kill(i32::try_from(runner).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let done = until_all_done(&up, TASKS).await;
    assert!(done.iter().all(|task| task["attemptsUsed"] == 1), "{done:#?}");
}

/// From the start of the next process until all slots are in use again.
const RESUMED: Duration = Duration::from_secs(15);

async fn until_in_use(up: &Up, calls: &Counter, within: Duration) {
    let begun = Instant::now();
    while calls.open() < SLOTS {
        assert!(begun.elapsed() < within, "{} of {SLOTS} slots are in use\n{}", calls.open(), up.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_ollama_has_its_calls_again_seconds_after_up_was_killed() {
    let ollama = Ollama::start();
    let (url, calls) = Counter::start("127.0.0.1", ollama.url()).await;
    let mut up = manifests(&ollama, &url, false).up().await;
    up.until_ready("ollama").await;
    up.add_tasks(prompts(TASKS));
    until_in_use(&up, &calls, PATIENCE).await;
    up.kill();
    up.run(&[]).await;
    until_in_use(&up, &calls, RESUMED).await;
    let done = until_all_done(&up, TASKS).await;
    assert!(calls.peak() <= SLOTS, "{} calls at once", calls.peak());
    assert!(done.iter().all(|task| task["attemptsUsed"] == 1), "{done:#?}");
    assert!(history(&up, "ollama").await.is_empty());
}

fn mlx_manifests(mlx: &Mlx) -> Manifests {
    let rest = format!(
        "probe: {{periodSeconds: 1, timeoutSeconds: 1}}, canary: {{periodSeconds: 1, timeoutSeconds: 3}},
         concurrency: {{max: 2, adaptive: false}}, {}",
        recovery("mlx", "")
    );
    let model = format!("{{name: '{}', alias: small}}", mlx.model());
    work(Manifests::default().mlx_service(mlx).backend("mlx", "MLX", &mlx.url(), &model, &rest))
}

/// Long answers, and somebody else's beside them: its listing and its canaries wait behind those.
#[tokio::test]
async fn real_mlx_with_long_answers_is_left_alone_and_killed_in_the_middle_loses_no_attempt() {
    let mlx = Mlx::start();
    // From here on the agent is its parent.
    mlx.kill();
    let up = mlx_manifests(&mlx).up().await;
    up.until_ready("mlx").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let long = json!({"model": mlx.model(), "messages": [{"role": "user", "content": "w1 ".repeat(3_000)}], "max_tokens": 4000});
    let url = format!("{}/v1/chat/completions", mlx.url());
    let others: Vec<_> = (0..3).map(|_| tokio::spawn(client.post(&url).json(&long).send())).collect();
    up.add_tasks(prompts(6));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        assert!(history(&up, "mlx").await.is_empty(), "something was done\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    others.iter().for_each(tokio::task::JoinHandle::abort);
    up.until_within(PATIENCE * 3, "mlx", "at work", |b| b["live"]["lastByteAt"].is_string()).await;
    let before = mlx.processes();
    super::healing::kill(before[0]);
    let done = until_all_done(&up, 6).await;
    assert!(done.iter().all(|task| task["attemptsUsed"] == 1), "{done:#?}");
    assert_ne!(mlx.processes(), before);
    let history = history(&up, "mlx").await;
    assert_eq!(history.len(), 1, "{history:#?}");
    // Its agent, a probe or its calls tell of it first.
    assert!(["Exited", "Refused", "Reset"].iter().any(|cause| history[0]["cause"] == *cause), "{history:#?}");
    assert_eq!(history[0]["outcome"], "Helped", "{history:#?}");
}
