//! What Ostler adds to each call, measured at the engine: the time from one call's end to the next one's start in a single slot,
//! against a bare client that makes the same calls one after the other, in turns.
//!
//!     [OSTLER_DATABASE_URL=postgres://…] cargo bench --bench dispatch [-- ROUNDS [CALLS]]
//!
//! Without a URL the tasks are in SQLite. Prints the p50 and p95 of each round in milliseconds, and the difference of the medians.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::{Router, body::Body, extract::State, response::Response, routing::post, serve::ListenerExt};
use futures::{StreamExt, stream};
use ostler::{
    calls::CallSecrets,
    cli::bench::Bench,
    engines::{Endpoint, EngineKind, InferRequest, engine, model_to_send},
    net::HttpClient,
    store::{
        self, Admission, BackendRow, DatabaseUrl, DeclaredRow, Fence, Home, ServerRow, Store, sqlite::FolderAccess,
    },
    tasks::{Assignment, NewTask, Payload},
    telemetry::{Loops, Metrics},
    worker::{Timings, Worker, WorkerParts},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NS: &str = "bench";
const MODEL: &str = "tiny";
/// How long the engine takes for a call.
const CALL: Duration = Duration::from_millis(5);

fn main() {
    ostler::net::install_crypto();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut number = |default: usize| args.next().map_or(default, |arg| arg.parse().expect("a number"));
    let (rounds, calls) = (number(3), number(500));
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(run(rounds, calls));
}

async fn run(rounds: usize, calls: usize) {
    let engine = Timed::start().await;
    let home = Database::new().await;
    let shop = Shop::new(&home, &engine.url).await;
    println!("gap between two calls in one slot, in ms, at the engine ({})", home.name);
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        bare_calls(&engine.url, calls).await;
        bare.push(told(round, "bare client", engine.gaps()));
        shop.work(calls).await;
        ours.push(told(round, "ostler", engine.gaps()));
    }
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!("overhead p50: {:.3} ms a call", middle(ours) - middle(bare));
    home.end().await;
}

/// Prints a round; returns its median.
fn told(round: usize, who: &str, mut gaps: Vec<f64>) -> f64 {
    gaps.sort_by(f64::total_cmp);
    let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share) as usize];
    println!("round {round}  {who:<12} p50 {:>7.3}  p95 {:>7.3}  of {}", at(0.5), at(0.95), gaps.len());
    at(0.5)
}

/// An engine that notes when calls begin and end.
#[derive(Clone)]
struct Timed {
    url: String,
    seen: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Timed {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        // As engines do: else a token waits for the client's acknowledgement of the one before.
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).expect("set an option"));
        let timed = Self { url, seen: Arc::default() };
        let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(timed.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        timed
    }

    /// Milliseconds from each end to the next begin; forgets all.
    fn gaps(&self) -> Vec<f64> {
        let seen = std::mem::take(&mut *self.seen.lock().expect("no panic"));
        seen.windows(2).map(|two| two[1].0.saturating_duration_since(two[0].1).as_secs_f64() * 1000.0).collect()
    }
}

async fn answer(State(timed): State<Timed>) -> Response {
    let begun = Instant::now();
    let token = json!({"choices": [{"index": 0, "delta": {"content": "hay"}, "finish_reason": null}]});
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let pieces = [format!("data: {token}\n\n"), format!("data: {last}\n\ndata: [DONE]\n\n")];
    let body = stream::iter(pieces.into_iter().enumerate()).then(move |(place, piece)| {
        let timed = timed.clone();
        async move {
            if place == 1 {
                tokio::time::sleep(CALL).await;
                timed.seen.lock().expect("no panic").push((begun, Instant::now()));
            }
            Ok::<_, std::io::Error>(piece)
        }
    });
    Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(body)).expect("a response")
}

async fn bare_calls(url: &str, calls: usize) {
    let at = Endpoint::new(client(), url.parse().expect("a URL"), None);
    let model = model_to_send(EngineKind::OpenAi, MODEL, None).expect("a name");
    for n in 0..calls {
        let request = InferRequest::simple(model.clone(), format!("hello {n}"), 8, Duration::from_secs(20));
        engine(EngineKind::OpenAi).infer(&at, &request, &mut |_| {}).await.expect("an answer");
    }
}

fn client() -> HttpClient {
    HttpClient::direct().expect("a client")
}

/// A database that goes when the benchmark ends.
struct Database {
    name: &'static str,
    home: Home,
    scratch: Option<Bench>,
}

