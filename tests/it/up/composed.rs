//! Services of a compose project, kept as they are declared: nobody's half-edited file is deployed by that.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::real::Docker;

use super::{
    containers::{inspected, is_running, manifests_of, shared, until},
    harness::{Up, is_ready, state},
};

/// A project of two services in a folder of its own.
struct Project {
    folder: PathBuf,
}

impl Project {
    fn up() -> Self {
        let project =
            Self { folder: std::env::temp_dir().join(format!("ostler-kept-{}", uuid::Uuid::new_v4().simple())) };
        std::fs::create_dir(&project.folder).unwrap();
        project.write("1000");
        shared().compose(&project.folder, &["up", "--detach"]);
        project
    }

    fn write(&self, seconds: &str) {
        let service = |seconds: &str| {
            format!("{{image: {}, command: [sleep, {seconds:?}], stop_grace_period: 1s}}", Docker::IMAGE)
        };
        let text = format!("name: kept\nservices:\n  db: {}\n  nightly: {}\n", service("1000"), service(seconds));
        std::fs::write(self.folder.join("compose.yaml"), text).unwrap();
    }

    fn check(&self) -> Value {
        let compose = json!({"projectDirectory": self.folder, "services": ["db", "nightly"]});
        json!({
            "target": {"docker": {"hostAgentRef": {"name": "here"}, "compose": compose}},
            "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 2},
        })
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        self.write("1000");
        shared().compose(&self.folder, &["down", "--timeout", "1"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Empty where there is none.
fn id(container: &str) -> String {
    let filter = format!("name=^/{container}$");
    shared().docker(&["ps", "--all", "--no-trunc", "--quiet", "--filter", &filter]).trim().to_owned()
}

fn entry<'a>(check: &'a Value, name: &str) -> &'a Value {
    let all = check["status"]["containers"].as_array();
    all.and_then(|all| all.iter().find(|c| c["name"] == name)).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn real_docker_services_come_up_as_they_were_made_and_a_half_edited_file_is_not_deployed() {
    let (docker, project) = (shared(), Project::up());
    let allow = json!({"composeProjects": ["kept"]});
    let up = Up::start(&[("all.yaml", &manifests_of(docker, &allow, &[("kept", project.check())]))]).await;
    let ready = |c: &Value| is_ready(c) && c["status"]["total"] == 2;
    until(&up, "kept", "ready", ready).await;

    // Exited, and removed.
    let nightly = "kept-nightly-1";
    let (first, started) = (id(nightly), inspected(docker, nightly, "{{.State.StartedAt}}"));
    docker.docker(&["kill", nightly]);
    until(&up, "kept", "up again", |c| {
        ready(c) && is_running(docker, nightly) && inspected(docker, nightly, "{{.State.StartedAt}}") != started
    })
    .await;
    assert_eq!(id(nightly), first, "the same container");
    docker.docker(&["rm", "--force", nightly]);
    until(&up, "kept", "made again", |c| ready(c) && !id(nightly).is_empty() && is_running(docker, nightly)).await;
    assert_ne!(id(nightly), first);

    // Somebody is in the middle of an edit: what is stopped starts as it was made, what is gone stays gone.
    project.write("2000");
    docker.docker(&["kill", nightly]);
    let drifted = until(&up, "kept", "up, and the drift is told", |c| {
        ready(c) && entry(c, "nightly")["message"].as_str().is_some_and(|said| said.contains("compose"))
    })
    .await;
    let command = inspected(docker, nightly, "{{json .Config.Cmd}}");
    assert_eq!(command, r#"["sleep","1000"]"#, "{drifted:#}");
    docker.docker(&["rm", "--force", nightly]);
    let refused = until(&up, "kept", "refused", |c| {
        entry(c, "nightly")["lastAction"].as_str().is_some_and(|did| did.contains("docker compose up -d nightly"))
    })
    .await;
    assert_eq!((state(&refused), &entry(&refused, "nightly")["state"]), ("Degraded", &json!("Missing")), "{refused:#}");
    assert!(id(nightly).is_empty() && is_running(docker, "kept-db-1"), "the other goes on");

    // The edit is taken back.
    project.write("1000");
    until(&up, "kept", "ready again", ready).await;
    assert!(is_running(docker, nightly) && is_running(docker, "kept-db-1"));
}

/// A compose project in a folder of its own, removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn up(name: &str, services: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ostler-{name}-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let text = format!("name: {name}\nservices:\n{services}").replace("IMAGE", Docker::IMAGE);
        std::fs::write(folder.join("compose.yaml"), text).unwrap();
        shared().compose(&folder, &["up", "--detach"]);
        Self(folder)
    }

    /// A check of the whole project.
    fn check(&self) -> Value {
        json!({
            "target": {"docker": {"hostAgentRef": {"name": "here"}, "compose": {"projectDirectory": self.0}}},
            "restart": {"backoffSeconds": 1, "maxBackoffSeconds": 2},
            "outOfMemory": {"policy": "Resize", "minIncrease": "200Mi", "max": "300Mi"},
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        shared().compose(&self.0, &["down", "--timeout", "1"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SERVE: &str = r#"["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"]"#;

fn started(container: &str) -> String {
    inspected(shared(), container, "{{.State.StartedAt}}")
}

#[tokio::test]
async fn real_docker_a_project_with_one_shots_comes_to_rest_and_only_what_is_hurt_is_started() {
    let services = format!(
        "  db: {{image: IMAGE, command: {SERVE}}}
  migrate:
    image: IMAGE
    command: [sh, -c, 'exit 0']
    restart: 'no'
    depends_on: {{db: {{condition: service_started}}}}
  app:
    image: IMAGE
    command: {SERVE}
    depends_on: {{db: {{condition: service_started}}, migrate: {{condition: service_completed_successfully}}}}
  worker: {{image: IMAGE, command: {SERVE}}}
"
    );
    let (docker, project) = (shared(), Folder::up("flow", &services));
    let allow = json!({"composeProjects": ["flow"]});
    let migrated = started("flow-migrate-1");
    let up = Up::start(&[("all.yaml", &manifests_of(docker, &allow, &[("flow", project.check())]))]).await;
    let ready = |c: &Value| is_ready(c) && c["status"]["total"] == 4;
    let rests = until(&up, "flow", "at rest", ready).await;
    assert_eq!((state(&rests), &rests["status"]["unhealthy"]), ("Healthy", &json!(0)), "{rests:#}");

    // One is killed: it alone is started. Passes over all of them have gone by then.
    let before = started("flow-app-1");
    docker.docker(&["kill", "flow-app-1"]);
    until(&up, "flow", "app up again", |c| {
        ready(c) && is_running(docker, "flow-app-1") && started("flow-app-1") != before
    })
    .await;
    assert_eq!(started("flow-migrate-1"), migrated, "what has completed is not started again");
    let events = up.get("/api/v1/events?kind=ContainerHealthCheck&name=flow").await.to_string();
    assert_eq!(events.matches("\"ContainerStarted\"").count(), 1, "{events}");
}

#[tokio::test]
async fn real_docker_an_out_of_memory_death_in_a_project_is_healed_and_nothing_is_done_afterwards() {
    // From when a file appears it needs more memory than it may have, for a moment; then it serves.
    let eat = "trap 'exit 0' TERM; until [ -e /shared/hungry ]; do sleep 0.1; done; \
               head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null || exit 137; while :; do sleep 0.2; done";
    let services = format!(
        "  db: {{image: IMAGE, command: {SERVE}}}
  migrate: {{image: IMAGE, command: [sh, -c, 'exit 0'], restart: 'no', depends_on: [db]}}
  app: {{image: IMAGE, command: {}, mem_limit: 20m, memswap_limit: 20m, volumes: ['.:/shared'], depends_on: [db]}}
",
        json!(["sh", "-c", eat])
    );
    let (docker, project) = (shared(), Folder::up("hungry", &services));
    let allow = json!({"composeProjects": ["hungry"]});
    let up = Up::start(&[("all.yaml", &manifests_of(docker, &allow, &[("hungry", project.check())]))]).await;
    let ready = |c: &Value| is_ready(c) && c["status"]["total"] == 3;
    until(&up, "hungry", "at rest", ready).await;
    let all = ["hungry-app-1", "hungry-db-1", "hungry-migrate-1"];
    let before = all.map(started);

    std::fs::write(project.0.join("hungry"), "").unwrap();
    let healed = until(&up, "hungry", "healed", |c| {
        let app = entry(c, "app");
        ready(c) && app["memoryLimit"] == "220Mi" && app["outOfMemoryCount"].as_i64() > Some(0)
    })
    .await;
    assert!(is_running(docker, all[0]), "{healed:#}");
    let after = all.map(started);
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1..], before[1..], "the others were left alone");
    let actions = async || {
        let told = up.get("/api/v1/events?kind=ContainerHealthCheck&name=hungry").await.to_string();
        ["ContainerStarted", "MemoryLimitRaised"].map(|reason| told.matches(&format!("\"{reason}\"")).count())
    };
    assert_eq!(actions().await, [1, 1]);

    // As long as several passes take.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    assert_eq!((all.map(started), actions().await), (after, [1, 1]));
}

#[tokio::test]
async fn real_docker_a_one_shot_that_failed_is_told_and_runs_again_only_when_asked() {
    let services = "  import: {image: IMAGE, command: [sh, -c, 'exit 3'], restart: 'no'}
  app: {image: IMAGE, command: [sleep, '1000'], stop_grace_period: 1s}
";
    let (docker, project) = (shared(), Folder::up("once", services));
    let allow = json!({"composeProjects": ["once"]});
    let first = started("once-import-1");
    let up = Up::start(&[("all.yaml", &manifests_of(docker, &allow, &[("once", project.check())]))]).await;
    let failed = until(&up, "once", "told", |c| state(c) == "Failed").await;
    let import = entry(&failed, "import");
    assert_eq!(
        (&import["state"], &import["exitCode"], &import["attempts"]),
        (&json!("Failed"), &json!(3), &Value::Null)
    );
    // Its neighbor is healed meanwhile.
    let before = started("once-app-1");
    docker.docker(&["kill", "once-app-1"]);
    until(&up, "once", "app up again", |c| {
        state(c) == "Failed" && is_running(docker, "once-app-1") && started("once-app-1") != before
    })
    .await;
    assert_eq!(started("once-import-1"), first, "it is not looped");
    up.ostler_ok(&["reconcile", "chc/once"]);
    until(&up, "once", "run again", |c| state(c) == "Failed" && started("once-import-1") != first).await;
    let events = up.get("/api/v1/events?kind=ContainerHealthCheck&name=once").await.to_string();
    assert!(events.contains("is to run only once"), "{events}");
}
