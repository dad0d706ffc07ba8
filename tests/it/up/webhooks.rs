//! Somebody's own way to restart a server: a webhook, signed.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use ostler::{
    host::{
        SigningSecret,
        sign::{self, Signature},
    },
    simulate::{SimulateOptions, SimulatedServer},
};
use serde_json::Value;

use crate::real::free_port;

use super::harness::Up;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What the receiver got: the key of each call, and its body.
type Calls = Arc<Mutex<Vec<(String, Value)>>>;

async fn receive(State(calls): State<Calls>, headers: HeaderMap, body: Bytes) -> axum::http::StatusCode {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let given = Signature {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let secret = SigningSecret::parse(SECRET).unwrap();
    if sign::verify(&secret, &given, &body, jiff::Timestamp::now()).is_err() {
        return axum::http::StatusCode::UNAUTHORIZED;
    }
    calls.lock().unwrap().push((header("idempotency-key"), serde_json::from_slice(&body).unwrap()));
    axum::http::StatusCode::ACCEPTED
}

#[tokio::test]
async fn a_dead_server_is_healed_by_a_signed_webhook() {
    let (calls, listener) = (Calls::default(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let hook = listener.local_addr().unwrap();
    let router = Router::new().route("/restart", post(receive)).with_state(Arc::clone(&calls));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let port = free_port();
    let options = || {
        let mut options = SimulateOptions::new(ostler::engines::EngineKind::Ollama).with_models(&["small"]);
        options.listen = format!("127.0.0.1:{port}").parse().unwrap();
        options
    };
    let engine = SimulatedServer::start(options()).await.unwrap();
    let up = Up::start(&[(
        "all.yaml",
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: hook}}\nstringData: {{signingSecret: {SECRET}}}\n---\n\
             apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: ollama}}\nspec:\n  engine: Ollama\n  \
             url: 'http://127.0.0.1:{port}'\n  models: [{{name: small}}]\n  probe: {{periodSeconds: 1}}\n  \
             recovery: {{webhook: {{url: 'http://{hook}/restart', secretRef: {{name: hook}}}}, periodSeconds: 600}}\n"
        ),
    )])
    .await;
    up.until_ready("ollama").await;

    engine.stop().await;
    up.until("ollama", "asked for by webhook, and says so", |seen| {
        !calls.lock().unwrap().is_empty() && seen["status"]["recovery"].is_object()
    })
    .await;
    let _again = SimulatedServer::start(options()).await.unwrap();
    up.until_ready("ollama").await;
    let calls = calls.lock().unwrap();
    let [(key, body)] = calls.as_slice() else { panic!("one call: {calls:?}") };
    assert_eq!(body["idempotencyKey"], **key);
    assert_eq!(
        (&body["backend"], &body["namespace"], &body["attempt"]),
        (&"ollama".into(), &"default".into(), &1.into())
    );
    assert_eq!(body["cause"], "Refused", "{body}");
}
