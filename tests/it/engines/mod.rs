//! One suite of what an engine must do, run against the simulated servers and the real ones; and what only one can show.

mod answers;
mod canned;
mod conformance;
mod faults;
mod mlx;
mod ollama;
mod proofs;

use std::time::Duration;

use ostler::engines::{
    Endpoint, Engine, EngineError, EngineKind, InferOutcome, InferRequest, Secret, SendableModel, engine, model_to_send,
};
use ostler::net::HttpClient;

/// Enough for a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);

/// A server under test.
pub struct Subject {
    pub engine: &'static dyn Engine,
    pub at: Endpoint,
}

impl Subject {
    pub fn new(kind: EngineKind, url: &str) -> Self {
        Self::with_bearer(kind, url, None)
    }

    pub fn with_bearer(kind: EngineKind, url: &str, bearer: Option<Secret>) -> Self {
        ostler::net::install_crypto();
        let at = Endpoint::new(HttpClient::direct().expect("a client"), url.parse().expect("a URL"), bearer);
        Self { engine: engine(kind), at }
    }

    pub fn request(&self, model: &str, max_tokens: u32) -> InferRequest {
        let listed = [model.to_owned()];
        let model = model_to_send(self.engine.kind(), model, Some(&listed)).expect("it is listed");
        self.request_raw(model, max_tokens)
    }

    pub fn request_raw(&self, model: SendableModel, max_tokens: u32) -> InferRequest {
        InferRequest::simple(model, "hello world", max_tokens, LONG)
    }

    pub async fn infer(&self, model: &str, max_tokens: u32) -> Result<InferOutcome, EngineError> {
        self.engine.infer(&self.at, &self.request(model, max_tokens), &mut |_| {}).await
    }
}

/// Polls until it holds, for at most `LONG`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
