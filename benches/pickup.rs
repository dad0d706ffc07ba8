//! How long a task waits for a worker that is free: from the answer to its insertion until it is in progress, beside what that may take.
//!
//!     cargo bench --bench pickup [-- TASKS]
//!
//! One process leads and works (`ostler up` of a folder with one webhook expert); this one inserts tasks, one after the other, with pauses,
//! and answers the webhook, so that each finds everybody idle.
//! In a data folder (SQLite, across processes), and with OSTLER_DATABASE_URL in PostgreSQL too.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ostler::cli::bench::database_url;
use ostler::store::{self, DatabaseUrl, Home, Store, Topics, drop_schema, sqlite::FolderAccess};
use ostler::tasks::{NewTask, Payload, TaskState};
use rand::Rng;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
const MANIFESTS: &str = "
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: hook}
spec: {domains: [any], handler: Webhook, webhook: {url: \"WEBHOOK\"}, maxConcurrentTasks: 1000}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {defaultExpertRef: {name: hook}, retry: {maxAttempts: 1}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: default}
spec: {queueRefs: [{name: default}], concurrency: {max: 100}}
";

fn main() {
    ostler::net::install_crypto();
    let tasks = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(200);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        measure(None, tasks, Duration::from_millis(50)).await;
        if let Ok(url) = std::env::var("OSTLER_DATABASE_URL") {
            measure(Some(url.parse().expect("a URL")), tasks, Duration::from_millis(10)).await;
        }
    });
}

struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn measure(database: Option<DatabaseUrl>, tasks: usize, goal: Duration) {
    let url = database.map(|url| url.with_schema(&format!("ostler_pickup_{}", std::process::id())).expect("a name"));
    let folder = std::env::temp_dir().join(format!("ostler-pickup-{}", std::process::id()));
    let manifests = folder.join("manifests");
    std::fs::create_dir_all(&manifests).expect("make a folder");
    let webhook = webhook().await;
    std::fs::write(manifests.join("all.yaml"), MANIFESTS.replace("WEBHOOK", &webhook)).expect("write the manifests");
    let up = start(&folder, &manifests, url.as_ref());
    let home = match &url {
        Some(url) => Home::Postgres(url.clone()),
        None => Home::Folder { path: folder.join("data"), hold: FolderAccess::Share },
    };
    let store = opened(&home).await;
    while store.declared("WorkerPool").await.map_or(true, |pools| pools.is_empty()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut waits = Vec::with_capacity(tasks);
    for _ in 0..tasks {
        // Longer than rounds are apart at least: each finds everybody asleep.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(150..450))).await;
        waits.push(pickup(&*store).await);
    }
    waits.sort();
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    let (median, p95) = (at(50), at(95));
    println!(
        "picked up, {}: median {median:.1?}, p95 {p95:.1?}, longest {:.1?}   goal: p95 at most {goal:?}{}",
        if url.is_some() { "PostgreSQL" } else { "SQLite, in another process" },
        waits[waits.len() - 1],
        if p95 <= goal { "" } else { "   MISSED" }
    );
    drop((up, store));
    if let Some(url) = url {
        drop_schema(&url).await.expect("drop the schema");
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// Answers each call at once; returns where.
async fn webhook() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://{}/done", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = connection.read(&mut [0; 8192]).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

async fn opened(home: &Home) -> Arc<dyn Store> {
    loop {
        match store::open(home, None).await {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn start(folder: &Path, manifests: &Path, url: Option<&DatabaseUrl>) -> Up {
    let mut command = Command::new(OSTLER);
    command.args(["up", "--listen", "127.0.0.1:0", "-f"]).arg(manifests).arg("--data-dir").arg(folder.join("data"));
    match url {
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
    Up(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start `up`"))
}

/// The database tells when a task was claimed; by whose clock does not matter, because it is the same one.
async fn pickup(store: &dyn Store) -> Duration {
    let mut started = store.follow(Topics::STARTED | Topics::ENDED);
    let task = NewTask {
        namespace: "default".into(),
        queue: "default".into(),
        domain: "any".into(),
        payload: Payload { prompt: Some("nothing".into()), ..Payload::default() },
        ..NewTask::default()
    };
    let inserted = store.insert_tasks(&[task]).await.expect("insert");
    let began = Instant::now();
    loop {
        let task = store.task(inserted[0].id).await.expect("read").expect("it is there");
        if task.state != TaskState::Pending {
            let begun = task.attempts.last().map_or(task.state_since, |attempt| attempt.started_at);
            return begun.duration_since(task.created_at).try_into().unwrap_or_default();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "nobody takes it");
        started.changed(Duration::from_millis(20)).await;
    }
}
