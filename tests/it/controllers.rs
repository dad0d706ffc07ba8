//! Two `ostler controller` processes on a real API server and a real PostgreSQL, as the chart's service account; the engine
//! runs on a host outside, under `ostler agent`.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::real::{ApiServer, Chart, Cluster, Postgres, free_port};

/// A process whose log is read.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(log: PathBuf, command: &mut Command) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// How often it began to lead.
    fn terms(&self) -> usize {
        self.log().lines().filter(|l| l.contains(" leading ")).count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ostler() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ostler"))
}

/// What is asked again until it is so; returns how long that took.
fn until(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<(), String>) -> Duration {
    let begun = Instant::now();
    while let Err(last) = ask() {
        assert!(begun.elapsed() < limit, "{what}: after {limit:?} still {last}");
        std::thread::sleep(Duration::from_millis(100));
    }
    begun.elapsed()
}

struct World {
    api: ApiServer,
    postgres: Postgres,
    database: String,
    namespace: String,
    account: PathBuf,
    root: PathBuf,
    engine_port: u16,
    agent: Option<Process>,
}

impl World {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("ostler-controllers-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&root).unwrap();
        let api = ApiServer::start();
        api.install_crds();
        let namespace = api.namespace();
        let account = Chart::able(&namespace, &[]).service_account(&api);
        let postgres = Postgres::start();
        let database = postgres.database();
        let mut world =
            Self { api, postgres, database, namespace, account, root, engine_port: free_port(), agent: None };
        world.start_agent();
        world
    }

