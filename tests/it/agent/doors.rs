//! TLS, the command line, and what may not be exposed.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use ostler::{
    agent::AgentError,
    api::AgentTls,
    host::{Credentials, HostError, HttpHost},
    net::HttpClient,
};
use serde_json::json;

use super::bench::{Bench, OSTLER, eventually, write};

const CA: &str = include_str!("tls/ca.crt");

#[tokio::test]
async fn an_agent_with_a_certificate_is_believed_by_those_who_know_its_ca() {
    let bench = Bench::new();
    write(&bench.path("server.crt"), include_str!("tls/server.crt"));
    write(&bench.path("server.key"), include_str!("tls/server.key"));
    let mut settings = bench.settings(json!([]));
    settings.spec.tls = Some(AgentTls { cert_file: "server.crt".into(), key_file: "server.key".into() });
    let agent = bench.start_with(settings).await;
    assert!(agent.handle.url().starts_with("https://"));
    let credentials = Credentials { signing_secret: Some(bench.secret.clone()), token: None };
    let host = HttpHost::new(HttpClient::trusting(CA).unwrap(), &agent.handle.url(), "bench", credentials).unwrap();
    let report = host.report().await.unwrap();
    assert_eq!(report.name, "bench");
    let waited = host.report_after(report.revision.unwrap(), std::time::Duration::from_secs(1)).await.unwrap();
    assert_eq!(waited.revision, report.revision);
    let stranger = agent.client.report().await.unwrap_err();
    assert!(matches!(stranger, HostError::Untrusted { .. }), "{stranger}");
    agent.end().await;
}

#[tokio::test]
async fn a_token_does_not_leave_the_machine_in_the_clear() {
    let bench = Bench::new();
    write(&bench.path("token"), "a-token-for-tests-only");
    let mut settings = bench.settings(json!([]));
    settings.spec.listen = "0.0.0.0:0".into();
    settings.spec.auth.token_file = Some("token".into());
    let refused = ostler::agent::start(settings, Default::default()).await.unwrap_err();
    assert!(matches!(refused, AgentError::Exposed { .. }), "{refused}");
    let mut settings = bench.settings(json!([]));
    settings.spec.listen = "0.0.0.0:0".into();
    settings.signing_secret = None;
    let open = ostler::agent::start(settings, Default::default()).await.unwrap_err();
    assert!(matches!(open, AgentError::Exposed { .. }), "{open}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_serves_a_file_and_logs_what_it_refuses() {
    let bench = Bench::new();
    write(&bench.path("secret"), &bench.secret.expose());
    write(
        &bench.path("agent.yaml"),
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {name: cli}\n\
         spec:\n  listen: 127.0.0.1:0\n  auth: {signingSecretFile: secret}\n  services:\n  \
         - {name: one, start: {command: [sh, -c, 'echo token ${OSTLER_TOKEN:-none} ${OTHER:-none}; exec sleep 100000']}}\n",
    );
    let spawned = Command::new(OSTLER)
        .args(["--log-format", "json", "agent", "--config", "agent.yaml", "--state-dir", "state"])
        .current_dir(&bench.dir)
        .env("OSTLER_TOKEN", "no business of a service")
        .env("OTHER", "passed")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(spawned);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let first = tokio::task::block_in_place(|| lines.next()).unwrap().unwrap();
    let url = first.split_whitespace().find_map(|w| w.strip_suffix(';')).unwrap().to_owned();
    for _ in 0..20 {
        let answer = reqwest::get(format!("{url}/v1/report")).await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(reqwest::get(format!("{url}/livez")).await.unwrap().text().await.unwrap(), "ok\n");
    let wrong = reqwest::Client::new().post(format!("{url}/recover/a-secret-in-a-path")).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    eventually("started", || bench.text("state/one.log") == "token none passed\n").await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.0.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut log = String::new();
    tokio::task::block_in_place(|| std::io::Read::read_to_string(&mut child.0.stderr.take().unwrap(), &mut log))
        .unwrap();
    assert!(child.0.wait().unwrap().success(), "{log}");
    assert!(log.contains("request refused") && log.contains("NoCredentials") && log.contains("/v1/report"), "{log}");
    assert_eq!(log.matches("/v1/report").count(), 1, "one line for each kind of refusal and caller: {log}");
    let more = log.lines().find(|line| line.contains("further requests refused") && line.contains("NoCredentials"));
    assert!(more.is_some_and(|line| line.contains("\"count\":")), "{log}");
    assert!(!log.contains("a-secret-in-a-path"), "{log}");
    assert!(!log.contains(&bench.secret.expose()), "{log}");
}

#[test]
fn a_broken_file_is_named_with_line_and_field() {
    let bench = Bench::new();
    let file = "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {name: cli}\nspec:\n  services:\n  - name: one\n    strat: {command: [x]}\n";
    write(&bench.path("agent.yaml"), file);
    let output =
        Command::new(OSTLER).args(["agent", "--config", "agent.yaml"]).current_dir(&bench.dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("agent.yaml:7") && said.contains("strat"), "{said}");
}
