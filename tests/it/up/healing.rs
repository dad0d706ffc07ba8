//! Simulated engines, run and healed by the in-process agent.

use std::time::{Duration, Instant};

use crate::real::free_port;

use super::harness::{Up, is_ready, state};

/// An Ollama that the agent runs.
pub fn manifests(port: u16, agent_port: u16, extra_spec: &str, extra_args: &str) -> String {
    format!(
        r#"
apiVersion: ostler.dev/v1alpha1
kind: AgentConfig
metadata: {{name: here}}
spec:
  listen: 127.0.0.1:{agent_port}
  selfCheckSeconds: 300
  services:
  - name: ollama
    manager: Process
    start: {{command: ["{exe}", simulate, --engine, ollama, --listen, "127.0.0.1:{port}", --model, small{extra_args}]}}
    check: {{url: "http://127.0.0.1:{port}/api/tags"}}
    log: {{file: ollama.log}}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: ollama}}
spec:
  engine: Ollama
  url: http://127.0.0.1:{port}
  models: [{{name: small}}]
  probe: {{periodSeconds: 1, timeoutSeconds: 2}}
  recovery: {{hostAgentRef: {{name: here}}, service: ollama, periodSeconds: 1}}
{extra_spec}
"#,
        exe = env!("CARGO_BIN_EXE_ostler"),
    )
}

/// The process ids of simulated engines on a port.
pub fn engines_on(port: u16) -> Vec<i32> {
    let listen = format!("127.0.0.1:{port}");
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    all.filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        words.iter().any(|w| w == "simulate")
            && words.iter().any(|w| *w == listen)
            && !words.iter().any(|w| w == "agent-exec")
    })
    .collect()
}

pub fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_killed_engine_is_started_again_and_proved_by_an_inference() {
    let port = free_port();
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), "", ""))]).await;
    up.until_ready("ollama").await;
    let [first] = engines_on(port)[..] else { panic!("not one engine on {port}") };
    let killed = Instant::now();
    kill(first);
    let recovering = up.until("ollama", "recovering", |b| state(b) == "Recovering" || !is_ready(b)).await;
    assert!(!is_ready(&recovering));
    let back = up.until("ollama", "ready with a recovery that helped", |b| {
        is_ready(b) && b["status"]["recovery"]["history"].as_array().is_some_and(|h| !h.is_empty())
    });
    let back = back.await;
    let record = back["status"]["recovery"]["history"].as_array().unwrap().last().unwrap();
    assert_eq!((record["cause"].as_str(), record["step"].as_str()), (Some("Exited"), Some("Restart")), "{record}");
    assert!(record["evidence"].as_str().unwrap().contains("was served by small"), "it quotes the call: {record}");
    assert_eq!(record["outcome"], "Helped", "{record}");
    assert!(killed.elapsed() < Duration::from_secs(30), "it took {:?}", killed.elapsed());
    let [second] = engines_on(port)[..] else { panic!("not one engine on {port}: {:?}", engines_on(port)) };
    assert_ne!(first, second);
    let reasons = up.reasons("ollama").await;
    for reason in ["RecoveryStarted", "RecoveryHelped", "Recovered"] {
        assert!(reasons.iter().any(|r| r == reason), "no {reason} in {reasons:?}");
    }
}

#[tokio::test]
async fn a_death_that_the_agent_saw_is_acted_on_within_seconds() {
    let port = free_port();
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), "", ""))]).await;
    up.until_ready("ollama").await;
    let killed = jiff::Timestamp::now();
    kill(engines_on(port)[0]);
    up.until("ollama", "restarted", |b| b["status"]["recovery"]["history"].as_array().is_some_and(|h| !h.is_empty()))
        .await;
    let log = up.log();
    let line = log.lines().find(|l| l.contains("operation accepted")).unwrap_or_else(|| panic!("not restarted: {log}"));
    let acted: jiff::Timestamp = line.split_whitespace().next().unwrap().parse().unwrap();
    let late = acted.duration_since(killed);
    assert!(late <= jiff::SignedDuration::from_secs(2), "acted {late:?} after the death");
}

#[tokio::test]
async fn a_hung_runner_is_unloaded_and_not_restarted() {
    let port = free_port();
    let canary = "  canary: {when: Always, periodSeconds: 1, timeoutSeconds: 1}";
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), canary, ""))]).await;
    up.until_ready("ollama").await;
    let first = engines_on(port);
    fault(port, "hang-inference").await;
    let back = up
        .until("ollama", "unloaded and ready", |b| {
            is_ready(b)
                && b["status"]["recovery"]["history"]
                    .as_array()
                    .is_some_and(|h| h.iter().any(|a| a["outcome"] == "Helped"))
        })
        .await;
    let steps: Vec<_> =
        back["status"]["recovery"]["history"].as_array().unwrap().iter().map(|a| a["step"].clone()).collect();
    assert!(steps.iter().all(|s| s == "Unload"), "{steps:?}");
    assert_eq!(engines_on(port), first, "the server itself was left alone");
}

/// Adds a fault to a simulated engine.
pub async fn fault(port: u16, fault: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://127.0.0.1:{port}/simulate/faults");
    let answer = client.post(url).json(&serde_json::json!({"type": fault})).send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
}

