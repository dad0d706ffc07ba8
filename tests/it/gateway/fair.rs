//! Many callers at once beside tasks: whose turn it is, as figures.
//!
//! `OSTLER_TEST_FAIR_SECONDS=60 cargo test --test it -- gateway::fair --ignored --nocapture` looks on for that long.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use ostler::{
    calls::CallerKey,
    engines::EngineKind,
    gateway::GatewayTimings,
    simulate::{ActiveFault, SimulateOptions},
};
use serde_json::{Value, json};

use super::gate::{self, Gate};
use crate::worker::{eventually, shop::Shop};

const CALLERS: usize = 50;
const LIMIT: i32 = 2;
/// Of each call and task, and how long they take at the engine.
const TOKENS: u32 = 8;
const TOOK: Duration = Duration::from_millis(100);

const HEAD: Duration = Duration::from_millis(250);

/// Calls once with a key; returns how long it waited for its slot.
async fn call(http: &reqwest::Client, url: &str, key: &CallerKey, prompt: &str) -> Duration {
    let body = json!({"model": "small", "stream": true, "max_tokens": TOKENS, "messages": [{"role": "user", "content": prompt}]});
    let request = http.post(format!("{url}/v1/chat/completions")).bearer_auth(key.text()).json(&body);
    let response = request.send().await.expect("an answer");
    let waited = response.headers().get("ostler-wait-ms").and_then(|value| value.to_str().ok()?.parse().ok());
    let text = response.text().await.expect("a body");
    assert!(text.contains("[DONE]"), "{text}");
    // The answer began before it had a slot.
    Duration::from_millis(waited.unwrap_or(u64::MAX / 2_000_000))
}

/// One: all had the same.
fn jain(counts: &[usize]) -> f64 {
    let sum: f64 = counts.iter().map(|count| *count as f64).sum();
    let squares: f64 = counts.iter().map(|count| (*count as f64).powi(2)).sum();
    sum * sum / (counts.len() as f64 * squares)
}

fn percentile(mut all: Vec<Duration>, part: f64) -> Duration {
    all.sort();
    all[((all.len() - 1) as f64 * part).round() as usize]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "it takes a minute, and measures"]
async fn fifty_callers_and_workers_share_two_slots_and_a_person_waits_for_one_call() {
    let seconds = std::env::var("OSTLER_TEST_FAIR_SECONDS").map_or(60, |text| text.parse().expect("a number"));
    let shop = Shop::sqlite().await;
    let options = SimulateOptions {
        tokens_per_second: f64::from(TOKENS) / TOOK.as_secs_f64(),
        ..SimulateOptions::new(EngineKind::Mlx)
    };
    let mlx = shop.simulated("mlx", options, LIMIT, 10).await;
    mlx.set_faults([format!("long-answer:tokens={TOKENS}").parse::<ActiveFault>().expect("a fault")]);
    let keys: Vec<_> = (0..=CALLERS).map(|_| CallerKey::generate()).collect();
    for (at, key) in keys.iter().enumerate() {
        shop.declare("Caller", &format!("caller-{at}"), json!({"keyHashes": [key.hash()]})).await;
    }
    let parameters = json!({"maxTokens": TOKENS, "timeoutSeconds": 20});
    shop.expert_with("igor", json!({"model": "small", "parameters": parameters})).await;
    shop.give(400, &["igor"], Some("small")).await;
    let gate = Gate::start(shop).await;
    let (second, stop, running) = gate::open(&gate.shop, GatewayTimings::default()).await;
    let workers = [gate.shop.worker().await, gate.shop.worker().await];
    eventually("the keys are known", async || {
        let listed =
            gate.http.get(format!("{second}/v1/models")).header("x-api-key", keys[CALLERS].text()).send().await;
        let listed: Value = listed.expect("an answer").json().await.unwrap_or_default();
        listed["data"].as_array().is_some_and(|data| !data.is_empty())
    })
    .await;

    let over = AtomicBool::new(false);
    let (over, gate_) = (&over, &gate);
    let urls = [gate.url.as_str(), second.as_str()];
    let busy = join_all(keys[..CALLERS].iter().enumerate().map(|(at, key)| async move {
        while !over.load(Ordering::Relaxed) {
            call(&gate_.http, urls[at % 2], key, &format!("caller {at} ")).await;
        }
    }));
    let person = async {
        // Until everybody had some calls: a person has had less than they.
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (begun, mut waits) = (Instant::now(), Vec::new());
        mlx.clear_log();
        while begun.elapsed() < Duration::from_secs(seconds) {
            waits.push(call(&gate_.http, urls[waits.len() % 2], &keys[CALLERS], "person").await);
            // What a person does in between. More often than a fiftieth part of the time they would be one of many.
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        let log = mlx.log();
        over.store(true, Ordering::Relaxed);
        (waits, log)
    };
    let ((waits, log), _) = futures::join!(person, busy);

    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in log.inferences() {
        let prompt = call.prompt.clone().unwrap_or_default();
        let who = if prompt.contains("hello") { "tasks" } else { prompt.trim() };
        *counts.entry(who.to_owned()).or_default() += 1;
    }
    let all = counts.values().sum::<usize>();
    let tasks = counts.get("tasks").copied().unwrap_or(0) as f64 / all as f64;
    let of_callers: Vec<usize> =
        (0..CALLERS).map(|at| counts.get(&format!("caller {at}")).copied().unwrap_or(0)).collect();
    let fairness = jain(&of_callers);
    let (count, half, most) = (waits.len(), percentile(waits.clone(), 0.5), percentile(waits, 0.95));
    println!(
        "{seconds} s: {all} calls, at most {} at once; Jain index of {CALLERS} callers {fairness:.3}; tasks had {:.1} %; a person's {count} calls waited {half:?} (p50), {most:?} (p95)",
        log.in_flight_peak,
        tasks * 100.0,
    );
    assert!(log.in_flight_peak <= LIMIT as usize, "{} calls at once", log.in_flight_peak);
    assert!(fairness >= 0.95, "{of_callers:?}");
    assert!(tasks >= 0.09, "{counts:?}");
    // The call that runs, and for how long a slot may be kept for somebody who does not come.
    assert!(most <= TOOK * 2 + HEAD, "{most:?}");
    for worker in workers {
        worker.end().await;
    }
    stop.cancel();
    running.await.expect("no panic").expect("it served");
    gate.end().await;
}
