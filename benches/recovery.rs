//! How fast the death of a server that an agent started is seen and healed: `ostler up` with simulated servers, of which one is
//! killed again and again. Everything is observed from outside: processes, the API, and the simulated servers' own logs.
//!
//!     cargo bench --bench recovery [-- KILLS [SERVERS]]
//!
//! Prints p50 and p95 of each step beside its goal.

#![allow(clippy::disallowed_methods, reason = "a test asks as anybody may")]

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");
const LOOK: Duration = Duration::from_millis(20);
/// Nothing here takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between a recovery and the next kill: steps follow each other with growing pauses.
const REST: Duration = Duration::from_secs(2);

fn main() {
    ostler::net::install_crypto();
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |n: usize, default| args.get(n).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (kills, servers) = (number(0, 30), number(1, 3));
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(measure(kills, servers.max(1)));
}

/// What one kill showed, in seconds.
#[derive(Default)]
struct Steps {
    not_ready: Vec<f64>,
    restarted: Vec<f64>,
    asked: Vec<f64>,
    ready: Vec<f64>,
}

async fn measure(kills: usize, servers: usize) {
    let up = Up::start(servers).await;
    for server in &up.ports {
        up.until("ready", || up.is_ready(*server), |ready| *ready == Some(true)).await;
    }
    let mut steps = Steps::default();
    for n in 1..=kills {
        up.one_kill(up.ports[0], &mut steps).await;
        println!("kill {n} of {kills}: ready again after {:.2} s", steps.ready.last().copied().unwrap_or_default());
        tokio::time::sleep(REST).await;
    }
    for (name, mut seconds, goal) in [
        ("death -> backend not Ready", steps.not_ready, Some(0.5)),
        ("death -> new process exists", steps.restarted, Some(1.0)),
        ("accepts -> first inference asked", steps.asked, Some(0.3)),
        ("death -> backend Ready again", steps.ready, None),
    ] {
        seconds.sort_by(f64::total_cmp);
        let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share).round() as usize];
        let goal = goal.map_or_else(String::new, |goal: f64| {
            format!("  goal {goal:.1} s: {}", if at(0.95) <= goal { "met" } else { "missed" })
        });
        println!("{name:34} p50 {:.3} s  p95 {:.3} s{goal}", at(0.5), at(0.95));
    }
}

