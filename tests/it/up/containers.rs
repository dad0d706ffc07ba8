//! Containers of a real Docker engine, kept as they are declared by `ostler up` and its agent.

use std::{sync::LazyLock, time::Duration};

use serde_json::{Value, json};

use crate::real::{Docker, free_port};

use super::harness::{Up, condition, is_ready, state};

const SLEEP: &[&str] = &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"];

/// The engine of the tests that leave it running: each has names and labels of its own.
pub fn shared() -> &'static Docker {
    static SHARED: LazyLock<Docker> = LazyLock::new(Docker::start);
    &SHARED
}

/// An agent that may touch all containers of a label, and these checks.
fn manifests(docker: &Docker, label: &str, checks: &[(&str, Value)]) -> String {
    manifests_of(docker, &json!({"labels": {"team": label}}), checks)
}

/// The same for an agent that may touch what `allow` says.
pub fn manifests_of(docker: &Docker, allow: &Value, checks: &[(&str, Value)]) -> String {
    let agent = json!({
        "apiVersion": "ostler.dev/v1alpha1", "kind": "AgentConfig", "metadata": {"name": "here"},
        "spec": {"listen": format!("127.0.0.1:{}", free_port()), "docker": {
            "socket": docker.socket(), "composeCommand": Docker::compose_command(),
            "allow": allow, "composeFolders": [std::env::temp_dir()],
        }},
    });
    let mut all = vec![agent];
    all.extend(checks.iter().map(|(name, spec)| check(name, spec)));
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n")
}

fn check(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "ostler.dev/v1alpha1", "kind": "ContainerHealthCheck", "metadata": {"name": name}, "spec": spec})
}

