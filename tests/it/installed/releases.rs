//! A release as people have it: `helm install --wait` with the least rights, work, `helm test`, an upgrade in the middle of work, `uninstall`.

use std::{path::Path, time::Duration};

use super::{Installed, Team, until};
use crate::real::{ApiServer, Chart, Postgres};

const TASKS: usize = 50;

const RESOURCES: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: engine}
spec:
  selector: {matchLabels: {app: engine}}
  template:
    metadata: {labels: {app: engine}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: engine
        image: local/ostler:test
        imagePullPolicy: Never
        args: [simulate, --engine=ollama, "--listen=0.0.0.0:11434", --model=tiny]
---
apiVersion: v1
kind: Service
metadata: {name: engine}
spec: {selector: {app: engine}, ports: [{port: 11434}]}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: sh, image: 'local/busybox:1', imagePullPolicy: Never, command: [sleep, "100000"]}]
---
apiVersion: ostler.dev/v1alpha1
kind: Expert
metadata: {name: igor}
spec: {domains: [demo], model: tiny, parameters: {maxTokens: 8}}
---
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {retry: {backoffSeconds: 1}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: smart}
spec: {queueRefs: [{name: default}], replicas: {min: 1, max: 2}, concurrency: {max: 2}, workloadRef: {kind: Deployment, name: ostler-worker-smart}}
"#;

/// A release of its own in the cluster that all share, with its own database.
fn place() -> Team {
    let cluster = Installed::shared().cluster;
    let system = cluster.api.namespace();
    let postgres = Postgres::listening_at(cluster.host_address());
    let database = postgres.database_at(cluster.host_address());
    let namespace: &'static str = Box::leak(system.clone().into_boxed_str());
    let installed = Installed { cluster, system, database, _postgres: postgres };
    let installed: &'static Installed = Box::leak(Box::new(installed));
    let (url, key) = (format!("--from-literal=url={}", installed.database), ostler::store::seal::Key::generate());
    let key = format!("--from-literal=key={key}");
    for (name, value) in [("ostler-database", &url), ("ostler-key", &key)] {
        cluster.api.kubectl(&["--namespace", namespace, "create", "secret", "generic", name, value]);
    }
    Team { installed, namespace }
}

impl Team {
    fn helm(&self, chart: &Chart, command: &str, flags: &[&str]) -> String {
        let done = chart.release(command, self.installed.cluster.api.kubeconfig(), flags);
        done.unwrap_or_else(|complaint| panic!("helm {command}: {complaint}\n{}", self.story()))
    }

    fn completed(&self, person: &Path) -> usize {
        let (code, said) = self.plugin(person, &["tasks", "list", "-s", "completed", "--limit", "100"]);
        if code == 0 { said.lines().count().saturating_sub(1) } else { 0 }
    }
}

#[tokio::test]
async fn real_release_with_the_least_rights_works_through_an_upgrade_and_leaves_what_is_declared() {
    tokio::task::spawn_blocking(lifecycle).await.expect("a release");
}

