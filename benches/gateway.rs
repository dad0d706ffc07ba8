//! What the gateway adds to a call, to a chunk of a stream, and how its memory grows: the same calls to an engine in this process, directly
//! and through the gateway of an `ostler up`, in turns.
//!
//!     [OSTLER_DATABASE_URL=postgres://…] cargo bench --bench gateway [-- ROUNDS [CALLS [CHUNKS]]]
//!
//! In a data folder (SQLite), and with OSTLER_DATABASE_URL in PostgreSQL too. CPU time is that of the whole `up`, less what it takes idle.

#![allow(clippy::disallowed_methods, reason = "a test asks as anybody may")]

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
    routing::{get, post},
    serve::ListenerExt,
};
use futures::{StreamExt, stream};
use ostler::cli::bench::{database_url, median};
use ostler::store::{DatabaseUrl, drop_schema};
use serde_json::{Value, json};

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
const WHOLE: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"hay"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
/// Clock ticks of a second in `/proc`.
const TICKS: f64 = 100.0;

fn main() {
    ostler::net::install_crypto();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut number = |default: usize| args.next().map_or(default, |arg| arg.parse().expect("a number"));
    let (rounds, calls, chunks) = (number(5), number(300), number(50_000));
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        measure(None, (rounds, calls, chunks), 0.7).await;
        if let Ok(url) = std::env::var("OSTLER_DATABASE_URL") {
            measure(Some(url.parse().expect("a URL")), (rounds, calls, chunks), 1.8).await;
        }
    });
}

/// An `ostler up` that serves one engine.
struct Gateway {
    child: Child,
    folder: PathBuf,
    url: String,
}