struct Up {
    child: Child,
    root: PathBuf,
    ports: Vec<u16>,
    http: reqwest::Client,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = Command::new(OSTLER).args(["down", "--data-dir"]).arg(self.root.join("data")).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

impl Up {
    async fn start(servers: usize) -> Self {
        let root = std::env::temp_dir().join(format!("ostler-recovery-{}", std::process::id()));
        std::fs::create_dir_all(root.join("manifests")).expect("make a folder");
        let ports: Vec<u16> = (0..=servers).map(|_| free_port()).collect();
        let (agent, ports) = (ports[servers], ports[..servers].to_vec());
        std::fs::write(root.join("manifests/all.yaml"), manifests(agent, &ports)).expect("write manifests");
        let log = std::fs::File::create(root.join("up.log")).expect("make a log");
        let child = Command::new(OSTLER)
            .args(["up", "--listen", "127.0.0.1:0", "-f"])
            .arg(root.join("manifests"))
            .arg("--data-dir")
            .arg(root.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("start ostler up");
        Self { child, root, ports, http: reqwest::Client::builder().no_proxy().build().expect("a client") }
    }

    async fn one_kill(&self, port: u16, steps: &mut Steps) {
        let [old] = engines_on(port)[..] else { panic!("not one server on port {port}: {:?}", engines_on(port)) };
        let died = Instant::now();
        kill(Pid::from_raw(old), Signal::SIGKILL).expect("kill the server");
        let (mut not_ready, mut restarted, mut accepted, mut asked, mut ready) = (None, None, None, None, None);
        while ready.is_none() || asked.is_none() {
            assert!(died.elapsed() < PATIENCE, "not healed within {PATIENCE:?}: see {}", self.root.display());
            let seen = self.is_ready(port).await;
            if not_ready.is_none() && seen == Some(false) {
                not_ready = Some(died.elapsed());
            }
            if restarted.is_none() && engines_on(port).iter().any(|pid| *pid != old) {
                restarted = Some(died.elapsed());
            }
            if restarted.is_some() && accepted.is_none() && TcpStream::connect(("127.0.0.1", port)).is_ok() {
                accepted = Some(jiff::Timestamp::now());
            }
            if accepted.is_some() && asked.is_none() {
                asked = self.first_inference(port).await;
            }
            if not_ready.is_some() && restarted.is_some() && seen == Some(true) {
                ready.get_or_insert(died.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        let late = |asked: jiff::Timestamp| accepted.map(|at| asked.duration_since(at).as_secs_f64().max(0.0));
        steps.asked.extend(asked.and_then(late));
        for (times, time) in
            [(&mut steps.not_ready, not_ready), (&mut steps.restarted, restarted), (&mut steps.ready, ready)]
        {
            times.extend(time.map(|t| t.as_secs_f64()));
        }
    }

    /// When the server was first asked for an inference, by its own log.
    async fn first_inference(&self, port: u16) -> Option<jiff::Timestamp> {
        let url = format!("http://127.0.0.1:{port}/simulate/log");
        let log: Value = self.http.get(url).send().await.ok()?.json().await.ok()?;
        let calls = log["calls"].as_array()?;
        calls.iter().find(|c| c["inference"] == true)?["at"].as_str()?.parse().ok()
    }

    async fn is_ready(&self, port: u16) -> Option<bool> {
        let endpoint = std::fs::read(self.root.join("data/endpoint.json")).ok()?;
        let endpoint: Value = serde_json::from_slice(&endpoint).ok()?;
        let url = format!("{}/api/v1/llmbackends/default/s{port}", endpoint["address"].as_str()?);
        let answer = self.http.get(url).bearer_auth(endpoint["token"].as_str()?).send().await.ok()?;
        let backend: Value = answer.json().await.ok()?;
        let ready = backend["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?;
        Some(ready["status"] == "True")
    }

    async fn until<T, F: Future<Output = T>>(&self, what: &str, look: impl Fn() -> F, wanted: impl Fn(&T) -> bool) {
        let begun = Instant::now();
        while !wanted(&look().await) {
            assert!(begun.elapsed() < PATIENCE, "never {what}: see {}", self.root.display());
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port()
}

fn engines_on(port: u16) -> Vec<i32> {
    let listen = format!("127.0.0.1:{port}");
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_engine(&PathBuf::from(format!("/proc/{pid}")), &listen)).collect()
}

/// A zombie has no command line.
fn is_engine(process: &Path, listen: &str) -> bool {
    let command = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    let has = |wanted: &str| words.iter().any(|w| w == wanted);
    has("simulate") && has(listen) && !has("agent-exec")
}

fn manifests(agent: u16, ports: &[u16]) -> String {
    let mut text = format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: here}}\nspec:\n  listen: 127.0.0.1:{agent}\n  services:\n"
    );
    for port in ports {
        text += &format!(
            "  - name: s{port}\n    start: {{command: [ostler, simulate, --engine, ollama, --listen, '127.0.0.1:{port}', --model, small]}}\n    \
             check: {{url: 'http://127.0.0.1:{port}/api/tags'}}\n"
        );
    }
    for port in ports {
        text += &format!(
            "---\napiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: s{port}}}\nspec:\n  engine: Ollama\n  \
             url: 'http://127.0.0.1:{port}'\n  models: [{{name: small}}]\n  \
             recovery: {{hostAgentRef: {{name: here}}, service: s{port}, maxAttempts: 100, maxPerDay: 1000}}\n"
        );
    }
    text
}