fn lifecycle() {
    let team = place();
    let api = &team.installed.cluster.api;
    // The definitions are those of the installation that all share.
    let chart = Chart::new(team.namespace, &["crds.enabled=false", "scaleWorkers=true"])
        .with(r#"image={"repository":"local/ostler","tag":"test","pullPolicy":"Never"}"#)
        .with(r#"sealing.existingSecret="ostler-key""#)
        .with(r#"workers=[{"pool":"smart","drainSeconds":30}]"#);
    team.helm(&chart, "install", &["--wait", "--timeout=180s"]);
    team.apply(RESOURCES);
    let address = team.field("service/engine", ".spec.clusterIP");
    team.apply(&format!(
        "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: engine}}\n\
         spec: {{engine: Ollama, url: 'http://{address}:11434', models: [{{name: tiny}}], concurrency: {{max: 4}}}}\n"
    ));
    let ready = |what: &str| {
        until(&format!("{what} to be Ready"), Duration::from_secs(120), || {
            match team.field(what, ".status.conditions[?(@.type=='Ready')].status") {
                ready if ready == "True" => Ok(()),
                other => Err(format!("{other:?}\n{}", team.story())),
            }
        });
    };
    ready("llm/engine");
    ready("wp/smart");
    let tested = team.helm(&chart, "test", &["--timeout=60s", "--logs"]);
    assert!(tested.contains("0 errors"), "{tested}");

    // What other pods reach: health, and no API.
    let pod = "--selector=app.kubernetes.io/component=controller";
    let address = team.kubectl(&["get", "pods", pod, "--output=jsonpath={.items[0].status.podIP}"]);
    team.kubectl(&["wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s"]);
    let get = |port: u16| {
        // Busybox's wget needs a resolver that its static program lacks.
        let script = format!("echo -e 'GET /livez HTTP/1.0\\r\\n\\r\\n' | nc {address} {port}");
        team.try_kubectl(&["exec", "stranger", "--", "sh", "-c", &script], "")
    };
    let health = get(9182);
    assert!(matches!(&health, Ok(said) if said.contains("200 OK")), "health: {health:?}");
    let refused = get(9180).expect_err("no API for other pods");
    assert!(refused.contains("refused"), "{refused}");

    // An administrator with a client certificate.
    let person = api.kubeconfig();
    let file = std::env::temp_dir().join(format!("ostler-release-{}.jsonl", uuid::Uuid::new_v4()));
    let lines: String = (0..TASKS).map(|n| format!("{{\"domain\": \"demo\", \"prompt\": \"hello {n}\"}}\n")).collect();
    std::fs::write(&file, lines).expect("write the tasks");
    until("tasks to be taken", Duration::from_secs(60), || {
        match team.plugin(person, &["tasks", "add", "-f", file.to_str().expect("UTF-8")]) {
            (0, _) => Ok(()),
            (_, said) => Err(said),
        }
    });
    std::fs::remove_file(&file).expect("remove it");
    // Everything is replaced meanwhile.
    let chart = chart.with(r#"podAnnotations={"a":"b"}"#).with(r#"log.filter="debug,info""#);
    team.helm(&chart, "upgrade", &["--wait", "--timeout=180s"]);
    until("all tasks to be done", Duration::from_secs(180), || match team.completed(person) {
        done if done == TASKS => Ok(()),
        done => Err(format!("{done}\n{}", team.story())),
    });
    ready("llm/engine");
    // Only its own namespace, and of Deployments only their scale.
    let writes = api.writes(team.namespace);
    let of_workloads: Vec<&String> =
        writes.iter().filter(|write| !write.contains("/status ") && !write.contains(" events ")).collect();
    assert!(
        of_workloads.iter().all(|write| write.starts_with("patch deployments/scale ostler-worker-smart")),
        "{of_workloads:?}"
    );

    team.helm(&chart, "uninstall", &["--wait"]);
    assert_eq!(team.field("deployment/ostler", ".metadata.name"), "");
    assert_eq!(team.field("llm/engine", ".metadata.name"), "engine", "what is declared stays");
}

#[test]
fn real_upgrade_brings_a_new_field_of_a_definition_and_an_uninstall_keeps_definitions_and_resources() {
    let server = ApiServer::start();
    let namespace = server.namespace();
    let folder = std::env::temp_dir().join(format!("ostler-chart-{}", uuid::Uuid::new_v4().simple()));
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/charts/ostler"))
        .arg(&folder)
        .status();
    assert!(copied.expect("run cp").success());
    let (now, later) = (Chart::new(&namespace, &[]), Chart::new(&namespace, &[]).in_folder(&folder));
    let run = |chart: &Chart, command: &str, flags: &[&str]| {
        chart.release(command, server.kubeconfig(), flags).unwrap_or_else(|why| panic!("helm {command}: {why}"));
    };
    run(&now, "install", &[]);
    server.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd/experts.ostler.dev"]);
    let expert = |field: &str| {
        format!(
            "apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {{name: igor, namespace: {namespace}}}\nspec: {{domains: [x], model: small{field}}}\n"
        )
    };
    let apply = |text: &str| server.try_kubectl(&["apply", "--server-side", "--validate=strict", "-f", "-"], text);
    apply(&expert("")).expect("an expert");
    assert!(apply(&expert(", nickname: Igor")).is_err(), "this release has no such field");

    let file = folder.join("files/crds/ostler.dev_experts.yaml");
    let text = std::fs::read_to_string(&file).expect("read it");
    let field = "              nickname:\n                type: string\n                maxLength: 63\n              domains:\n";
    let changed = text.replacen("              domains:\n", field, 1);
    assert_ne!(changed, text, "where fields of a spec are");
    std::fs::write(&file, changed).expect("write it");
    run(&later, "upgrade", &[]);
    until("the new field to be known", Duration::from_secs(30), || apply(&expert(", nickname: Igor")).map(drop));
    run(&later, "uninstall", &[]);
    let kept = server.kubectl(&["--namespace", &namespace, "get", "exp", "igor", "--output=jsonpath={.spec.nickname}"]);
    assert_eq!(kept, "Igor");
    assert_eq!(server.kubectl(&["--namespace", &namespace, "get", "deployments", "--output=name"]), "");
    std::fs::remove_dir_all(folder).expect("remove the copy");
}