fn names(names: &[&str], more: Value) -> Value {
    let mut spec = json!({"target": {"docker": {"hostAgentRef": {"name": "here"}, "names": names}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn run(docker: &Docker, name: &str, label: &str, options: &[&str], command: &[&str]) -> String {
    let label = format!("team={label}");
    docker.run_container(name, &[&["--label", label.as_str()], options].concat(), command)
}

pub fn inspected(docker: &Docker, name: &str, format: &str) -> String {
    docker.docker(&["inspect", "--format", format, name]).trim().to_owned()
}

pub fn is_running(docker: &Docker, name: &str) -> bool {
    inspected(docker, name, "{{.State.Running}}") == "true"
}

pub async fn until(up: &Up, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    up.until_of("containerhealthchecks", name, what, wanted).await
}

#[tokio::test]
async fn real_docker_out_of_memory_raises_the_limit_and_a_kill_does_not() {
    let docker = shared();
    // It needs more than 20 MB for a moment, and then serves.
    let eat = [
        "sh",
        "-c",
        "head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null || exit $?; trap 'exit 0' TERM; while :; do sleep 0.2; done",
    ];
    run(docker, "eater", "a", &["--memory", "20m", "--memory-swap", "20m"], &eat);
    run(docker, "worker", "a", &["--memory", "50m", "--memory-swap", "50m"], SLEEP);
    let raise = json!({"outOfMemory": {"policy": "Resize", "minIncrease": "200Mi", "max": "300Mi"}, "restart": {"backoffSeconds": 1}});
    let checks = [("eater", names(&["eater"], raise.clone())), ("worker", names(&["worker"], raise))];
    let up = Up::start(&[("all.yaml", &manifests(docker, "a", &checks))]).await;
    let raised = until(&up, "eater", "raised and running", |c| {
        let entry = &c["status"]["containers"][0];
        is_ready(c) && entry["memoryLimit"] == "220Mi" && entry["outOfMemoryCount"].as_i64() > Some(0)
    })
    .await;
    assert!(is_running(docker, "eater"), "{raised:#}");
    assert_eq!(inspected(docker, "eater", "{{.HostConfig.Memory}}"), (220_i64 << 20).to_string(), "{raised:#}");
    assert_eq!(raised["status"]["containers"][0]["lastAction"], "Up: done", "{raised:#}");

    until(&up, "worker", "ready", is_ready).await;
    let started = inspected(docker, "worker", "{{.State.StartedAt}}");
    docker.docker(&["kill", "worker"]);
    until(&up, "worker", "ready again", |c| {
        is_ready(c) && is_running(docker, "worker") && inspected(docker, "worker", "{{.State.StartedAt}}") != started
    })
    .await;
    let events = up.get("/api/v1/events?kind=ContainerHealthCheck&name=worker").await.to_string();
    assert!(events.contains("was killed (137)") && !events.contains("MemoryLimitRaised"), "{events}");
    assert_eq!(inspected(docker, "worker", "{{.HostConfig.Memory}}"), (50_i64 << 20).to_string());
}

#[tokio::test]
async fn real_docker_a_persons_stop_is_held_until_resumed_and_what_is_declared_stopped_stays_down() {
    let docker = shared();
    for name in ["held", "stubborn", "down"] {
        run(docker, name, "b", &[], SLEEP);
    }
    // Nobody labelled it for this agent.
    docker.run_container("outside", &[], SLEEP);
    let checks = [
        ("outside", names(&["outside"], json!({"desiredState": "Stopped"}))),
        ("held", names(&["held"], json!({}))),
        ("stubborn", names(&["stubborn"], json!({"manualStop": "Restart"}))),
        ("down", names(&["down"], json!({"desiredState": "Stopped"}))),
    ];
    let up = Up::start(&[("all.yaml", &manifests(docker, "b", &checks))]).await;
    for name in ["held", "stubborn", "down"] {
        until(&up, name, "ready", is_ready).await;
    }
    assert!(!is_running(docker, "down"), "declared Stopped");
    docker.docker(&["stop", "held", "stubborn"]);
    until(&up, "held", "held", |c| state(c) == "HeldByPerson").await;
    until(&up, "stubborn", "started again", |c| is_ready(c) && is_running(docker, "stubborn")).await;
    assert!(!is_running(docker, "held"), "a person's will");
    up.ostler_ok(&["resume", "chc/held"]);
    until(&up, "held", "resumed", |c| is_ready(c) && is_running(docker, "held")).await;
    docker.docker(&["start", "down"]);
    until(&up, "down", "stopped again", |c| is_ready(c) && !is_running(docker, "down")).await;
    until(&up, "outside", "refused", |c| state(c) == "Refused").await;
    assert!(is_running(docker, "outside"), "what the agent's file does not allow is not touched");
}

#[tokio::test]
async fn real_docker_five_that_die_together_are_a_storm_that_nothing_is_done_about() {
    let docker = shared();
    let folder = std::env::temp_dir().join(format!("ostler-storm-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).unwrap();
    // What they all need breaks: whoever is started meanwhile dies again.
    let (broken, mount) = (folder.join("broken"), format!("{}:/shared", folder.display()));
    let needs = ["sh", "-c", "trap 'exit 0' TERM; while [ ! -e /shared/broken ]; do sleep 0.1; done; exit 7"];
    let five = ["s1", "s2", "s3", "s4", "s5"];
    for name in five {
        run(docker, name, "c", &["--volume", &mount], &needs);
    }
    let spec = json!({
        "target": {"docker": {"hostAgentRef": {"name": "here"}, "labels": {"team": "c"}}},
        "maxUnhealthy": 1, "stormCooldownSeconds": 2, "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 2},
    });
    let up = Up::start(&[("all.yaml", &manifests(docker, "c", &[("five", spec)]))]).await;
    let all = until(&up, "five", "ready", is_ready).await;
    assert_eq!(all["status"]["total"], 5);
    std::fs::write(&broken, "").unwrap();
    let storm =
        until(&up, "five", "a storm", |c| state(c) == "TooManyUnhealthy" && c["status"]["unhealthy"] == 5).await;
    assert_eq!(condition(&storm, "Stalled")["status"], "True");
    let starts = || five.map(|name| inspected(docker, name, "{{.State.StartedAt}}"));
    let before = starts();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(starts(), before, "nothing is done about them");
    std::fs::remove_file(&broken).unwrap();
    docker.docker(&["start", "s1", "s2", "s3", "s4"]);
    until(&up, "five", "mended after its cool-down", |c| is_ready(c) && five.iter().all(|n| is_running(docker, n)))
        .await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn real_docker_what_depends_on_something_broken_waits_and_says_for_whom() {
    let docker = shared();
    let label = "team=d";
    for (name, command) in [("db", SLEEP), ("orchestrator", &["sh", "-c", "exit 3"][..]), ("web", SLEEP)] {
        docker.docker(&[&["create", "--name", name, "--label", label, Docker::IMAGE], command].concat());
    }
    let after = |name: &str| json!({"dependsOn": [{"kind": "ContainerHealthCheck", "name": name}], "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 4}});
    let checks = [
        ("db", names(&["db"], json!({}))),
        ("orchestrator", names(&["orchestrator"], after("db"))),
        ("web", names(&["web"], after("orchestrator"))),
    ];
    let up = Up::start(&[("all.yaml", &manifests(docker, "d", &checks))]).await;
    until(&up, "db", "ready", is_ready).await;
    until(&up, "orchestrator", "tried more than once", |c| c["status"]["containers"][0]["attempts"].as_i64() > Some(1))
        .await;
    let waits = until(&up, "web", "waiting", |c| state(c) == "WaitingForDependency").await;
    assert!(condition(&waits, "Ready")["message"].as_str().unwrap().contains("orchestrator"), "{waits:#}");
    assert!(!is_running(docker, "web"));
    // Put right.
    docker.docker(&["rm", "--force", "orchestrator"]);
    docker.docker(&[&["create", "--name", "orchestrator", "--label", label, Docker::IMAGE], SLEEP].concat());
    until(&up, "web", "up", |c| is_ready(c) && is_running(docker, "web")).await;
    assert!(is_running(docker, "orchestrator"));
}

#[tokio::test]
async fn real_docker_engine_that_restarts_loses_nothing_and_one_that_is_away_is_not_judged() {
    let docker = Docker::start();
    run(&docker, "one", "e", &[], SLEEP);
    let up = Up::start(&[("all.yaml", &manifests(&docker, "e", &[("one", names(&["one"], json!({})))]))]).await;
    until(&up, "one", "ready", is_ready).await;
    docker.stop();
    let blind = until(&up, "one", "unknown", |c| state(c) == "Unknown").await;
    assert!(blind["status"]["unhealthy"].is_null(), "no verdict: {blind:#}");
    docker.resume();
    until(&up, "one", "up again", |c| is_ready(c) && is_running(&docker, "one")).await;
}
