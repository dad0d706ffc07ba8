use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures::Stream;

/// Passes requests on to a server, and counts those that are under way.
#[derive(Clone)]
pub struct Counter {
    target: String,
    /// Each inference takes so much longer.
    distance: Duration,
    http: reqwest::Client,
    open: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    posts: Arc<AtomicUsize>,
}

impl Counter {
    /// In front of `target`, on a port of its own at `address`, until the runtime ends. Returns its URL.
    pub async fn start(address: &str, target: String) -> (String, Self) {
        Self::far(address, target, Duration::ZERO).await
    }

    /// As if the server were far away, or large: calls last, and none of the machine's time is used.
    pub async fn far(address: &str, target: String, distance: Duration) -> (String, Self) {
        ostler::net::install_crypto();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let (open, peak, posts) = (Arc::default(), Arc::default(), Arc::default());
        let counter = Self { target, distance, http, open, peak, posts };
        let listener = tokio::net::TcpListener::bind((address, 0)).await.expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(pass).with_state(counter.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, counter)
    }

    /// The most calls at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// The calls now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    pub fn posts(&self) -> usize {
        self.posts.load(Ordering::SeqCst)
    }
}

/// One request under way.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A body that is under way until it ends or nobody wants it any more.
struct Counted<S> {
    body: Pin<Box<S>>,
    open: Option<Open>,
}

/// The last words of a streamed generation: OpenAI's (and MLX's), Ollama's.
const ENDS: [&[u8]; 2] = [b"[DONE]", b"\"done\":true"];

impl<S: Stream<Item = Result<Bytes, reqwest::Error>>> Stream for Counted<S> {
    type Item = Result<Bytes, reqwest::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.body.as_mut().poll_next(cx);
        // The engine has ended with these words: whoever reads them may free the slot before this connection is closed.
        if matches!(&next, Poll::Ready(Some(Ok(chunk))) if ENDS.iter().any(|end| chunk.windows(end.len()).any(|w| w == *end)))
        {
            self.open = None;
        }
        next
    }
}

async fn pass(State(counter): State<Counter>, request: Request) -> Response {
    let open = (request.method() == "POST").then(|| {
        let now = counter.open.fetch_add(1, Ordering::SeqCst) + 1;
        counter.peak.fetch_max(now, Ordering::SeqCst);
        counter.posts.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(&counter.open))
    });
    if open.is_some() {
        tokio::time::sleep(counter.distance).await;
    }
    let url = format!("{}{}", counter.target, request.uri());
    let method = request.method().clone();
    let body = axum::body::to_bytes(request.into_body(), 1 << 22).await.expect("a body");
    match counter.http.request(method, url).header("content-type", "application/json").body(body).send().await {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            if let Some(kind) = answer.headers().get("content-type") {
                response = response.header("content-type", kind);
            }
            let body = Counted { body: Box::pin(answer.bytes_stream()), open };
            response.body(Body::from_stream(body)).expect("a response")
        }
        Err(error) => Response::builder().status(502).body(Body::from(error.to_string())).expect("a response"),
    }
}