#[tokio::test]
async fn what_a_person_stopped_stays_stopped_through_restarts() {
    let port = free_port();
    let mut up = Up::start(&[("all.yaml", &manifests(port, free_port(), "", ""))]).await;
    up.until_ready("ollama").await;
    up.ostler_ok(&["stop", "ollama"]);
    up.until("ollama", "stopped by a person", |b| state(b) == "Suspended").await;
    assert!(engines_on(port).is_empty());
    up.kill();
    up.run(&[]).await;
    let stopped = up.until("ollama", "stopped by a person", |b| state(b) == "Suspended").await;
    assert!(engines_on(port).is_empty(), "{:#}", stopped["status"]);
    up.ostler_ok(&["start", "ollama"]);
    up.until_ready("ollama").await;
    assert_eq!(engines_on(port).len(), 1);
}

#[tokio::test]
async fn pause_keeps_everything_from_acting_until_unpause() {
    let port = free_port();
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), "", ""))]).await;
    up.until_ready("ollama").await;
    up.ostler_ok(&["pause"]);
    kill(engines_on(port)[0]);
    let down = up
        .until("ollama", "down and paused", |b| state(b) == "Down" && b["status"].to_string().contains("unpause"))
        .await;
    assert!(!is_ready(&down));
    assert!(engines_on(port).is_empty());
    up.ostler_ok(&["unpause"]);
    up.until_ready("ollama").await;
}

#[tokio::test]
async fn observe_says_what_it_would_do_and_does_nothing() {
    let port = free_port();
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), "  mode: Observe", ""))]).await;
    up.until_ready("ollama").await;
    kill(engines_on(port)[0]);
    let seen = up
        .until("ollama", "what it would do", |b| {
            b["status"]["recovery"]["history"].as_array().is_some_and(|h| h.iter().any(|a| a["outcome"] == "WouldDo"))
        })
        .await;
    assert_eq!(seen["status"]["recovery"]["attempts"], 0, "{:#}", seen["status"]);
    assert!(engines_on(port).is_empty());
}

#[tokio::test]
async fn a_foreign_process_on_the_port_is_never_killed_and_a_human_is_told() {
    let port = free_port();
    let spec = "  mode: Enforce";
    let up = Up::prepare(&[(
        "all.yaml",
        &manifests(port, free_port(), spec, "").replace("periodSeconds: 1}", "periodSeconds: 1, maxAttempts: 2}"),
    )]);
    let mut foreign = std::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["simulate", "--engine", "ollama", "--listen", &format!("127.0.0.1:{port}"), "--model", "small"])
        .args(["--fault", "status:code=500"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut up = up;
    up.run(&[]).await;
    let deferred = up.until("ollama", "deferred to a human", |b| state(b) == "Deferred").await;
    assert!(foreign.try_wait().unwrap().is_none(), "the foreign process was killed");
    let text = deferred["status"].to_string();
    assert!(text.contains(&foreign.id().to_string()) || text.contains("port"), "{:#}", deferred["status"]);
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

#[tokio::test]
async fn a_declared_context_is_made_and_proved_by_its_name() {
    let port = free_port();
    let context = |tokens: i32| {
        manifests(port, free_port(), "", "")
            .replace("models: [{name: small}]", &format!("models: [{{name: small, contextTokens: {tokens}}}]"))
    };
    let up = Up::start(&[("all.yaml", &context(2048))]).await;
    up.until("ollama", "ready", is_ready).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let shown = async |model: &str| -> serde_json::Value {
        let shown = client.post(format!("http://127.0.0.1:{port}/api/show")).json(&serde_json::json!({"model": model}));
        shown.send().await.unwrap().json().await.unwrap()
    };
    assert_eq!(shown("ostler/small").await["parameters"], "PARAMETER num_ctx 2048\n");
    let loaded: serde_json::Value =
        client.get(format!("http://127.0.0.1:{port}/api/ps")).send().await.unwrap().json().await.unwrap();
    assert_eq!(loaded["models"][0]["name"], "ostler/small:latest", "{loaded}");
    assert_eq!(loaded["models"].as_array().map(Vec::len), Some(1), "no other was loaded: {loaded}");
}

#[tokio::test]
async fn a_model_that_lacks_is_pulled_and_one_to_be_kept_is_loaded() {
    let port = free_port();
    let text = manifests(port, free_port(), "", "").replace(
        "models: [{name: small}]",
        "models: [{name: small}, {name: big, pull: true}, {name: kept, pull: true, preload: true}]",
    );
    let up = Up::start(&[("all.yaml", &text)]).await;
    let ready = up.until("ollama", "ready with every model", |b| {
        is_ready(b)
            && b["status"]["models"].as_array().is_some_and(|m| m.len() == 3 && m.iter().all(|m| m["present"] == true))
    });
    ready.await;
    // The proof's own model leaves memory first: a preload evicts nothing.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let unload = serde_json::json!({"model": "small", "keep_alive": 0});
    client.post(format!("http://127.0.0.1:{port}/api/generate")).json(&unload).send().await.unwrap();
    up.until("ollama", "with the kept model loaded", |b| {
        b["status"]["models"]
            .as_array()
            .is_some_and(|all| all.iter().any(|m| m["name"] == "kept" && m["loaded"] == true))
    })
    .await;
}
