//! What a client sees of each fault, on the wire: nothing here knows how Ostler reads it.

mod answers;
mod runners;
mod streams;

use std::time::Duration;

use ostler::engines::EngineKind;
use ostler::simulate::{SimulateOptions, SimulatedServer, Totals};
use serde_json::{Value, json};

/// Enough for a loaded machine.
const LONG: Duration = Duration::from_secs(60);
/// Enough to see that nothing comes.
const SHORT: Duration = Duration::from_millis(300);

/// A server, and a client that follows no redirects.
struct Bench {
    server: SimulatedServer,
    client: reqwest::Client,
    model: &'static str,
}

impl Bench {
    async fn new(kind: EngineKind, faults: &[&str]) -> Self {
        let mut options = SimulateOptions::new(kind);
        options.faults = faults.iter().map(|text| text.parse().expect(text)).collect();
        Self::with(options).await
    }

    async fn with(options: SimulateOptions) -> Self {
        ostler::net::install_crypto();
        let model = SimulateOptions::usual_model(options.engine);
        let server = SimulatedServer::start(options).await.expect("start");
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("client");
        Self { server, client, model }
    }

    fn set(&self, faults: &[&str]) {
        self.server.set_faults(faults.iter().map(|text| text.parse().expect(text)));
    }

    async fn get(&self, path: &str) -> (u16, String) {
        read(self.client.get(format!("{}{path}", self.server.url()))).await
    }

    async fn get_json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn request(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("{}{path}", self.server.url())).json(body)
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, String) {
        read(self.request(path, body)).await
    }

    /// A chat of OpenAI's protocol.
    fn openai(&self, stream: bool, max_tokens: u32) -> Value {
        let messages = json!([{"role": "user", "content": "hello world"}]);
        json!({"model": self.model, "stream": stream, "max_tokens": max_tokens, "messages": messages})
    }

    async fn openai_says(&self, stream: bool, max_tokens: u32) -> (u16, String) {
        self.post("/v1/chat/completions", &self.openai(stream, max_tokens)).await
    }

    /// A chat of Ollama's own protocol.
    fn native(&self, stream: bool, max_tokens: u32) -> Value {
        let messages = json!([{"role": "user", "content": "hello world"}]);
        json!({"model": self.model, "stream": stream, "options": {"num_predict": max_tokens}, "messages": messages})
    }

    async fn native_says(&self, stream: bool, max_tokens: u32) -> (u16, String) {
        self.post("/api/chat", &self.native(stream, max_tokens)).await
    }

    async fn until(&self, what: &str, holds: impl Fn(&Totals) -> bool) {
        crate::engines::eventually(what, || async { holds(&self.server.totals()) }).await;
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, String) {
    let answer = request.timeout(LONG).send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("a body"))
}

/// Whether no head of an answer comes in time.
async fn is_silent(request: reqwest::RequestBuilder) -> bool {
    request.timeout(SHORT).send().await.is_err_and(|error| error.is_timeout())
}
