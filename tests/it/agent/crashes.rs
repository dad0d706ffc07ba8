//! The agent dies at each of its crash points, is started again, and nothing has been started twice or forgotten.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use ostler::{
    host::{Action, Caller, Credentials, HttpHost, OperationRequest, OperationStatus, Phase},
    net::HttpClient,
};

use super::bench::{Bench, OSTLER, alive, write};

const POINTS: [&str; 9] = [
    "agent.before-self-start",
    "agent.after-spawn-before-record",
    "agent.after-record",
    "agent-exec.before-record",
    "agent-exec.after-record",
    "agent.operation-recorded",
    "agent.operation-begun",
    "agent.after-stop-before-start",
    "agent.operation-done-before-record",
];

/// `ostler agent` as a process of its own, which may die at a crash point.
pub struct Process {
    pub child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(bench: &Bench, point: &str) -> Self {
        Self::start_with(bench, point, &[])
    }

    pub fn start_with(bench: &Bench, point: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(OSTLER)
            .args(["agent", "--config", "agent.yaml", "--state-dir", "state"])
            .current_dir(&bench.dir)
            .env("OSTLER_CRASH_POINT", point)
            .env("OSTLER_LOG", "off")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The agent's address; `None` when it died before it could tell.
    pub fn url(&mut self) -> Option<String> {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.split_whitespace().find_map(|w| w.strip_suffix(';')).map(str::to_owned)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn living(bench: &Bench) -> Vec<i32> {
    bench.starts("one.starts").into_iter().filter(|&pid| alive(pid)).collect()
}

pub fn client(bench: &Bench, url: &str) -> HttpHost {
    let credentials = Credentials { signing_secret: Some(bench.secret.clone()), token: None };
    HttpHost::new(HttpClient::direct().unwrap(), url, "crash", credentials).unwrap()
}

fn configure(bench: &Bench) {
    write(&bench.path("secret"), &bench.secret.expose());
    write(
        &bench.path("agent.yaml"),
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {name: crash}\n\
         spec:\n  listen: 127.0.0.1:0\n  auth: {signingSecretFile: secret}\n  selfCheckSeconds: 1\n  services:\n  \
         - {name: one, start: {command: [sh, -c, 'echo $$ >> one.starts; exec sleep 100000']}}\n",
    );
}

/// Follows an operation; never do two processes of the service live.
async fn finished(bench: &Bench, host: &HttpHost, id: &str, when: &str) -> OperationStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = living(bench);
        assert!(seen.len() <= 1, "{when}: {seen:?}");
        let status = host.operation(id).await.unwrap();
        if status.phase.is_finished() {
            return status;
        }
        assert!(Instant::now() < deadline, "{when}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_agent_dies_one_process_runs_and_the_operation_is_done_once() {
    for point in POINTS {
        tokio::task::spawn(dies_at(point)).await.unwrap_or_else(|e| panic!("{point}: {e}"));
    }
}

async fn dies_at(point: &'static str) {
    let bench = Bench::new();
    configure(&bench);
    let caller = Caller { installation: bench.installation, epoch: 1 };
    let restart = OperationRequest::new("one", Action::Restart, "crash test");
    let mut accepted = None;
    {
        let mut agent = Process::start(&bench, point);
        if let Some(url) = agent.url() {
            let host = client(&bench, &url);
            let deadline = Instant::now() + Duration::from_secs(60);
            // A process must be there to be restarted; where none can be, one start must have been tried.
            let ready = || match point.starts_with("agent-exec") {
                true => bench.state().join("one.process-error").exists(),
                false => !living(&bench).is_empty(),
            };
            while !ready() && agent.child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            accepted = host.operate(&restart, "key", caller).await.ok();
            while agent.child.try_wait().unwrap().is_none()
                && Instant::now() < deadline
                && !point.starts_with("agent-exec")
            {
                assert!(living(&bench).len() <= 1, "{point}: {:?}", living(&bench));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(
            point.starts_with("agent-exec") || agent.child.try_wait().unwrap().is_some(),
            "{point} was never reached"
        );
    }
    let mut agent = Process::start(&bench, "none");
    let host = client(&bench, &agent.url().expect("an agent that serves"));
    // The caller does not know whether its request arrived, and asks again under the same key.
    let again = host.operate(&restart, "key", caller).await.unwrap();
    assert!(accepted.is_none_or(|a| a.id == again.id), "{point}");
    let done = finished(&bench, &host, &again.id, point).await;
    assert_eq!(done.phase, Phase::Succeeded, "{point}: {}", done.message);
    let report = host.report().await.unwrap();
    let running = report.service("one").and_then(|s| s.instance.clone()).map(|i| i.pid as i32);
    assert_eq!(living(&bench), running.into_iter().collect::<Vec<_>>(), "{point}");
}

/// Moments differ from point to point and are the same in each run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_neither_forgets_nor_doubles() {
    let bench = Bench::new();
    configure(&bench);
    let caller = Caller { installation: bench.installation, epoch: 1 };
    let mut seed = 0x9e37_79b9_u32;
    for round in 0..8 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut agent = Process::start(&bench, "none");
        let host = client(&bench, &agent.url().expect("an agent that serves"));
        let restart = OperationRequest::new("one", Action::Restart, "crash test");
        let asked = host.operate(&restart, &format!("round {round}"), caller).await.unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(seed >> 22))).await;
        drop(agent);
        assert!(living(&bench).len() <= 1, "round {round}: {:?}", living(&bench));
        let mut agent = Process::start(&bench, "none");
        let host = client(&bench, &agent.url().expect("an agent that serves"));
        let again = host.operate(&restart, &format!("round {round}"), caller).await.unwrap();
        assert_eq!(asked.id, again.id, "round {round}");
        let done = finished(&bench, &host, &asked.id, &format!("round {round}")).await;
        assert_eq!(done.phase, Phase::Succeeded, "round {round}: {}", done.message);
        assert_eq!(living(&bench).len(), 1, "round {round}");
    }
}
