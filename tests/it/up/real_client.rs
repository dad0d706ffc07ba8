//! A client that is generated from the API's own description, by a tool that knows nothing of Ostler.

use crate::real::{cache, free_port, part_script};

use super::harness::Up;

const WORK: &str = "
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {defaultExpertRef: {name: igor}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: pool}
spec: {queueRefs: [{name: default}]}
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: igor}
spec: {domains: [any], model: small, maxConcurrentTasks: 8}
";

#[tokio::test(flavor = "multi_thread")]
async fn real_generated_client_submits_a_thousand_tasks_and_reads_every_result() {
    let engine = super::healing::manifests(
        free_port(),
        free_port(),
        "  concurrency: {max: 8}",
        ", --parallel, '8', --tokens-per-second, '100000'",
    );
    let up = Up::start(&[("engine.yaml", &engine), ("work.yaml", WORK)]).await;
    up.until_ready("ollama").await;
    let endpoint = std::fs::read(up.data().join("endpoint.json")).unwrap();
    let endpoint: serde_json::Value = serde_json::from_slice(&endpoint).unwrap();
    let text = |field: &str| endpoint[field].as_str().unwrap().to_owned();
    let mut python = tokio::process::Command::new(cache().join("python/bin/python"));
    python.arg(part_script("python/client.py")).args([text("address"), text("token")]);
    let said = python.arg(up.root.join("client")).arg("1000").output().await.expect("tests/run installs Python");
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && out.contains("ok 1000 results"), "{out}\n{err}\n{}", up.log());
}
