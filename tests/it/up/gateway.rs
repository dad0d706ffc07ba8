//! The gateway of `ostler up`.

use ostler::{engines::EngineKind, simulate};
use serde_json::{Value, json};

use super::harness::Up;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn agents_call_what_is_declared_under_its_limit() {
    let options = simulate::SimulateOptions::new(EngineKind::Mlx).with_models(&["own"]);
    let server = simulate::SimulatedServer::start(options).await.unwrap();
    let yaml = format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: mlx}}\nspec:\n  engine: MLX\n  url: {}\n  \
         models: [{{name: own, alias: small}}]\n  concurrency: {{max: 2}}\n",
        server.url()
    );
    let up = Up::start(&[("mlx.yaml", &yaml)]).await;
    let gateway = up.gateway();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let calls = (0..12).map(|n| {
        let body = json!({"model": "small", "stream": n % 2 == 0, "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]});
        let request = http.post(format!("{gateway}/v1/chat/completions")).json(&body).send();
        async move {
            let answer = request.await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        }
    });
    for (status, text) in futures::future::join_all(calls).await {
        assert_eq!(status, 200, "{text}\n{}", up.log());
    }
    assert!(server.log().in_flight_peak <= 2, "{} calls at once", server.log().in_flight_peak);
    let workers: Value = up.get("/api/v1/tasks/workers").await;
    assert_eq!(workers["items"], json!([]), "a gateway is no worker");
    up.until_ready("mlx").await;
}

#[tokio::test]
async fn an_address_that_was_asked_for_and_is_taken_is_told() {
    let root = Up::prepare(&[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["up", "--listen", "127.0.0.1:0", "--gateway", &address, "-f"])
        .arg(root.root.join("manifests"))
        .arg("--data-dir")
        .arg(root.data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("choose another with --gateway"), "{said}");
}
