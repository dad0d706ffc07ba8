//! A gateway in this process, and an engine that answers what it is told to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::HeaderMap,
    response::Response,
};
use futures::StreamExt;
use ostler::{
    gateway::{Gateway, GatewayParts, GatewayTimings, Origins},
    net::HttpClient,
    telemetry::{Loops, Metrics},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::worker::{
    PATIENCE, eventually,
    shop::{Given, NS, Shop},
};

/// A gateway and its database.
pub struct Gate {
    pub shop: Shop,
    pub url: String,
    pub http: reqwest::Client,
    stop: CancellationToken,
    running: JoinHandle<std::io::Result<()>>,
}

impl Gate {
    pub async fn start(shop: Shop) -> Self {
        Self::start_with(shop, GatewayTimings::default()).await
    }

    pub async fn start_with(shop: Shop, timings: GatewayTimings) -> Self {
        let (url, stop, running) = open(&shop, timings).await;
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let gate = Self { shop, url, http, stop, running };
        // It reads what is declared by itself.
        eventually("the aliases are known", || async {
            let listed: Value = gate.get("/v1/models").await.json().await.expect("JSON");
            listed["data"].as_array().is_some_and(|data| !data.is_empty())
        })
        .await;
        gate
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer")
    }

    pub fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).json(body)
    }

    pub async fn answer(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// No slot of the server is occupied.
    pub async fn until_free(&self, server_url: &str) {
        eventually("all slots to be free", || async { self.shop.occupied(server_url).await == 0 }).await;
    }

    /// As SIGTERM does.
    pub async fn end(self) -> Shop {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.running).await.expect("it ends").expect("no panic").expect("it served");
        self.shop
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// Another gateway on the same database.
pub async fn open(
    shop: &Shop,
    timings: GatewayTimings,
) -> (String, CancellationToken, JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let gateway = Gateway::new(GatewayParts {
        store: shop.bench.peer().await,
        secrets: Arc::new(Given::default()),
        http: HttpClient::direct().expect("a client"),
        loops: Loops::new(),
        metrics: Metrics::new().gateway.clone(),
        holder: format!("gateway-{}", uuid::Uuid::new_v4()),
        host: "here".to_owned(),
        namespace: NS.to_owned(),
        origins: Origins::default(),
        timings,
    });
    let stop = CancellationToken::new();
    let running = tokio::spawn(gateway.run(listener, stop.clone()));
    (url, stop, running)
}

/// Short times, so that a test need not wait for what takes a minute.
pub fn quick() -> GatewayTimings {
    GatewayTimings {
        wait_streamed: Duration::from_secs(2),
        wait_whole: Duration::from_secs(1),
        commit: Duration::from_millis(300),
        beat: Duration::from_millis(200),
        ..GatewayTimings::default()
    }
}

pub fn chat(stream: bool) -> Value {
    json!({"model": "small", "stream": stream, "max_tokens": 20, "messages": [{"role": "user", "content": "hello"}]})
}

/// What an engine was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What it answers: a status, a content type, and pieces with pauses between them.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub pieces: Vec<(Duration, Bytes)>,
}

impl Reply {
    pub fn of(status: u16, content_type: &'static str, pieces: &[&str]) -> Self {
        let pieces = pieces.iter().map(|piece| (Duration::from_millis(5), Bytes::copy_from_slice(piece.as_bytes())));
        Self { status, content_type, pieces: pieces.collect() }
    }
}

/// An engine that answers everything with the same bytes.
pub struct Canned {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Canned {
    pub async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let router = Router::new().fallback(answer).with_state((Arc::clone(&asked), reply));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url: format!("http://{address}"), asked }
    }

    /// The inferences that it was asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn answer(State((asked, reply)): State<(Arc<Mutex<Vec<Asked>>>, Reply)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    asked.lock().expect("no panic").push(Asked { path: parts.uri.path().to_owned(), headers: parts.headers, body });
    let pieces = futures::stream::iter(reply.pieces).then(|(pause, piece)| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, std::io::Error>(piece)
    });
    Response::builder()
        .status(reply.status)
        .header("content-type", reply.content_type)
        .header("x-request-id", "of the engine")
        .header("set-cookie", "session=1")
        .body(Body::from_stream(pieces))
        .expect("a response")
}
