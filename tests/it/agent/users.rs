//! Services run as their users, or not at all.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use ostler::host::ServiceState;
use serde_json::json;

use super::bench::{Bench, OSTLER, eventually, write};

#[tokio::test]
async fn a_user_that_is_not_there_is_named() {
    let bench = Bench::observing();
    let service = json!({"name": "one", "start": {"command": ["sleep", "100000"], "user": "nobody-of-that-name"}});
    let agent = bench.start(json!([service])).await;
    let failed = agent.operate("one", ostler::host::Action::Start).await;
    assert!(failed.message.contains("there is no user nobody-of-that-name"), "{}", failed.message);
    agent.end().await;
}

#[tokio::test]
async fn root_starts_a_service_as_its_user_with_that_users_home() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root changes users");
        return;
    }
    let bench = Bench::new();
    let script = "echo $HOME $USER $(id -un) ${OSTLER_TOKEN:-none} $EXTRA; exec sleep 100000";
    let service = json!({"name": "one", "start": {"command": ["sh", "-c", script], "user": "daemon", "environment": {"EXTRA": "more"}}});
    let agent = bench.start(json!([service])).await;
    let seen = agent.until("one", "up", |s| s.state == ServiceState::Running && s.user.is_some()).await;
    assert_eq!(seen.user.as_deref(), Some("daemon"), "never the agent's, not even for a moment");
    let home = nix::unistd::User::from_name("daemon").unwrap().unwrap().dir;
    super::bench::eventually("written", || !bench.text("state/one.log").is_empty()).await;
    assert_eq!(bench.text("state/one.log").trim(), format!("{} daemon daemon none more", home.display()));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_nothing_of_the_agents_environment() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root changes users");
        return;
    }
    let bench = Bench::new();
    write(
        &bench.path("agent.yaml"),
        "apiVersion: ostler.dev/v1alpha1\nkind: AgentConfig\nmetadata: {name: cli}\nspec:\n  listen: 127.0.0.1:0\n  services:\n  \
         - name: one\n    start: {command: [sh, -c, 'env; exec sleep 100000'], user: daemon, environment: {EXTRA: more}}\n  \
         - name: two\n    start: {command: [sh, -c, 'env; exec sleep 100000']}\n",
    );
    let child = Command::new(OSTLER)
        .args(["agent", "--config", "agent.yaml", "--state-dir", "state"])
        .current_dir(&bench.dir)
        .env_clear()
        .envs([
            ("PATH", "/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("HOME", "/root"),
            ("AWS_SECRET_ACCESS_KEY", "leaked"),
            ("PGPASSWORD", "leaked"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "leaked"),
            ("SSH_AUTH_SOCK", "leaked"),
            ("OSTLER_TOKEN", "leaked"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    eventually("written", || {
        bench.text("state/one.log").contains("EXTRA") && bench.text("state/two.log").contains("PATH")
    })
    .await;
    let mut names: Vec<String> =
        bench.text("state/one.log").lines().filter_map(|l| Some(l.split_once('=')?.0.to_owned())).collect();
    names.sort();
    // The last one is the shell's own.
    assert_eq!(names, ["EXTRA", "HOME", "LANG", "LOGNAME", "PATH", "PWD", "USER"]);
    let own = bench.text("state/two.log");
    assert!(
        own.contains("PGPASSWORD=leaked") && !own.contains("OSTLER_"),
        "without a user it is the agent's own: {own}"
    );
    // A terminal that closes ends the agent as SIGTERM does: its services live on.
    kill(Pid::from_raw(child.0.id() as i32), Signal::SIGHUP).unwrap();
    assert!(tokio::task::block_in_place(|| child.0.wait()).unwrap().success());
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_user_does_not_lead_root_to_another_file_by_its_log() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: only root changes users");
        return;
    }
    let bench = Bench::new();
    let daemon = nix::unistd::User::from_name("daemon").unwrap().unwrap();
    for folder in ["theirs", "roots"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
    }
    std::fs::create_dir(bench.path("theirs/logs")).unwrap();
    std::fs::set_permissions(bench.path("roots"), PermissionsExt::from_mode(0o700)).unwrap();
    for folder in ["theirs", "theirs/logs"] {
        nix::unistd::chown(&bench.path(folder), Some(daemon.uid), Some(daemon.gid)).unwrap();
    }
    let service = |name: &str, file: &str| json!({"name": name, "start": {"command": ["sh", "-c", "echo evil; exec sleep 100000"], "user": "daemon"}, "log": {"file": file}});
    std::os::unix::fs::symlink(bench.path("roots"), bench.path("theirs/linked")).unwrap();
    nix::unistd::mkfifo(&bench.path("theirs/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let agent = bench
        .start(json!([
            service("fine", "theirs/logs/fine.log"),
            service("linked", "theirs/linked/evil.log"),
            service("pipe", "theirs/pipe"),
        ]))
        .await;
    agent.until("fine", "up", |s| s.state == ServiceState::Running).await;
    eventually("written", || bench.text("theirs/logs/fine.log") == "evil\n").await;
    let meta = std::fs::metadata(bench.path("theirs/logs/fine.log")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), daemon.uid.as_raw());
    for (name, why) in [("linked", "symbolic link"), ("pipe", "no regular file")] {
        let told = agent.until(name, "told", |s| s.last_failure.is_some()).await.last_failure.unwrap();
        assert!(told.contains(why), "{name}: {told}");
    }
    assert_eq!(std::fs::read_dir(bench.path("roots")).unwrap().count(), 0);
    // Nothing waits for the pipe's other end.
    tokio::time::timeout(std::time::Duration::from_secs(30), agent.end()).await.unwrap();
}

/// Without root there is one user to be: the error says so, and what to do.
#[test]
fn another_user_without_root_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let copy = bench.path("ostler");
    // Where the build's folder is, another user may have no business.
    std::fs::copy(OSTLER, &copy).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&bench.dir, open).unwrap();
    let mut command = Command::new(&copy);
    if Uid::effective().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.args(["agent-exec", "--dir", "/", "--user", "root", "--", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("only root can start a process as root") && said.contains("run the agent as root"), "{said}");
}
