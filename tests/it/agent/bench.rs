//! An agent in a folder of its own, started and ended at will; what it started is killed when the test is over.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ostler::{
    agent::{self, AgentHandle, AgentSettings, exec::Record},
    host::{Action, Caller, Credentials, HttpHost, OperationRequest, OperationStatus, ServiceReport, SigningSecret},
    net::{HttpClient, install_crypto},
    telemetry::Metrics,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const OSTLER: &str = env!("CARGO_BIN_EXE_ostler");

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bench {
    pub dir: PathBuf,
    pub secret: SigningSecret,
    pub installation: Uuid,
    pub observe: bool,
}

impl Bench {
    pub fn new() -> Self {
        install_crypto();
        let dir = std::env::temp_dir().join(format!("ostler-agent-{}", Uuid::new_v4().simple()));
        fs::create_dir(&dir).unwrap();
        Self { dir, secret: SigningSecret::generate(), installation: Uuid::new_v4(), observe: false }
    }

    /// Agents whose own loop only says what it would do.
    pub fn observing() -> Self {
        let mut bench = Self::new();
        bench.observe = true;
        bench
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn settings(&self, services: Value) -> AgentSettings {
        let spec = json!({"listen": "127.0.0.1:0", "selfCheckSeconds": 1, "services": services});
        AgentSettings {
            name: "bench".into(),
            spec: serde_json::from_value(spec).unwrap(),
            base_dir: self.dir.clone(),
            state_dir: self.state(),
            observe: self.observe,
            version: "test".into(),
            exe: OSTLER.into(),
            http: agent::check_client().unwrap(),
            metrics: Metrics::new(),
            signing_secret: Some(self.secret.clone()),
        }
    }

    pub async fn start(&self, services: Value) -> Running {
        self.start_with(self.settings(services)).await
    }

    pub async fn start_with(&self, settings: AgentSettings) -> Running {
        let credentials = Credentials { signing_secret: settings.signing_secret.clone(), token: None };
        let shutdown = CancellationToken::new();
        let handle = agent::start(settings, shutdown.clone()).await.unwrap();
        let client = HttpHost::new(HttpClient::direct().unwrap(), &handle.url(), "bench", credentials).unwrap();
        let caller = Caller { installation: self.installation, epoch: 7 };
        Running { handle, client, caller, shutdown }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The pids that a service's script wrote down, one for each start.
    pub fn starts(&self, name: &str) -> Vec<i32> {
        self.text(name).lines().filter_map(|l| l.parse().ok()).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let files = fs::read_dir(self.state()).into_iter().flatten().flatten();
        for file in files.filter(|f| f.path().extension().is_some_and(|e| e == "process")) {
            let record = fs::read(file.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            if let Some(instance) = record.as_ref().and_then(Record::alive) {
                let _ = kill(Pid::from_raw(instance.pid as i32), Signal::SIGKILL);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An agent that runs.
pub struct Running {
    pub handle: AgentHandle,
    pub client: HttpHost,
    pub caller: Caller,
    shutdown: CancellationToken,
}

impl Running {
    /// Ends the agent; its services live on.
    pub async fn end(self) {
        self.shutdown.cancel();
        self.handle.join().await;
    }

    pub async fn service(&self, name: &str) -> ServiceReport {
        self.client.report().await.unwrap().service(name).cloned().unwrap()
    }

    /// Polls until a service is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&ServiceReport) -> bool) -> ServiceReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.service(name).await;
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{name} is never {what}: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn operate(&self, service: &str, action: Action) -> OperationStatus {
        let request = OperationRequest::new(service, action, "test");
        let accepted = self.client.operate(&request, &Uuid::new_v4().to_string(), self.caller).await.unwrap();
        self.finished(&accepted.id).await
    }

    pub async fn finished(&self, id: &str) -> OperationStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.client.operation(id).await.unwrap();
            if status.phase.is_finished() {
                return status;
            }
            assert!(Instant::now() < deadline, "never finished: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "never {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn alive(pid: i32) -> bool {
    // A zombie is dead, and a test is nobody's init.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

pub fn kill_9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// A service that writes its pid down and lives on.
pub fn sleeper(name: &str) -> Value {
    let script = format!("echo $$ >> {name}.starts; exec sleep 100000");
    json!({"name": name, "start": {"command": ["sh", "-c", script]}})
}

/// A simulated inference server, which writes its pid down.
pub fn engine(name: &str, port: u16) -> Value {
    let script = format!("echo $$ >> {name}.starts; exec {OSTLER} simulate --engine openai --listen 127.0.0.1:{port}");
    json!({
        "name": name,
        "start": {"command": ["sh", "-c", script]},
        "check": {"url": format!("http://127.0.0.1:{port}/v1/models"), "timeoutSeconds": 2},
        "startupSeconds": 60,
    })
}

/// Sets fields of a service.
pub fn with(mut service: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("an object") };
    for (name, value) in fields {
        service[name] = value;
    }
    service
}

pub fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
