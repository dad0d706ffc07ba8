//! What people write wrongly is named, and everything else keeps running.

use std::time::Duration;

use crate::real::free_port;

use super::{
    harness::{Up, condition, is_ready, state},
    healing::{engines_on, manifests},
};

fn remote(name: &str, port: u16, extra: &str) -> String {
    format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: {name}}}\nspec:\n  engine: Ollama\n  url: http://127.0.0.1:{port}\n{extra}\n"
    )
}

#[tokio::test]
async fn a_broken_manifest_is_named_with_file_line_and_field_and_the_rest_runs() {
    let port = free_port();
    let up = Up::start(&[
        ("good.yaml", &manifests(port, free_port(), "", "")),
        ("unknown.yaml", &remote("unknown", 1, "  modles: []")),
        ("type.yaml", &remote("type", 2, "  priority: high")),
        ("cel.yaml", &remote("cel", 3, "  recovery: {maxAttempts: 3}")),
        ("broken.yaml", "kind: [LLMBackend\n"),
    ])
    .await;
    up.until_ready("ollama").await;
    let problems = up.get("/api/v1/problems").await.to_string();
    for (file, field) in
        [("unknown.yaml", "modles"), ("type.yaml", "priority"), ("cel.yaml", "recovery"), ("broken.yaml", "")]
    {
        assert!(problems.contains(file) && problems.contains(field), "{file} {field}: {problems}");
    }
    assert!(up.log().contains("unknown.yaml:"), "{}", up.log());
    up.write("unknown.yaml", &remote("unknown", port, "  models: []"));
    up.until("unknown", "known", |b| state(b) == "DuplicateServer").await;
}

#[tokio::test]
async fn a_missing_reference_is_on_the_resources_condition() {
    let secret = "  authSecretRef: {name: nowhere}";
    let agent = "  recovery: {hostAgentRef: {name: nobody}, service: x}";
    let up = Up::start(&[
        ("secret.yaml", &remote("secret", free_port(), secret)),
        ("agent.yaml", &remote("agent", free_port(), agent)),
    ])
    .await;
    let secret = up.until("secret", "without its Secret", |b| state(b) == "SecretMissing").await;
    assert!(condition(&secret, "Ready")["message"].as_str().unwrap().contains("nowhere"));
    assert_eq!(condition(&secret, "Stalled")["status"], "True");
    let agent = up.until("agent", "without its agent", |b| state(b) == "HostAgentMissing").await;
    assert!(condition(&agent, "Ready")["message"].as_str().unwrap().contains("nobody"));
}

#[tokio::test]
async fn a_branch_switch_that_empties_the_folder_deletes_nothing() {
    let port = free_port();
    let up = Up::start(&[("all.yaml", &manifests(port, free_port(), "", ""))]).await;
    let before = up.until_ready("ollama").await;
    up.remove("all.yaml");
    // Longer than the debouncing of the folder; a deletion would take 30 s more, so that the uid tells as well.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let still = up.backend("ollama").await;
    assert!(is_ready(&still));
    up.write("all.yaml", &manifests(port, free_port(), "", ""));
    let after = up.until_ready("ollama").await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(engines_on(port).len(), 1);
}
