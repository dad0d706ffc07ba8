//! Experts, queues and pools of a folder: what they refer to, what they wait for, what is projected.

use serde_json::Value;

use crate::real::free_port;

use super::harness::{PATIENCE, Up};

const QUEUE: &str = "apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec:
  defaultExpertRef: {name: igor}
  requires: [{kind: LLMBackend, name: engine, condition: Ready, forSeconds: 2}]
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: pool}
spec: {queueRefs: [{name: default}]}
";

const EXPERT: &str = "apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: igor}
spec: {domains: [backend], model: small, systemPromptRef: {name: prompts, key: igor}}
";

const PROMPTS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: prompts}
data: {igor: You are an engineer.}
";

fn backend(port: u16) -> String {
    format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: here}}\nspec:\n  listen: 127.0.0.1:0\n  services:\n  \
         - name: engine\n    manager: Process\n    start: {{command: [ostler, simulate, --engine, ollama, --listen, '127.0.0.1:{port}', --model, small]}}\n    \
         check: {{url: 'http://127.0.0.1:{port}/api/tags'}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: engine}}\nspec:\n  engine: Ollama\n  \
         url: http://127.0.0.1:{port}\n  models: [{{name: small}}]\n  probe: {{periodSeconds: 1}}\n  recovery: {{hostAgentRef: {{name: here}}, service: engine, periodSeconds: 1}}\n"
    )
}

/// Waits until a resource's status is as wanted.
async fn until(up: &Up, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let begun = std::time::Instant::now();
    let mut last = Value::Null;
    while begun.elapsed() < PATIENCE {
        if let Some(seen) = up.try_get(&format!("/api/v1/{path}")).await {
            if wanted(&seen["status"]) {
                return seen;
            }
            last = seen["status"].clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{path} is not {what}: {last:#}\n{}", up.log());
}

fn is(state: &str) -> impl Fn(&Value) -> bool + '_ {
    move |status| status["state"] == state
}

#[tokio::test]
async fn what_an_expert_refers_to_is_looked_for_and_found_when_it_comes() {
    let up = Up::start(&[("expert.yaml", EXPERT), ("queue.yaml", QUEUE)]).await;
    let lacks = until(&up, "experts/default/igor", "without its prompt", is("PromptMissing")).await;
    let ready = &lacks["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&"Ready".into(), &"False".into()), "{lacks:#}");
    assert!(ready["message"].as_str().unwrap().contains("ConfigMap default/prompts is not there"), "{lacks:#}");
    up.write("prompts.yaml", PROMPTS);
    up.ostler_ok(&["reconcile", "exp/igor"]);
    until(&up, "experts/default/igor", "without a backend", is("ModelMissing")).await;
    let queue = until(&up, "taskqueues/default/default", "held", is("Held")).await;
    assert_eq!(queue["status"]["pools"], 1, "{queue:#}");
    assert!(queue.to_string().contains("it is not there"), "{queue:#}");
    up.write("engine.yaml", &backend(free_port()));
    let expert = until(&up, "experts/default/igor", "available", is("Available")).await;
    assert_eq!(expert["status"]["backends"], serde_json::json!(["engine"]));
    up.remove("expert.yaml");
    until(&up, "taskqueues/default/default", "without its expert", is("ExpertMissing")).await;
}

#[tokio::test]
async fn a_queue_is_held_until_its_backend_has_been_well_for_long_enough_and_again_when_it_dies() {
    let port = free_port();
    let manifest = backend(port);
    let up = Up::start(&[("engine.yaml", &manifest), ("e.yaml", EXPERT), ("p.yaml", PROMPTS), ("q.yaml", QUEUE)]).await;
    until(&up, "taskqueues/default/default", "held", is("Held")).await;
    let ready = up.until_ready("engine").await;
    let open = until(&up, "taskqueues/default/default", "open", is("Open")).await;
    let at = |value: &Value| {
        value["status"]["conditions"][0]["lastTransitionTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let waited = at(&open).duration_since(at(&ready));
    assert!(waited.as_secs_f64() >= 0.9, "it was well for {waited:?} only");
    assert!(!open.to_string().contains("\"Held\""), "{open:#}");

    up.ostler_ok(&["stop", "here/engine"]);
    let held = until(&up, "taskqueues/default/default", "held again", is("Held")).await;
    let condition =
        held["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Held").cloned().unwrap();
    assert!(condition["message"].as_str().unwrap().contains("it is not"), "{condition:#}");
    up.ostler_ok(&["start", "here/engine"]);
    until(&up, "taskqueues/default/default", "open again", is("Open")).await;

    up.ostler_ok(&["suspend", "tq/default"]);
    until(&up, "taskqueues/default/default", "suspended", is("Suspended")).await;
    up.ostler_ok(&["resume", "tq/default"]);
    until(&up, "taskqueues/default/default", "open after all", is("Open")).await;
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let manifest = backend(free_port());
    let up = Up::start(&[("engine.yaml", &manifest), ("e.yaml", EXPERT), ("p.yaml", PROMPTS), ("q.yaml", QUEUE)]).await;
    until(&up, "taskqueues/default/default", "open", is("Open")).await;
    until(&up, "experts/default/igor", "available", is("Available")).await;
    let versions = async || {
        let mut versions = Vec::new();
        for path in ["experts/default/igor", "taskqueues/default/default"] {
            versions.push(up.get(&format!("/api/v1/{path}")).await["metadata"]["resourceVersion"].clone());
        }
        versions
    };
    let before = versions().await;
    for _ in 0..3 {
        up.ostler_ok(&["reconcile", "llm/engine"]);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(versions().await, before);
}
