//! Real Ollama and real MLX, run by the in-process agent as services.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::real::{Mlx, Ollama};

use super::{
    declared::{Manifests, recovery},
    harness::{condition, is_ready, state},
};

/// An Ollama that the agent runs, with its own models folder or an empty one.
fn manifests(ollama: &Ollama, environment: &[(String, String)], canary: &str) -> Manifests {
    let rest = format!("probe: {{periodSeconds: 1}}, canary: {{{canary}}}, {}", recovery("ollama", "periodSeconds: 1"));
    Manifests::default().ollama_service(ollama, environment).backend(
        "ollama",
        "Ollama",
        &ollama.url(),
        "{name: tiny}",
        &rest,
    )
}

async fn ask(ollama: &Ollama, path: &str) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(format!("{}{path}", ollama.url())).send().await.unwrap().json().await.unwrap()
}

async fn names(ollama: &Ollama) -> Vec<String> {
    let tags = ask(ollama, "/api/tags").await;
    let mut names: Vec<_> =
        tags["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The process that listens on the server's port.
fn serving(ollama: &Ollama) -> i32 {
    let host = format!("OLLAMA_HOST=127.0.0.1:{}", ollama.port());
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<i32> = all
        .filter(|pid| {
            let of = |file: &str| {
                String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
            };
            of("environ").contains(&host) && of("cmdline").ends_with("serve\0")
        })
        .collect();
    found.sort_unstable();
    *found.first().unwrap_or_else(|| panic!("no ollama serve on {host}"))
}

#[tokio::test]
async fn real_ollama_killed_is_ready_again_with_the_same_models() {
    let ollama = Ollama::idle();
    let up = manifests(&ollama, &ollama.environment(), "").up().await;
    up.until_ready("ollama").await;
    let before = names(&ollama).await;
    let first = serving(&ollama);
    super::healing::kill(first);
    up.until("ollama", "not ready", |b| !is_ready(b)).await;
    up.until_ready("ollama").await;
    assert_eq!(names(&ollama).await, before);
    assert_ne!(serving(&ollama), first);
}

#[tokio::test]
async fn real_ollama_with_a_stopped_runner_is_healed_by_an_unload() {
    let ollama = Ollama::idle();
    let canary = "when: Always, periodSeconds: 1, timeoutSeconds: 3";
    let up = manifests(&ollama, &ollama.environment(), canary).up().await;
    up.until_ready("ollama").await;
    let server = serving(&ollama);
    ollama.freeze_runners();
    let helped = |b: &Value| {
        is_ready(b)
            && b["status"]["recovery"]["history"].as_array().is_some_and(|h| h.iter().any(|a| a["outcome"] == "Helped"))
    };
    let back = up.until_within(Duration::from_secs(120), "ollama", "unloaded and ready", helped).await;
    let history = &back["status"]["recovery"]["history"];
    assert!(history.as_array().unwrap().iter().all(|a| a["step"] == "Unload"), "{history:#}");
    assert_eq!(history[0]["cause"], "Hung", "{history:#}");
    assert_eq!(serving(&ollama), server, "no restart");
}

#[tokio::test]
async fn real_ollama_with_an_empty_models_folder_is_never_healed() {
    let ollama = Ollama::idle();
    let mut environment = ollama.environment();
    for (name, value) in &mut environment {
        if name == "OLLAMA_MODELS" {
            *value = ollama.empty_models().display().to_string();
        }
    }
    let up = manifests(&ollama, &environment, "").up().await;
    let lacking = up.until("ollama", "without models", |b| state(b) == "ModelsMissing").await;
    assert_eq!(condition(&lacking, "ModelsReady")["status"], "False");
    assert_eq!(condition(&lacking, "Stalled")["status"], "True");
    assert!(condition(&lacking, "Ready")["message"].as_str().unwrap().contains("user"), "{:#}", lacking["status"]);
    let server = serving(&ollama);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let still = up.backend("ollama").await;
    assert_eq!((state(&still), serving(&ollama)), ("ModelsMissing", server));
    assert!(still["status"]["recovery"].is_null(), "{:#}", still["status"]);
}

#[tokio::test]
async fn real_ollama_is_left_as_it_was_found() {
    let ollama = Ollama::start();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let generate =
        json!({"model": "other", "prompt": "hi", "stream": false, "keep_alive": "10m", "options": {"num_predict": 1}});
    client.post(format!("{}/api/generate", ollama.url())).json(&generate).send().await.unwrap();
    let before = ask(&ollama, "/api/ps").await;
    let expiry = |ps: &Value| -> jiff::Timestamp { ps["models"][0]["expires_at"].as_str().unwrap().parse().unwrap() };
    let rest = "probe: {periodSeconds: 1}, canary: {when: Always, periodSeconds: 1}";
    let models = "{name: tiny}, {name: other}";
    let up = Manifests::default().backend("ollama", "Ollama", &ollama.url(), models, rest).up().await;
    up.until_ready("ollama").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let after = ask(&ollama, "/api/ps").await;
    let loaded: Vec<_> = after["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(loaded, ["other:latest"], "no other model was loaded");
    let moved = expiry(&after).duration_since(expiry(&before)).abs();
    assert!(moved <= jiff::SignedDuration::from_secs(2), "its expiry moved by {moved:?}");
}

#[tokio::test]
async fn real_ollama_idle_is_left_asleep() {
    let ollama = Ollama::start();
    let rest = "probe: {periodSeconds: 1}, canary: {periodSeconds: 1}";
    let up = Manifests::default().backend("ollama", "Ollama", &ollama.url(), "{name: tiny}", rest).up().await;
    up.until_ready("ollama").await;
    // The proof loaded it; once it is gone, nothing loads it again.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let unload = json!({"model": "tiny", "keep_alive": 0});
    client.post(format!("{}/api/generate", ollama.url())).json(&unload).send().await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ps = ask(&ollama, "/api/ps").await;
        if begun.elapsed() > Duration::from_secs(2) {
            assert_eq!(ps["models"].as_array().map_or(0, Vec::len), 0, "{ps}");
        }
    }
    assert!(is_ready(&up.backend("ollama").await));
}

#[tokio::test]
async fn real_ollama_busy_with_somebody_elses_generation_is_left_alone() {
    let ollama = Ollama::idle();
    let canary = "when: Always, periodSeconds: 1, timeoutSeconds: 1";
    let up = manifests(&ollama, &ollama.environment(), canary).up().await;
    up.until_ready("ollama").await;
    let server = serving(&ollama);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/generate", ollama.url());
    // Kept for good: a model whose expiry others move is asked no more, and on a fast machine the first generation may end,
    // and move it, before a canary met one.
    let options = json!({"num_predict": 1900, "num_ctx": 2048});
    let long = json!({"model": "tiny", "prompt": "hi", "stream": false, "keep_alive": -1, "options": options});
    let stop = tokio_util::sync::CancellationToken::new();
    let others = tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            let answer = client.post(&url).json(&long).send().await.unwrap();
            assert!(answer.status().is_success());
        }
    }));
    let busy = up.until("ollama", "busy", |b| state(b) == "Busy").await;
    assert!(is_ready(&busy), "busy is well: {:#}", busy["status"]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.cancel();
    others.await.unwrap();
    let after = up.until_ready("ollama").await;
    assert!(after["status"]["recovery"].is_null(), "neither unload nor restart: {:#}", after["status"]);
    assert_eq!(serving(&ollama), server);
}

