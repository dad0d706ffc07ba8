//! A real `ostler up` on a folder and a data folder of its own, asked through its API and command line.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Up {
    pub root: PathBuf,
    /// Limit of open files, hard and soft.
    pub files: Option<u64>,
    child: Option<Child>,
    http: reqwest::Client,
}

impl Up {
    /// A folder with these manifests; nothing runs yet.
    pub fn prepare(manifests: &[(&str, &str)]) -> Self {
        ostler::net::install_crypto();
        let root = std::env::temp_dir().join(format!("ostler-up-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(root.join("manifests")).unwrap();
        let up = Self { root, files: None, child: None, http: reqwest::Client::builder().no_proxy().build().unwrap() };
        for (name, text) in manifests {
            up.write(name, text);
        }
        up
    }

    pub async fn start(manifests: &[(&str, &str)]) -> Self {
        let mut up = Self::prepare(manifests);
        up.run(&[]).await;
        up
    }

    /// Starts the process and waits until its API answers.
    pub async fn run(&mut self, environment: &[(&str, &str)]) {
        self.spawn(environment);
        let begun = Instant::now();
        while self.try_get("/readyz").await.is_none() {
            assert!(self.is_running(), "ostler up ended: {}", self.log());
            assert!(begun.elapsed() < PATIENCE, "ostler up does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn spawn(&mut self, environment: &[(&str, &str)]) {
        // What a predecessor left would be taken for the new one's.
        let _ = std::fs::remove_file(self.data().join("endpoint.json"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.root.join("up.log")).unwrap();
        let limit = self.files.map_or_else(String::new, |files| format!("ulimit -n {files} && "));
        let child = Command::new("sh")
            .args(["-c", &format!("{limit}exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_ostler")])
            .args(["up", "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "-f"])
            .arg(self.root.join("manifests"))
            .arg("--data-dir")
            .arg(self.data())
            .env("OSTLER_LOG", "ostler=debug")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Where agents call.
    pub fn gateway(&self) -> String {
        let log = self.log();
        let said = log
            .rsplit_once("gateway for agents, IDEs and scripts on ")
            .and_then(|(_, rest)| rest.split_whitespace().next());
        said.unwrap_or_else(|| panic!("no gateway: {log}")).to_owned()
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.root.join("manifests").join(name);
        // As an editor does: nobody sees half a file.
        let new = self.root.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.root.join("manifests").join(name)).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("up.log")).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process ended by itself.
    pub async fn ended(&mut self) {
        let begun = Instant::now();
        while self.is_running() {
            assert!(begun.elapsed() < PATIENCE, "ostler up goes on: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.child = None;
    }

    /// The command line, on this data folder.
    pub fn ostler(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ostler")).args(args).arg("--data-dir").arg(self.data()).output().unwrap()
    }

    /// The command line, which must succeed; what it prints.
    pub fn ostler_ok(&self, args: &[&str]) -> String {
        let output = self.ostler(args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "ostler {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Adds tasks, one a line.
    pub fn add_tasks(&self, lines: impl IntoIterator<Item = Value>) {
        let lines: Vec<String> = lines.into_iter().map(|line| line.to_string()).collect();
        let file = self.root.join("tasks.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        self.ostler_ok(&["tasks", "add", "-f", &file.display().to_string()]);
    }

    /// All tasks, as a list has them.
    pub async fn tasks(&self) -> Vec<Value> {
        let page = self.get("/api/v1/tasks?limit=1000").await;
        page["items"].as_array().cloned().unwrap_or_default()
    }

    pub async fn try_get(&self, path: &str) -> Option<Value> {
        let endpoint = std::fs::read(self.data().join("endpoint.json")).ok()?;
        let endpoint: Value = serde_json::from_slice(&endpoint).ok()?;
        let url = format!("{}{path}", endpoint["address"].as_str()?);
        let answer = self
            .http
            .get(url)
            .bearer_auth(endpoint["token"].as_str()?)
            .timeout(Duration::from_secs(5))
            .send()
            .await
            .ok()?;
        if !answer.status().is_success() {
            return None;
        }
        let text = answer.text().await.ok()?;
        Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn get(&self, path: &str) -> Value {
        self.try_get(path).await.unwrap_or_else(|| panic!("GET {path} failed: {}", self.log()))
    }

    pub async fn backend(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/llmbackends/default/{name}")).await
    }

    /// Waits until a backend looks as wanted; `what` says what is awaited.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, name, what, wanted).await
    }

    pub async fn until_within(
        &self,
        patience: Duration,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        self.until_of_within(patience, "llmbackends", name, what, wanted).await
    }

    /// The same for a resource of another kind, by its plural.
    pub async fn until_of(&self, plural: &str, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_of_within(PATIENCE, plural, name, what, wanted).await
    }

    async fn until_of_within(
        &self,
        patience: Duration,
        plural: &str,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let begun = Instant::now();
        let mut last = Value::Null;
        while begun.elapsed() < patience {
            if let Some(seen) = self.try_get(&format!("/api/v1/{plural}/default/{name}")).await {
                if wanted(&seen) {
                    return seen;
                }
                last = seen;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} is not {what} after {patience:?}: {:#}\n{}", last["status"], tail(&self.log()));
    }

    pub async fn until_ready(&self, name: &str) -> Value {
        self.until(name, "ready", is_ready).await
    }

    /// The reasons of all events of a backend, oldest first.
    pub async fn reasons(&self, name: &str) -> Vec<String> {
        self.reasons_of("LLMBackend", name).await
    }

    /// The same of any kind.
    pub async fn reasons_of(&self, kind: &str, name: &str) -> Vec<String> {
        let events = self.get(&format!("/api/v1/events?kind={kind}&name={name}")).await;
        let list = events.as_array().or_else(|| events["items"].as_array()).cloned().unwrap_or_default();
        let mut reasons: Vec<_> = list.iter().filter_map(|e| e["reason"].as_str().map(str::to_owned)).collect();
        reasons.reverse();
        reasons
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let running = self.is_running();
        if running {
            let _ = self.ostler(&["down"]);
        }
        self.kill();
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.root.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.root);
        }
        end_processes_of(&self.root);
    }
}

/// Services outlive their agent on purpose: those that a killed `up` left are ended with the test.
fn end_processes_of(root: &Path) {
    let mark = root.to_string_lossy().into_owned();
    let Ok(all) = std::fs::read_dir("/proc") else { return };
    for pid in all.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok()) {
        let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = [of("environ"), of("cmdline")].concat();
        if String::from_utf8_lossy(&text).contains(&mark) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.and_then(|all| all.iter().find(|c| c["type"] == type_)).unwrap_or(&Value::Null)
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

pub fn state(object: &Value) -> &str {
    object["status"]["state"].as_str().unwrap_or_default()
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