impl Database {
    async fn new() -> Self {
        match std::env::var("OSTLER_DATABASE_URL") {
            Ok(url) => {
                let url: DatabaseUrl = url.parse().expect("a URL");
                let bench = Bench::new(&url).await.expect("make a schema");
                Self { name: "PostgreSQL", home: Home::Postgres(bench.url.clone()), scratch: Some(bench) }
            }
            Err(_) => {
                let path = std::env::temp_dir().join(format!("ostler-dispatch-{}", uuid::Uuid::new_v4()));
                Self { name: "SQLite", home: Home::Folder { path, hold: FolderAccess::Lock }, scratch: None }
            }
        }
    }

    async fn end(self) {
        match (self.scratch, self.home) {
            (Some(bench), _) => bench.drop_schema().await.expect("drop the schema"),
            (None, Home::Folder { path, .. }) => drop(std::fs::remove_dir_all(path)),
            (None, Home::Postgres(_)) => {}
        }
    }
}

/// A queue whose tasks go to the engine, one at a time.
struct Shop {
    store: Arc<dyn Store>,
    fence: Fence,
}

impl Shop {
    async fn new(home: &Database, url: &str) -> Self {
        let store = store::open(&home.home, None).await.expect("open");
        let fence = store.campaign("bench", Duration::from_secs(3600)).await.expect("campaign").expect("the lead");
        let shop = Self { store, fence };
        shop.declare("TaskQueue", "q", json!({})).await;
        shop.declare("WorkerPool", "p", json!({"queueRefs": [{"name": "q"}]})).await;
        shop.declare("Expert", "igor", json!({"model": "small", "maxConcurrentTasks": 100})).await;
        let spec = json!({"engine": "OpenAI", "url": url, "models": [{"name": MODEL, "alias": "small"}]});
        let row = BackendRow {
            uid: "dispatch".into(),
            namespace: NS.into(),
            name: "engine".into(),
            generation: 1,
            engine: "OpenAI".into(),
            url: url.into(),
            server_url: url.into(),
            priority: 1,
            spec,
            state: "Serving".into(),
            reason: "Serving".into(),
            ready: true,
            ready_since: None,
        };
        shop.store.project_backend(&shop.fence, &row).await.expect("project");
        let server =
            ServerRow { url: url.into(), limit: 1, admission: Admission::Open, instance: None, calls_per_day: None };
        shop.store.put_server(&shop.fence, &server).await.expect("put the server");
        shop
    }

    async fn declare(&self, kind: &str, name: &str, spec: Value) {
        let row = DeclaredRow {
            uid: format!("dispatch-{kind}-{name}"),
            kind: kind.into(),
            namespace: NS.into(),
            name: name.into(),
            generation: 1,
            labels: BTreeMap::new(),
            spec,
            suspended: false,
            held: None,
        };
        self.store.project_declared(&self.fence, &row).await.expect("project");
    }

    /// Inserts so many tasks and has them done.
    async fn work(&self, calls: usize) {
        let task = |n: usize| NewTask {
            namespace: NS.into(),
            queue: "q".into(),
            domain: "d".into(),
            role: "r".into(),
            payload: Payload { prompt: Some(format!("hello {n}")), ..Payload::default() },
            ..NewTask::default()
        };
        let tasks: Vec<_> = (0..calls).map(task).collect();
        let inserted = self.store.insert_tasks(&tasks).await.expect("insert");
        let assign = |one: &store::Inserted| Assignment {
            task: one.id,
            expert: "igor".into(),
            model: Some("small".into()),
            reason: "domain",
            candidates: [].into(),
        };
        let assignments: Vec<_> = inserted.iter().map(assign).collect();
        self.store.assign(&self.fence, &assignments).await.expect("assign");
        let (stop, spool) = (CancellationToken::new(), std::env::temp_dir().join("ostler-dispatch-spool"));
        let worker = Worker::new(WorkerParts {
            store: Arc::clone(&self.store),
            secrets: Arc::new(NoSecrets),
            http: client(),
            metrics: Metrics::new().worker,
            loops: Loops::new(),
            holder: format!("dispatch-{}", uuid::Uuid::new_v4()),
            host: "here".into(),
            namespace: NS.into(),
            pool: "p".into(),
            spool,
            timings: Timings::default(),
        });
        let running = tokio::spawn(worker.expect("a spool").run(stop.clone()));
        let open = async || {
            let counts = self.store.queue_counts().await.expect("count");
            counts.iter().map(|of| of.pending + of.in_progress).sum::<i64>()
        };
        while open().await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.cancel();
        running.await.expect("no panic");
    }
}

/// There are no secrets.
struct NoSecrets;

#[async_trait]
impl CallSecrets for NoSecrets {
    async fn data(&self, _: &str, name: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
        Err(format!("there is no Secret {name}"))
    }
}