fn mlx_backend(mlx: &Mlx, model: &str, rest: &str) -> Manifests {
    let rest = format!("probe: {{periodSeconds: 1}}, {rest}");
    Manifests::default().backend("mlx", "MLX", &mlx.url(), &format!("{{name: '{model}'}}"), &rest)
}

#[tokio::test]
async fn real_mlx_with_an_empty_listing_is_ready_only_once_an_inference_proved_it() {
    let mlx = Mlx::without_hub();
    let never = "canary: {when: Never}";
    let up = mlx_backend(&mlx, "default_model", never).up().await;
    let unproved =
        up.until("mlx", "unproved", |b| state(b) == "Proving" && condition(b, "Ready")["reason"] == "NoProof").await;
    assert!(!is_ready(&unproved));
    up.write("all.yaml", mlx_backend(&mlx, "default_model", "").text());
    let ready = up.until_ready("mlx").await;
    assert_eq!(condition(&ready, "ModelsReady")["reason"], "ProvedByInference", "{:#}", ready["status"]);
}

#[tokio::test]
async fn real_mlx_never_sees_a_name_that_it_does_not_list() {
    let mlx = Mlx::start();
    let up = mlx_backend(&mlx, "org/unknown", "").up().await;
    up.until("mlx", "judged", |b| !state(b).is_empty() && state(b) != "Proving" || is_ready(b)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!mlx.log().contains("org/unknown"), "{}", mlx.log());
}

#[tokio::test]
async fn real_mlx_killed_is_started_again_and_proved() {
    let mlx = Mlx::start();
    // From here on the agent is its parent.
    mlx.kill();
    let up = mlx_backend(&mlx, mlx.model(), &recovery("mlx", "periodSeconds: 1")).mlx_service(&mlx).up().await;
    up.until_ready("mlx").await;
    let first = mlx.processes();
    assert_eq!(first.len(), 1);
    super::healing::kill(first[0]);
    let back = up
        .until("mlx", "restarted and proved", |b| {
            is_ready(b)
                && b["status"]["recovery"]["history"]
                    .as_array()
                    .is_some_and(|h| h.iter().any(|a| a["outcome"] == "Helped"))
        })
        .await;
    assert_eq!(back["status"]["recovery"]["history"][0]["cause"], "Exited", "{:#}", back["status"]);
    assert_ne!(mlx.processes(), first);
}
