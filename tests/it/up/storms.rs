//! Several backends of one host fail at once while its agent, spoken to over TLS, does not answer either.

use std::time::{Duration, Instant};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::real::free_port;

use super::{
    harness::{PATIENCE, Up, condition, is_ready},
    healing::engines_on,
};

const NAMES: [&str; 3] = ["one", "two", "three"];
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const CA: &str = include_str!("../agent/tls/ca.crt");

/// A host with three engines under an agent of its own, and the manifests that say so.
struct World {
    agent: std::process::Child,
    agent_port: u16,
    ports: [u16; 3],
    up: Up,
}

impl World {
    fn prepare() -> Self {
        let up = Up::prepare(&[]);
        let (agent_port, ports) = (free_port(), [free_port(), free_port(), free_port()]);
        let host = up.root.join("host");
        std::fs::create_dir_all(&host).unwrap();
        let put = |name: &str, text: &str| std::fs::write(host.join(name), text).unwrap();
        put("server.crt", include_str!("../agent/tls/server.crt"));
        put("server.key", include_str!("../agent/tls/server.key"));
        put("secret", SECRET);
        put("agent.yaml", &agent_config(agent_port, ports));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ostler"));
        command.arg("agent").arg("--config").arg(host.join("agent.yaml"));
        command.arg("--state-dir").arg(host.join("state")).stdin(std::process::Stdio::null());
        let log = std::fs::File::create(host.join("agent.log")).unwrap();
        let agent = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        up.write("all.yaml", &manifests(agent_port, ports));
        Self { agent, agent_port, ports, up }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.agent.id()).unwrap()), signal).unwrap();
    }

    /// How often the agent started a service.
    fn starts(&self, service: &str) -> usize {
        let log = std::fs::read_to_string(self.up.root.join("host/agent.log")).unwrap();
        log.lines().filter(|l| l.contains(&format!("started service={service} pid="))).count()
    }

    async fn until_agent(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let begun = Instant::now();
        loop {
            let agent = self.up.get("/api/v1/hostagents/default/host").await;
            if wanted(&agent) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the agent is not {what}: {:#}", agent["status"]);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        // Services outlive their agent on purpose.
        self.ports.iter().flat_map(|port| engines_on(*port)).for_each(super::healing::kill);
    }
}

fn agent_config(agent_port: u16, ports: [u16; 3]) -> String {
    let mut text = format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {{name: host}}\nspec:\n  listen: 127.0.0.1:{agent_port}\n  \
         selfCheckSeconds: 300\n  tls: {{certFile: server.crt, keyFile: server.key}}\n  auth: {{signingSecretFile: secret}}\n  services:\n"
    );
    for (name, port) in NAMES.iter().zip(ports) {
        text += &format!(
            "  - name: {name}\n    manager: Process\n    \
             start: {{command: ['{exe}', simulate, --engine, ollama, --listen, '127.0.0.1:{port}', --model, small]}}\n    \
             check: {{url: 'http://127.0.0.1:{port}/api/tags'}}\n    log: {{file: {name}.log}}\n",
            exe = env!("CARGO_BIN_EXE_ostler"),
        );
    }
    text
}

fn manifests(agent_port: u16, ports: [u16; 3]) -> String {
    let ca = CA.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: host}}\nstringData:\n  signingSecret: {SECRET}\n  ca.crt: |\n{ca}---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: HostAgent\nmetadata: {{name: host}}\n\
         spec: {{url: 'https://127.0.0.1:{agent_port}', secretRef: {{name: host}}, caSecretRef: {{name: host}}}}\n"
    );
    for (name, port) in NAMES.iter().zip(ports) {
        text += &format!(
            "---\napiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: {name}}}\nspec:\n  engine: Ollama\n  \
             url: 'http://127.0.0.1:{port}'\n  models: [{{name: small}}]\n  probe: {{periodSeconds: 1}}\n  \
             recovery: {{hostAgentRef: {{name: host}}, service: {name}, periodSeconds: 1}}\n"
        );
    }
    text
}

#[tokio::test]
async fn nothing_is_restarted_while_the_whole_host_is_silent_and_each_engine_once_when_it_answers() {
    let mut world = World::prepare();
    world.up.run(&[]).await;
    for name in NAMES {
        world.up.until_ready(name).await;
    }
    let before = NAMES.map(|name| world.starts(name));

    world.signal(Signal::SIGSTOP);
    world.ports.iter().flat_map(|port| engines_on(*port)).for_each(super::healing::kill);
    for name in NAMES {
        let suspected = |b: &serde_json::Value| {
            let said = condition(b, "Ready")["message"].as_str().unwrap_or_default().to_owned();
            !is_ready(b) && (said.contains("host or network is suspected") || said.contains("is not heard"))
        };
        let seen = world.up.until(name, "waiting for its host", suspected).await;
        assert_eq!(seen["status"]["recovery"]["attempts"].as_i64().unwrap_or(0), 0, "{:#}", seen["status"]);
    }
    world.until_agent("unreachable", |agent| !is_ready(agent)).await;

    world.signal(Signal::SIGCONT);
    for name in NAMES {
        world.up.until_ready(name).await;
    }
    assert_eq!(NAMES.map(|name| world.starts(name)), before.map(|n| n + 1), "each was started once more");
    assert!(world.ports.iter().all(|port| engines_on(*port).len() == 1));
}

#[tokio::test]
async fn an_agent_whose_certificate_is_not_trusted_is_not_spoken_to() {
    let mut world = World::prepare();
    let untrusted = manifests(world.agent_port, world.ports).replace(", caSecretRef: {name: host}", "");
    world.up.write("all.yaml", &untrusted);
    world.up.run(&[]).await;
    world
        .until_agent("distrusted", |agent| {
            let said = condition(agent, "Ready")["message"].as_str().unwrap_or_default().to_lowercase();
            said.contains("certificate") && said.contains("casecretref")
        })
        .await;
    world.up.write("all.yaml", &manifests(world.agent_port, world.ports));
    world.until_agent("trusted", is_ready).await;
}