    /// The host outside the cluster: an agent, and an engine that listens where the cluster's host does.
    fn start_agent(&mut self) {
        let (host, engine, agent) = (Cluster::shared().host_address(), self.engine_port, free_port());
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        std::fs::write(self.root.join("secret"), secret).unwrap();
        let config = format!(
            "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: host}}\nspec:\n  listen: 127.0.0.1:{agent}\n  selfCheckSeconds: 5\n  \
             auth: {{signingSecretFile: secret}}\n  services:\n  - name: ollama\n    manager: Process\n    \
             start: {{command: ['{exe}', simulate, --engine, ollama, --listen, '{host}:{engine}', --model, small]}}\n    \
             check: {{url: 'http://{host}:{engine}/api/tags'}}\n    log: {{file: ollama.log}}\n",
            exe = env!("CARGO_BIN_EXE_ostler"),
        );
        std::fs::write(self.root.join("agent.yaml"), config).unwrap();
        let mut command = ostler();
        command.arg("agent").arg("--config").arg(self.root.join("agent.yaml"));
        command.arg("--state-dir").arg(self.root.join("agent"));
        self.agent = Some(Process::start(self.root.join("agent.log"), &mut command));
        let ns = &self.namespace;
        self.api.apply(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: host, namespace: {ns}}}\nstringData: {{signingSecret: {secret}}}\n---\n\
             apiVersion: ostler.dev/v1alpha1\nkind: HostAgent\nmetadata: {{name: host, namespace: {ns}}}\n\
             spec: {{url: 'http://127.0.0.1:{agent}', secretRef: {{name: host}}}}\n---\n\
             apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: ollama, namespace: {ns}}}\nspec:\n  engine: Ollama\n  \
             url: 'http://{host}:{engine}'\n  models: [{{name: small}}]\n  probe: {{periodSeconds: 1}}\n  \
             recovery: {{hostAgentRef: {{name: host}}, service: ollama, periodSeconds: 1}}\n---\n\
             apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: loopback, namespace: {ns}}}\n\
             spec: {{engine: OpenAI, url: 'http://127.0.0.1:1'}}\n"
        ));
    }

    fn controller(&self, name: &str) -> Process {
        let mut command = ostler();
        command
            .args(["controller", "--listen", "127.0.0.1:0", "-n", &self.namespace])
            .env("OSTLER_DATABASE_URL", &self.database)
            .env("KUBECONFIG", &self.account);
        Process::start(self.root.join(format!("{name}.log")), &mut command)
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.api.kubectl(&[&["-n", &self.namespace], args].concat())
    }

    fn backend(&self) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "llm", "ollama", "-o", "json"])).unwrap()
    }

    fn state(&self) -> String {
        self.backend()["status"]["state"].as_str().unwrap_or_default().to_owned()
    }

    fn await_well(&self) -> Duration {
        until("the backend to be well", Duration::from_secs(60), || match self.state().as_str() {
            "Idle" | "Serving" => Ok(()),
            other => Err(format!("{other}: {:#}", self.backend()["status"])),
        })
    }

    /// Until status tells of so many restarts that helped.
    fn await_helped(&self, times: usize) {
        until("status to tell of the recovery", Duration::from_secs(60), || {
            let history = self.backend()["status"]["recovery"]["history"].clone();
            let helped = history.as_array().map_or(0, |h| h.iter().filter(|a| a["outcome"] == "Helped").count());
            if helped >= times { Ok(()) } else { Err(history.to_string()) }
        });
    }

    /// Since when backend and agent are as they are.
    fn transitions(&self) -> Vec<String> {
        let path =
            "--output=jsonpath={range .items[*].status.conditions[*]}{.type}={.status} {.lastTransitionTime};{end}";
        self.kubectl(&["get", "llm,ha", path]).split(';').map(str::to_owned).collect()
    }

    fn engines(&self) -> Vec<i32> {
        let listen = format!(":{}", self.engine_port);
        let all = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        all.filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = command.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
            let ours = words.get(1).is_some_and(|w| w == "simulate");
            ours && words.iter().any(|w| w.ends_with(&listen))
        })
        .collect()
    }

    fn kill_engine(&self) {
        self.engines().into_iter().for_each(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap());
    }

    /// Operations that the agent took.
    fn restarts(&self) -> usize {
        let log = self.agent.as_ref().unwrap().log();
        log.lines().filter(|l| l.contains("operation accepted") && l.contains("Restart")).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent = None;
        self.kill_engine();
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.root.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// Who of two leads, by who began to lead last.
fn lead(a: &Process, b: &Process, before: (usize, usize), limit: Duration) -> Duration {
    until("somebody to lead", limit, || {
        let now = (a.terms(), b.terms());
        if now == before { Err(format!("{now:?}")) } else { Ok(()) }
    })
}

#[test]
fn real_controllers_hand_over_and_a_stopped_leader_does_nothing_late() {
    let world = World::new();
    let mut first = world.controller("first");
    world.await_well();
    assert_eq!(first.terms(), 1, "{}", first.log());
    let line = world.kubectl(&["get", "llm"]);
    let loopback = line.lines().find(|l| l.starts_with("loopback")).unwrap();
    assert!(loopback.contains("False") && loopback.contains("LoopbackURL"), "one line tells what is wrong: {line}");

    // Killed: the other leads once the lease is over.
    std::thread::sleep(Duration::from_secs(3));
    let transitions = world.transitions();
    let mut second = world.controller("second");
    until("the second to follow", Duration::from_secs(30), || {
        if second.log().contains("controller serves") { Ok(()) } else { Err(second.log()) }
    });
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let took = lead(&first, &second, (1, 0), Duration::from_secs(30));
    assert!(took <= Duration::from_secs(17), "killed: {took:?}");
    eprintln!("leader killed: the other led after {took:?}");

    // Left gracefully: at once.
    let third = world.controller("third");
    until("the third to follow", Duration::from_secs(30), || {
        if third.log().contains("controller serves") { Ok(()) } else { Err(third.log()) }
    });
    second.signal(Signal::SIGTERM);
    let took = lead(&second, &third, (1, 0), Duration::from_secs(20));
    assert!(took <= Duration::from_secs(3), "left: {took:?}");
    eprintln!("leader left: the other led after {took:?}");
    second.child.wait().unwrap();
    world.await_well();
    // The last of them has heard the agent and the server by now.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(world.transitions(), transitions, "two changes of leader flip no condition");

    // Stopped in the middle of a recovery, and continued when a successor has long finished it.
    let fourth = world.controller("fourth");
    until("the fourth to follow", Duration::from_secs(30), || {
        if fourth.log().contains("controller serves") { Ok(()) } else { Err(fourth.log()) }
    });
    let before = world.restarts();
    world.kill_engine();
    until("the recovery to begin", Duration::from_secs(30), || {
        if world.restarts() > before { Ok(()) } else { Err("no restart".into()) }
    });
    third.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    let terms = fourth.terms();
    lead(&third, &fourth, (third.terms(), terms), Duration::from_secs(30));
    world.await_well();
    let done = world.restarts();
    assert_eq!(done, before + 1, "the successor followed what was begun: {}", world.agent.as_ref().unwrap().log());
    std::thread::sleep(Duration::from_secs(30).saturating_sub(stopped.elapsed()));
    third.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(world.restarts(), done, "{}", third.log());
    assert_eq!(world.engines().len(), 1);
    assert_eq!(world.state(), "Idle");
}

#[test]
fn real_controllers_write_nothing_when_steady_and_heal_while_the_api_server_is_away() {
    let world = World::new();
    let controller = world.controller("only");
    world.await_well();
    // With a history of recovery, whose times are stored in whole seconds.
    world.kill_engine();
    world.await_helped(1);
    world.await_well();
    // An idle server's last change of state comes five minutes after its last call; nobody called this one.
    std::thread::sleep(Duration::from_secs(3));
    let before = world.api.writes(&world.namespace);
    std::thread::sleep(Duration::from_secs(120));
    let after = world.api.writes(&world.namespace);
    assert_eq!(after[before.len()..], [] as [String; 0], "a steady state writes nothing");

    world.api.stop();
    world.kill_engine();
    let healed = until("the engine to be started again without an API server", Duration::from_secs(60), || match world
        .engines()
        .len()
    {
        1 => Ok(()),
        n => Err(format!("{n} engines; {}", controller.log())),
    });
    eprintln!("healed without an API server after {healed:?}");
    std::thread::sleep(Duration::from_secs(60).saturating_sub(healed));
    world.api.resume();
    world.await_helped(2);
    world.await_well();
}

#[test]
fn real_controllers_do_nothing_that_cannot_be_recorded_while_the_agent_goes_on() {
    let world = World::new();
    let _controller = world.controller("only");
    world.await_well();
    world.postgres.stop();
    let before = world.restarts();
    world.kill_engine();
    // Care is no longer renewed, so that after it has run out the agent's own loop takes over.
    let healed =
        until("the agent to start the engine by itself", Duration::from_secs(120), || match world.engines().len() {
            1 => Ok(()),
            n => Err(format!("{n} engines")),
        });
    eprintln!("healed by the agent alone, without a database, after {healed:?}");
    assert_eq!(world.restarts(), before, "the controller did nothing: {}", world.agent.as_ref().unwrap().log());
    world.postgres.resume();
    world.await_well();
}
