//! A real Ollama as a service of the agent.

use std::{collections::BTreeMap, time::Duration};

use ostler::{
    agent::os::Processes,
    host::{Action, Phase},
};
use serde_json::{Value, json};

use super::bench::{Bench, kill_9};
use crate::real::Ollama;

async fn models(url: &str) -> Vec<String> {
    let tags: Value = reqwest::get(format!("{url}/api/tags")).await.unwrap().json().await.unwrap();
    let mut names: Vec<String> =
        tags["models"].as_array().into_iter().flatten().map(|m| m["name"].to_string()).collect();
    names.sort();
    names
}

async fn generate(url: &str, tokens: u32) {
    let body = json!({"model": Ollama::MODEL, "prompt": "hello", "stream": false, "options": {"num_predict": tokens}});
    let request = reqwest::Client::new().post(format!("{url}/api/generate")).json(&body);
    let answer = request.timeout(Duration::from_secs(60)).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

#[tokio::test]
async fn a_real_ollama_that_is_killed_is_healed_without_a_controller_and_leaves_no_runner_behind() {
    let ollama = Ollama::idle();
    let environment: BTreeMap<String, String> = ollama.environment().into_iter().collect();
    let service = json!({
        "name": "ollama",
        "start": {"command": Ollama::command(), "environment": environment},
        "check": {"url": format!("{}/api/tags", ollama.url())},
    });
    let bench = Bench::new();
    let agent = bench.start(json!([service])).await;
    let up = agent.until("ollama", "up", |s| s.last_check.as_ref().is_some_and(|c| c.ok)).await;
    let before = models(&ollama.url()).await;
    assert!(before.len() >= 2, "{before:?}");
    generate(&ollama.url(), 200).await;
    let worked = agent.service("ollama").await;
    assert!(worked.cpu_seconds > up.cpu_seconds, "{:?} {:?}", up.cpu_seconds, worked.cpu_seconds);

    let first = up.instance.unwrap();
    kill_9(first.pid as i32);
    agent
        .until("ollama", "healed", |s| {
            s.instance.as_ref().is_some_and(|i| *i != first) && s.last_check.as_ref().is_some_and(|c| c.ok)
        })
        .await;
    assert_eq!(models(&ollama.url()).await, before);
    generate(&ollama.url(), 4).await;
    assert_eq!(Processes::read().unwrap().orphans(&first), Vec::<&_>::new());

    let stopped = agent.operate("ollama", Action::Stop).await;
    assert_eq!(stopped.phase, Phase::Succeeded, "{}", stopped.message);
    assert!(reqwest::get(format!("{}/api/tags", ollama.url())).await.is_err());
    agent.end().await;
}
