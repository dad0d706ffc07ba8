//! Worker processes, PostgreSQL, Ollama and MLX, all of them real; what is in flight is counted before the engines.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures::Stream;
use nix::sys::signal::Signal;
use ostler::tasks::{AttemptClass, Payload, TaskState};
use serde_json::{Value, json};

use super::{
    eventually,
    shop::{Process, Shop, new_task},
};
use crate::{
    real::{Mlx, Ollama, Postgres},
    store::bench::Bench,
};

/// Passes requests on to a server, and counts those that are under way.
#[derive(Clone)]
struct Counter {
    target: String,
    http: reqwest::Client,
    open: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
    posts: Arc<AtomicUsize>,
}

impl Counter {
    async fn start(target: String) -> (String, Self) {
        ostler::telemetry::install_crypto();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let counter = Self { target, http, open: Arc::default(), peak: Arc::default(), posts: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(pass).with_state(counter.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (url, counter)
    }

    fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    fn posts(&self) -> usize {
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

const EXPERTS: [&str; 8] = ["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"];

async fn experts(shop: &Shop) {
    for name in EXPERTS {
        let parameters = json!({"maxTokens": 6, "timeoutSeconds": 30});
        shop.expert_with(name, json!({"model": "small", "parameters": parameters})).await;
    }
}

async fn end(processes: Vec<Process>) {
    for mut process in processes {
        process.signal(Signal::SIGTERM);
        assert_eq!(process.ended().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_engines_do_real_tasks_from_four_processes_one_killed_and_a_database_restarted() {
    let parts = tokio::task::spawn_blocking(|| (Postgres::start(), Mlx::start(), Ollama::start()));
    let (postgres, mlx, ollama) = parts.await.expect("parts");
    let shop = Shop::on(Bench::at(&postgres.database()).await).await;
    shop.queue(json!({"leaseSeconds": 10, "retry": {"backoffSeconds": 1}})).await;
    let (mlx_url, at_mlx) = Counter::start(mlx.url()).await;
    let (ollama_url, at_ollama) = Counter::start(ollama.url()).await;
    shop.backend("mlx", "MLX", &mlx_url, &[json!({"name": mlx.model(), "alias": "small"})], 2, 10).await;
    shop.backend("ollama", "Ollama", &ollama_url, &[json!({"name": Ollama::MODEL, "alias": "small"})], 4, 20).await;
    experts(&shop).await;
    let ids = shop.give(405, &EXPERTS, Some("small")).await;
    let mut processes: Vec<_> = (0..4).map(|_| shop.process()).collect();
    eventually("some to be done", || async { shop.in_state(TaskState::Completed).await >= 50 }).await;
    let mut victim = processes.remove(0);
    victim.signal(Signal::SIGKILL);
    assert_eq!(victim.ended().await, None);
    eventually("more to be done", || async { shop.in_state(TaskState::Completed).await >= 100 }).await;
    let postgres = tokio::task::spawn_blocking(move || {
        postgres.restart();
        postgres
    });
    let _postgres = postgres.await.expect("restarted");
    eventually("the database to be back", || async { shop.store().queue_counts().await.is_ok() }).await;
    shop.until_completed(&ids).await;
    end(processes).await;
    assert!(at_mlx.peak() <= 2, "MLX had {} at once", at_mlx.peak());
    assert!(at_ollama.peak() <= 4, "Ollama had {} at once", at_ollama.peak());
    assert!(at_mlx.posts() > 50 && at_ollama.posts() > 50, "{} and {}", at_mlx.posts(), at_ollama.posts());
    for task in shop.tasks(&ids).await {
        let done = task.attempts.iter().filter(|attempt| attempt.class == AttemptClass::Ok).count();
        assert_eq!((task.state, done), (TaskState::Completed, 1), "{task:?}");
        assert!(task.attempts.iter().all(|attempt| attempt.class != AttemptClass::Retryable), "{task:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_ollama_embeds_and_answers_by_schema() {
    let ollama = tokio::task::spawn_blocking(Ollama::start).await.expect("Ollama");
    let shop = Shop::sqlite().await;
    let models: Vec<Value> = vec![json!({"name": Ollama::MODEL, "alias": "small"})];
    shop.backend("ollama", "Ollama", &ollama.url(), &models, 2, 10).await;
    shop.expert_with("igor", json!({"model": "small", "parameters": {"maxTokens": 40, "timeoutSeconds": 30}})).await;
    shop.expert_with("vera", json!({"model": "small", "handler": "Embed"})).await;
    let schema = json!({"type": "object", "properties": {"n": {"enum": ["yes", "no"]}}, "required": ["n"], "additionalProperties": false});
    let asked = Payload { prompt: Some("yes or no?".into()), schema: Some(schema), ..Payload::default() };
    let texts = Payload { input: Some(vec!["hay".into(), "oats".into()]), ..Payload::default() };
    let chat = shop.give_these(&[new_task(asked)], &["igor"], Some("small")).await[0];
    let embed = shop.give_these(&[new_task(texts)], &["vera"], Some("small")).await[0];
    let worker = shop.worker().await;
    eventually("their ends", || async {
        let (chat, embed) = (shop.task(chat).await, shop.task(embed).await);
        let over = |state: TaskState| state.is_terminal() || state == TaskState::DeferredToHuman;
        over(chat.state) && over(embed.state)
    })
    .await;
    worker.end().await;
    let chat = shop.task(chat).await;
    if chat.state == TaskState::Completed {
        assert!(
            ["yes", "no"].contains(&chat.result.as_ref().expect("a result")["json"]["n"].as_str().expect("a word"))
        );
    } else {
        // A tiny model may say spaces until it is cut off.
        assert!(chat.reason.as_deref().is_some_and(|reason| reason.contains("max_tokens")), "{chat:?}");
    }
    let embed = shop.task(embed).await;
    let vectors = embed.result.as_ref().and_then(|result| result["vectors"].as_array()).map(Vec::len);
    assert!(vectors == Some(2) || embed.reason.as_deref().is_some_and(|r| r.contains("embed")), "{embed:?}");
}
