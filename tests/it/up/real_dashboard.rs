//! Every page of the dashboard in a real browser: the story of a night, by day and by night, on a phone and on a desktop.

use serde_json::json;

use crate::real::{cache, free_port, part_script};

use super::harness::Up;

/// Two servers whose programs end at once, and work that waits for them.
const NIGHT: &str = r#"
apiVersion: ostler.dev/v1alpha1
kind: AgentConfig
metadata: {name: here}
spec:
  listen: 127.0.0.1:0
  services:
  - {name: mlx, manager: Process, start: {command: ["/bin/false"]}, check: {url: "http://127.0.0.1:PORT1/v1/models"}}
  - {name: ollama, manager: Process, start: {command: ["/bin/false"]}, check: {url: "http://127.0.0.1:PORT2/api/tags"}}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: mlx}
spec:
  engine: MLX
  url: http://127.0.0.1:PORT1
  models: [{name: small}]
  recovery: {hostAgentRef: {name: here}, service: mlx, periodSeconds: 1}
---
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: ollama}
spec:
  engine: Ollama
  url: http://127.0.0.1:PORT2
  models: [{name: small}]
  recovery: {hostAgentRef: {name: here}, service: ollama, periodSeconds: 1}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: igor}
spec: {domains: [backend], model: small}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: default}
spec: {queueRefs: [{name: default}]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn real_browser_finds_nothing_wrong_with_the_dashboard_while_everything_is_down() {
    let [mlx, ollama] = [free_port(), free_port()].map(|port| port.to_string());
    let night = NIGHT.replace("PORT1", &mlx).replace("PORT2", &ollama);
    let up = Up::start(&[("night.yaml", &night)]).await;
    up.until_of("taskqueues", "default", "in force", |queue| queue["status"]["conditions"].is_array()).await;
    up.add_tasks(
        (0..405).map(|n| json!({"prompt": format!("task {n}"), "domain": if n < 400 { "backend" } else { "legal" }})),
    );
    up.until("mlx", "an attempt of recovery", |object| object["status"]["recovery"]["attempts"].as_i64() > Some(0))
        .await;
    let endpoint = std::fs::read(up.data().join("endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_slice(&endpoint).unwrap();
    let text = |field: &str| endpoint[field].as_str().unwrap().to_owned();
    let mut python = tokio::process::Command::new(cache().join("python/bin/python"));
    let shots =
        std::env::var_os("OSTLER_TEST_SCREENSHOTS").map_or_else(|| up.root.join("shots"), std::path::PathBuf::from);
    python.arg(part_script("browser/pages.py")).args([text("address"), text("token")]).arg(shots);
    let said = python.output().await.expect("tests/run installs Python");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && out.contains("ok 12 pages"), "{out}\n{err}");
}
