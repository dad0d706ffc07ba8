//! Services run as their users, or not at all.

use std::{os::unix::process::CommandExt, process::Command};

use nix::unistd::Uid;
use ostler::host::ServiceState;
use serde_json::json;

use super::bench::{Bench, OSTLER};

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
