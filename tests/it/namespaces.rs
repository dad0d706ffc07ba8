//! An `ostler controller` on a real API server whose namespaces are not all well, and whose CRDs are not its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ostler::api;
use serde_json::{Value, json};

use crate::real::{ApiServer, Chart, Postgres, free_port};

const QUEUE: &str =
    "apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {name: NAME, namespace: NAMESPACE}\nspec: {}\n";

/// A controller as the chart's service account, over several namespaces.
struct World {
    api: ApiServer,
    _postgres: Postgres,
    database: String,
    /// The first one is that of the release.
    namespaces: Vec<String>,
    account: PathBuf,
    root: PathBuf,
    port: u16,
    controller: Option<Child>,
}

impl World {
    fn new(namespaces: usize) -> Self {
        let root = std::env::temp_dir().join(format!("ostler-namespaces-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&root).unwrap();
        let api = ApiServer::start();
        api.install_crds();
        let namespaces: Vec<String> = (0..namespaces).map(|_| api.namespace()).collect();
        let account = chart(&namespaces).service_account(&api);
        let postgres = Postgres::start();
        let database = postgres.database();
        Self { api, _postgres: postgres, database, namespaces, account, root, port: free_port(), controller: None }
    }

    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.root.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command.args(["controller", "--listen", &format!("127.0.0.1:{}", self.port)]);
        for namespace in &self.namespaces {
            command.args(["-n", namespace]);
        }
        command.env("OSTLER_DATABASE_URL", &self.database).env("KUBECONFIG", &self.account);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.controller = Some(child);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    fn queue(&self, namespace: &str, name: &str) {
        self.api.apply(&QUEUE.replace("NAMESPACE", namespace).replace("NAME", name));
    }

    fn await_open(&self, namespace: &str, name: &str) -> Duration {
        self.until(&format!("queue {namespace}/{name} to be open"), || {
            let path = "--output=jsonpath={.status.state}";
            match self.api.kubectl(&["-n", namespace, "get", "tq", name, path]) {
                state if state == "Open" => Ok(()),
                state => Err(state),
            }
        })
    }

    fn get(&self, path: &str) -> String {
        body_of(&format!("127.0.0.1:{}", self.port), path)
    }

    fn until(&self, what: &str, mut ask: impl FnMut() -> Result<(), String>) -> Duration {
        let begun = Instant::now();
        while let Err(last) = ask() {
            assert!(begun.elapsed() < Duration::from_secs(90), "{what}: still {last}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        begun.elapsed()
    }

    /// As the namespace controller does it, which does not run here: first its content, then the namespace.
    fn delete_namespace(&self, namespace: &str) {
        for kinds in ["tq,exp,llm,ha,wp,ts,chc", "rolebindings,roles"] {
            self.api.kubectl(&["-n", namespace, "delete", kinds, "--all"]);
        }
        self.api.kubectl(&["delete", "namespace", namespace, "--wait=false"]);
        let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}});
        let path = format!("/api/v1/namespaces/{namespace}/finalize");
        self.api.try_kubectl(&["replace", "--raw", &path, "-f", "-"], &finalized.to_string()).expect("finalize");
    }

    fn give_rights(&self) {
        self.api.apply(&chart(&self.namespaces).render(&["role.yaml"]).expect("render"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(controller) = &mut self.controller {
            let _ = controller.kill();
            let _ = controller.wait();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn chart(namespaces: &[String]) -> Chart {
    Chart::new(&namespaces[0], &[&format!("watchNamespaces={}", json!(namespaces))])
}

/// The body of an answer, or nothing.
fn body_of(address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(address) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sent = write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    if sent.and_then(|()| stream.read_to_string(&mut text)).is_err() {
        return String::new();
    }
    text
}

/// A CRD of this release, changed.
fn changed_crd(kind: &str, change: impl FnOnce(&mut Value)) -> String {
    let crd = api::crds().into_iter().find(|crd| crd.spec.names.kind == kind).expect("the kind");
    let mut crd = serde_json::to_value(crd).unwrap();
    change(&mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    crd.to_string()
}

#[test]
fn real_controller_goes_on_where_namespaces_are_gone_shut_or_hold_what_it_can_not_decode() {
    let mut world = World::new(4);
    let [good, gone, shut, odd] = <[String; 4]>::try_from(world.namespaces.clone()).unwrap();
    for namespace in [&good, &gone, &shut, &odd] {
        world.queue(namespace, "first");
    }
    // Another release wrote it: this one knows no such handler.
    world.api.apply(&changed_crd("Expert", |schema| {
        let handlers = schema["properties"]["spec"]["properties"]["handler"]["enum"].as_array_mut().unwrap();
        handlers.push(json!("Oracle"));
    }));
    let expert = "apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {name: delphi, namespace: NAMESPACE}\nspec: {handler: Oracle, model: m}\n";
    let applied = world.until("the changed CRD to be in force", || {
        let args = ["apply", "--server-side", "-f", "-"];
        world.api.try_kubectl(&args, &expert.replace("NAMESPACE", &odd)).map(drop)
    });
    assert!(applied < Duration::from_secs(60));
    world.delete_namespace(&gone);
    world.api.kubectl(&["-n", &shut, "delete", "rolebinding", "ostler"]);

    world.start();
    world.await_open(&good, "first");
    world.await_open(&odd, "first");
    world.queue(&good, "second");
    let took = world.await_open(&good, "second");
    assert!(took < Duration::from_secs(5), "the others go on: {took:?}");

    let ready = world.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    for namespace in [&gone, &shut] {
        assert!(ready.contains(&format!("namespace {namespace}: can't read ")), "{ready}");
        let failing = format!("ostler_watch_failing{{controller=\"TaskQueue\",namespace=\"{namespace}\"}} 1");
        let metrics = world.get("/metrics");
        assert!(metrics.contains(&failing), "{metrics}");
    }
    assert!(!ready.contains(&good) && !ready.contains(&odd), "{ready}");
    world.until("the undecodable one to be named", || {
        let event = world.api.kubectl(&["-n", &odd, "get", "events", "--output=wide"]);
        if event.contains("Undecodable") && event.contains("delphi") { Ok(()) } else { Err(event) }
    });
    let log = world.log();
    assert!(log.contains(&format!("namespace {gone} does not exist")), "{log}");
    let told = |log: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(&shut)).count();
    let first = told(&log);
    assert!((1..=14).contains(&first), "told once for each kind, not for each try: {first}\n{log}");

    // Both are mended.
    world.api.kubectl(&["create", "namespace", &gone]);
    world.give_rights();
    world.queue(&gone, "second");
    for (namespace, name) in [(&gone, "second"), (&shut, "first")] {
        let took = world.await_open(namespace, name);
        eprintln!("{namespace} is served {took:?} after it can be read");
    }
    world.until("all to be well", || {
        let ready = world.get("/readyz");
        if ready.contains("namespace ") { Err(ready) } else { Ok(()) }
    });
    assert_eq!(told(&world.log()), first, "{}", world.log());
}

#[test]
fn real_controller_tells_of_a_crd_that_is_older_and_writes_once_it_is_updated() {
    let mut world = World::new(1);
    let namespace = world.namespaces[0].clone();
    world.api.apply(&changed_crd("TaskQueue", |schema| {
        let status = schema["properties"]["status"]["properties"].as_object_mut().unwrap();
        status.remove("pools").expect("a field that is written");
    }));
    world.queue(&namespace, "first");
    world.start();
    world.until("an error to be counted", || {
        let metrics = world.get("/metrics");
        let counted = "ostler_reconcile_errors_total{controller=\"TaskQueue\",reason=\"CRDOlder\"}";
        if metrics.contains(counted) { Ok(()) } else { Err(metrics) }
    });
    let log = world.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("older than this controller")).collect();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains(".status.pools"), "{log}");

    world.api.install_crds();
    let took = world.await_open(&namespace, "first");
    eprintln!("written {took:?} after the CRD was updated");
}