impl Gateway {
    fn start(engine: &str, database: Option<&DatabaseUrl>) -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-gateway-bench-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(folder.join("manifests")).expect("make a folder");
        let manifest = json!({
            "apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackend", "metadata": {"name": "engine"},
            "spec": {"engine": "OpenAI", "url": engine, "models": [{"name": "small"}], "concurrency": {"max": 4}},
        });
        std::fs::write(folder.join("manifests/engine.yaml"), manifest.to_string()).expect("write the manifest");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(OSTLER);
        command.args(["up", "--listen", "127.0.0.1:0", "--gateway", &address, "-f"]).arg(folder.join("manifests"));
        command.arg("--data-dir").arg(folder.join("data")).stdout(Stdio::null()).stderr(Stdio::null());
        match database {
            Some(url) => {
                let migrated = Command::new(OSTLER)
                    .arg("migrate")
                    .env("OSTLER_DATABASE_URL", database_url(url).expect("a URL"))
                    .status();
                assert!(migrated.expect("run migrate").success());
                command.env("OSTLER_DATABASE_URL", database_url(url).expect("a URL"));
            }
            None => _ = command.env_remove("OSTLER_DATABASE_URL"),
        }
        Self { child: command.spawn().expect("start `up`"), folder, url: format!("http://{address}") }
    }

    async fn until_ready(&self, http: &reqwest::Client) {
        let begun = Instant::now();
        loop {
            let listed = http.get(format!("{}/v1/models", self.url)).send().await;
            let listed = match listed {
                Ok(listed) => listed.json::<Value>().await.unwrap_or_default(),
                Err(_) => Value::Null,
            };
            if listed["data"][0]["ready"] == true {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the backend is not ready: {listed}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Seconds of CPU time.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let of = |at: usize| fields.split(' ').nth(at).and_then(|ticks| ticks.parse::<f64>().ok()).expect("a number");
        (of(11) + of(12)) / TICKS
    }

    fn rss_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn measure(database: Option<DatabaseUrl>, (rounds, calls, chunks): (usize, usize, usize), goal: f64) {
    let url = database.map(|url| url.with_schema(&format!("ostler_gateway_{}", std::process::id())).expect("a name"));
    let engine = engine(chunks).await;
    let gateway = Gateway::start(&engine, url.as_ref());
    let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client");
    gateway.until_ready(&http).await;
    println!("through the gateway, {}", if url.is_some() { "PostgreSQL" } else { "SQLite" });
    let idle = {
        let (before, begun) = (gateway.cpu(), Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        (gateway.cpu() - before) / begun.elapsed().as_secs_f64()
    };
    // Its first calls warm both up.
    one_by_one(&http, &gateway.url, calls).await;
    let memory = gateway.rss_mib();
    let (mut added, mut per_call) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let direct = one_by_one(&http, &engine, calls).await;
        let (before, begun) = (gateway.cpu(), Instant::now());
        let through = one_by_one(&http, &gateway.url, calls).await;
        let cpu = gateway.cpu() - before - idle * begun.elapsed().as_secs_f64();
        println!("round {round}  p50 direct {direct:.3} ms, through {through:.3} ms");
        added.push(through - direct);
        per_call.push(cpu.max(0.0) * 1e6 / calls as f64);
    }
    let (mut per_chunk, mut ratio) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let direct = stream_whole(&http, &engine).await;
        let (before, begun) = (gateway.cpu(), Instant::now());
        let through = stream_whole(&http, &gateway.url).await;
        let cpu = gateway.cpu() - before - idle * begun.elapsed().as_secs_f64();
        per_chunk.push(cpu.max(0.0) * 1e6 / chunks as f64);
        ratio.push(through / direct);
    }
    let told = |what: &str, mut all: Vec<f64>, goal: f64, unit: &str| {
        let middle = median(&mut all);
        println!(
            "{what:<28} {middle:>8.3} {unit}  goal: at most {goal} {unit}{}",
            if middle <= goal { "" } else { "  MISSED" }
        );
    };
    told("added to a call, p50", added, goal, "ms");
    told("CPU of a call", per_call, 250.0, "µs");
    told("CPU of a chunk", per_chunk, 8.0, "µs");
    println!("a stream takes {:.2} times as long as a direct one", median(&mut ratio));
    println!("memory {memory:.1} MiB before, {:.1} MiB after", gateway.rss_mib());
    drop(gateway);
    if let Some(url) = url {
        drop_schema(&url).await.expect("drop the schema");
    }
}

/// Whole answers, one after the other: the median in milliseconds.
async fn one_by_one(http: &reqwest::Client, base: &str, calls: usize) -> f64 {
    let mut took = Vec::with_capacity(calls);
    for _ in 0..calls {
        let begun = Instant::now();
        let answer = ask(http, base, false).await.bytes().await.expect("a body");
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(answer.len(), WHOLE.len());
    }
    median(&mut took)
}

/// One long stream: seconds.
async fn stream_whole(http: &reqwest::Client, base: &str) -> f64 {
    let begun = Instant::now();
    let mut pieces = ask(http, base, true).await.bytes_stream();
    while let Some(piece) = pieces.next().await {
        piece.expect("a piece");
    }
    begun.elapsed().as_secs_f64()
}

async fn ask(http: &reqwest::Client, base: &str, stream: bool) -> reqwest::Response {
    let body = json!({"model": "small", "stream": stream, "messages": [{"role": "user", "content": "hello"}]});
    let answer = http.post(format!("{base}/v1/chat/completions")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer
}

/// An engine that answers at once, or streams so many chunks as fast as they are read.
async fn engine(chunks: usize) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let listener = listener.tap_io(|connection| connection.set_nodelay(true).expect("set an option"));
    let answer = async move |body: Bytes| {
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        // A canary wants one token.
        if asked["stream"] != true || asked["max_tokens"] == 1 {
            return Response::builder().header("content-type", "application/json").body(Body::from(WHOLE));
        }
        let token =
            Bytes::from(format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": "hay"}}]})));
        let last = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        let pieces = stream::iter(std::iter::repeat_n(token, chunks)).chain(stream::iter([Bytes::from(last)]));
        let body = Body::from_stream(pieces.map(Ok::<_, std::io::Error>));
        Response::builder().header("content-type", "text/event-stream").body(body)
    };
    let models = async || axum::Json(json!({"object": "list", "data": [{"id": "small", "object": "model"}]}));
    let router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(async move |body: Bytes| answer(body).await.expect("a response")));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
