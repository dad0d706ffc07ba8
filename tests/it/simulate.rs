//! `ostler simulate` as a process: what an agent that starts it sees.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler::simulate::{CallEnd, Log};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

struct Process {
    child: Child,
    url: String,
}

impl Process {
    async fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ostler"))
            .args(["simulate", "--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("run ostler");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.next_line().await.expect("read").expect("it says where it serves");
        let url = line.strip_prefix("serving on ").expect("it says where it serves").to_owned();
        ostler::net::install_crypto();
        Self { child, url }
    }

    /// How it ended, and what it said on standard error.
    async fn end(mut self) -> (ExitStatus, String) {
        let status =
            tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await.expect("it ends").expect("wait");
        let mut words = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut words).await.expect("read");
        (status, words)
    }

    async fn set(&self, faults: serde_json::Value) {
        let reply = reqwest::Client::new().put(format!("{}/simulate/faults", self.url)).json(&faults).send().await;
        assert_eq!(reply.expect("an answer").status(), 200);
    }

    async fn log(&self) -> Log {
        let reply = reqwest::get(format!("{}/simulate/log", self.url)).await.expect("an answer");
        reply.json().await.expect("the log")
    }
}

#[tokio::test]
async fn a_crash_set_at_run_time_ends_the_process_with_its_exit_code() {
    let process = Process::start(&["--engine", "mlx"]).await;
    process.set(json!([{"type": "crash", "exit_code": 42}])).await;
    assert_eq!(process.end().await.0.code(), Some(42));
}

#[tokio::test]
async fn out_of_memory_says_so_as_the_engine_does_and_is_killed() {
    for (engine, words) in [("ollama", "out of memory"), ("mlx", "Insufficient Memory"), ("openai", "OutOfMemoryError")]
    {
        let process = Process::start(&["--engine", engine, "--fault", "out-of-memory:after-seconds=0.2"]).await;
        let (status, said) = process.end().await;
        assert_eq!(status.signal(), Some(9), "{engine}");
        assert!(said.contains(words), "{engine}: {said}");
    }
}

#[tokio::test]
async fn a_signal_ends_it_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let process = Process::start(&[]).await;
        let id = i32::try_from(process.child.id().expect("it runs")).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("signal");
        assert_eq!(process.end().await.0.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn flags_are_obeyed_and_the_log_tells_what_was_asked() {
    let args =
        ["--model", "a", "--model", "b:1", "--tokens-per-second", "1000", "--seed", "7", "--fault", "latency:millis=1"];
    let process = Process::start(&args).await;
    let client = reqwest::Client::new();
    let tags: serde_json::Value =
        client.get(format!("{}/api/tags", process.url)).send().await.expect("an answer").json().await.expect("JSON");
    let names: Vec<_> = tags["models"].as_array().expect("a list").iter().map(|model| &model["name"]).collect();
    assert_eq!(names, [&json!("a:latest"), &json!("b:1")]);
    let chat =
        json!({"model": "a", "stream": false, "keep_alive": "40s", "messages": [{"role": "user", "content": "hello"}]});
    let mut answers = Vec::new();
    for _ in 0..2 {
        let reply = client.post(format!("{}/api/chat", process.url)).json(&chat).send().await.expect("an answer");
        let mut answer: serde_json::Value = reply.json().await.expect("JSON");
        answers.push(answer["message"]["content"].take());
    }
    assert_eq!(answers[0], answers[1], "the same seed, the same words");
    let log = process.log().await;
    let calls: Vec<_> = log.calls.iter().map(|call| (call.path.as_str(), call.status, call.end)).collect();
    let finished = |path| (path, Some(200), CallEnd::Finished);
    assert_eq!(calls, [finished("/api/tags"), finished("/api/chat"), finished("/api/chat")]);
    let chat = &log.calls[1];
    assert_eq!((chat.model.as_deref(), &chat.keep_alive), (Some("a"), &Some(json!("40s"))));
    assert_eq!((log.count("POST /api/chat"), log.loads_in_all(), log.in_flight, log.in_flight_peak), (2, 1, 0, 1));
}

#[tokio::test]
async fn a_fault_that_is_not_understood_is_misuse() {
    let output = Command::new(env!("CARGO_BIN_EXE_ostler"))
        .args(["simulate", "--fault", "explode"])
        .output()
        .await
        .expect("run");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("explode") && words.contains("hang-inference"), "{words}");
}

#[tokio::test]
async fn a_state_file_counts_starts_and_a_fault_may_be_of_the_first_alone() {
    let folder = std::env::temp_dir().join(format!("ostler-starts-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder).expect("create");
    let file = folder.join("starts");
    let args = ["--state-file", file.to_str().expect("text"), "--fault", "crash:after-requests=0,starts=2"];
    let chat = json!({"model": "llama3.2:3b", "stream": false, "messages": [{"role": "user", "content": "hello"}]});
    for start in 1..=3 {
        let process = Process::start(&args).await;
        assert_eq!(process.log().await.totals.starts, start);
        let call = reqwest::Client::new().post(format!("{}/api/chat", process.url)).json(&chat).send().await;
        assert_eq!(call.is_ok(), start == 3, "start {start}");
        if start < 3 {
            assert_eq!(process.end().await.0.code(), Some(1));
        }
    }
    std::fs::remove_dir_all(&folder).expect("remove");
}

#[tokio::test]
async fn a_process_that_is_slow_to_end_serves_meanwhile() {
    let mut process = Process::start(&["--fault", "slow-exit:seconds=600"]).await;
    let id = i32::try_from(process.child.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("signal");
    let ended = tokio::time::timeout(Duration::from_millis(300), process.child.wait()).await;
    assert!(ended.is_err(), "it goes on");
    process.log().await;
    kill(Pid::from_raw(id), Signal::SIGKILL).expect("signal");
    assert_eq!(process.end().await.0.signal(), Some(9));
}

#[tokio::test]
async fn a_self_signed_certificate_is_trusted_by_nobody_who_is_not_told() {
    let process = Process::start(&["--tls", "self-signed"]).await;
    let address = process.url.strip_prefix("https://").expect("https").to_owned();
    let tags = format!("{}/api/tags", process.url);
    let error = reqwest::get(&tags).await.expect_err("it is not trusted");
    assert!(error.is_connect(), "{error}");
    let trusting = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
    assert_eq!(trusting.get(&tags).send().await.expect("an answer").status(), 200);
    // Plain HTTP to it breaks, and does not stop it.
    reqwest::get(format!("http://{address}/api/tags")).await.expect_err("it speaks TLS");
    assert_eq!(trusting.get(&tags).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn help_documents_every_fault() {
    let output = Command::new(env!("CARGO_BIN_EXE_ostler")).args(["simulate", "--help"]).output().await.expect("run");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    for (syntax, what) in ostler::simulate::FAULTS {
        assert!(help.contains(syntax) && help.contains(what), "{syntax}: {help}");
    }
}
