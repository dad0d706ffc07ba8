//! What a thousand backends cost beyond their requests: CPU time of `ostler up` against a bare HTTP client that asks the same
//! servers as often, in turns, each in a process of its own.
//!
//!     cargo bench --bench probes [-- ROUNDS]
//!
//! Prints CPU milliseconds per probe of each round and the ratio of the two.

#![allow(clippy::disallowed_methods, reason = "a test asks as anybody may")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::{Json, Router, routing::get};
use serde_json::json;

const BACKENDS: usize = 1000;
const PERIOD: Duration = Duration::from_secs(2);
/// Start-up, first passes and the writing of a thousand statuses are not what a steady system costs.
const WARM_UP: Duration = Duration::from_secs(30);
const MEASURED: Duration = Duration::from_secs(30);

fn main() {
    ostler::net::install_crypto();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    match args.first().map(String::as_str) {
        Some("serve") => runtime.block_on(serve()),
        Some("bare") => runtime.block_on(bare(&args[1..])),
        rounds => compare(rounds.and_then(|r| r.parse().ok()).unwrap_or(3)),
    }
}

/// A thousand servers that list one model; prints their ports.
async fn serve() {
    let listing = || async { Json(json!({"object": "list", "data": [{"id": "small", "object": "model"}]})) };
    let router = Router::new().route("/v1/models", get(listing));
    for _ in 0..BACKENDS {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        println!("{}", listener.local_addr().expect("an address").port());
        let router = router.clone();
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    std::future::pending().await
}

/// Asks each server once a period, reads the whole answer, and does nothing with it.
async fn bare(ports: &[String]) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (n, port) in ports.iter().enumerate() {
        let (client, url) = (client.clone(), format!("http://127.0.0.1:{port}/v1/models"));
        tokio::spawn(async move {
            tokio::time::sleep(PERIOD.mul_f64(n as f64 / BACKENDS as f64)).await;
            let mut tick = tokio::time::interval(PERIOD);
            loop {
                tick.tick().await;
                let answer = client.get(&url).timeout(Duration::from_secs(2)).send().await.expect("an answer");
                let _: serde_json::Value = answer.json().await.expect("a listing");
            }
        });
    }
    std::future::pending().await
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// User and system time so far, in milliseconds (Linux counts hundredths of a second).
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("a running process");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| fields[n].parse::<f64>().expect("ticks");
        (ticks(11) + ticks(12)) * 10.0
    }

    /// CPU milliseconds per probe, once it is warm.
    fn cost(&self) -> f64 {
        std::thread::sleep(WARM_UP);
        let (before, begun) = (self.cpu(), Instant::now());
        std::thread::sleep(MEASURED);
        let probes = BACKENDS as f64 * begun.elapsed().as_secs_f64() / PERIOD.as_secs_f64();
        (self.cpu() - before) / probes
    }
}

fn compare(rounds: usize) {
    let this = std::env::current_exe().expect("this program");
    let mut server =
        Running(Command::new(&this).arg("serve").stdout(Stdio::piped()).spawn().expect("start the servers"));
    let out = BufReader::new(server.0.stdout.take().expect("piped"));
    let ports: Vec<String> = out.lines().take(BACKENDS).map(|l| l.expect("a port")).collect();
    let root = std::env::temp_dir().join(format!("ostler-probes-{}", std::process::id()));
    std::fs::create_dir_all(root.join("manifests")).expect("make a folder");
    let backends: String = ports.iter().enumerate().map(|(n, port)| manifest(n, port)).collect();
    std::fs::write(root.join("manifests/backends.yaml"), backends).expect("write manifests");
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let bare = Running(Command::new(&this).arg("bare").args(&ports).spawn().expect("start the client")).cost();
        let up = up(&root).cost();
        ratios.push(up / bare);
        println!("round {round}: bare client {bare:.3} ms, ostler up {up:.3} ms per probe, ratio {:.2}", up / bare);
    }
    println!("median ratio of {rounds} rounds: {:.2}", ostler::cli::bench::median(&mut ratios));
    let _ = std::fs::remove_dir_all(root);
}

fn up(root: &std::path::Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
    command
        .args(["up", "--listen", "127.0.0.1:0", "-f"])
        .arg(root.join("manifests"))
        .arg("--data-dir")
        .arg(root.join("data"));
    Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start ostler up"))
}

fn manifest(n: usize, port: &str) -> String {
    format!(
        "---\napiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: b{n}}}\nspec:\n  engine: OpenAI\n  \
         url: 'http://127.0.0.1:{port}'\n  models: [{{name: small}}]\n  canary: {{when: Never}}\n  \
         probe: {{periodSeconds: {}}}\n",
        PERIOD.as_secs()
    )
}
