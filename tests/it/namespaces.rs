//! An `ostler controller` on a real API server whose namespaces are not all well, and whose CRDs are not its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use ostler::{
    api,
    store::{self, Home, Store, TaskFilter, TaskPage},
    tasks::{NewTask, Payload, Task, TaskState},
};
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
    Chart::able(&namespaces[0], &namespaces.iter().map(String::as_str).collect::<Vec<_>>())
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
    world.until("its status to say so", || match world.api.kubectl(&["-n", &odd, "get", "exp", "delphi"]) {
        line if line.contains("False") && line.contains("Undecodable") => Ok(()),
        line => Err(line),
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

#[test]
fn real_controller_shares_a_server_of_two_namespaces_and_tells_neither_of_the_other() {
    let mut world = World::new(2);
    let [first, second] = <[String; 2]>::try_from(world.namespaces.clone()).unwrap();
    let backend = "apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {name: mine, namespace: NAMESPACE}\nspec: {engine: Ollama, url: 'http://192.0.2.1:11434'}\n";
    world.api.apply(&backend.replace("NAMESPACE", &first));
    // Who is older is told in whole seconds.
    std::thread::sleep(Duration::from_millis(1_100));
    world.api.apply(&backend.replace("NAMESPACE", &second));
    world.start();
    let said =
        |namespace: &str| world.api.kubectl(&["-n", namespace, "get", "llm", "mine", "--output=jsonpath={.status}"]);
    world.until("the second one to be told", || match said(&second) {
        said if said.contains("another namespace declared the server first") => Ok(()),
        said => Err(said),
    });
    assert!(!said(&second).contains(&first), "{}", said(&second));
    assert!(!said(&first).contains("another namespace"), "{}", said(&first));
    world.api.kubectl(&["-n", &first, "delete", "llm", "mine"]);
    world.until("the second one to have it alone", || match said(&second) {
        said if said.contains("another namespace") => Err(said),
        _ => Ok(()),
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn real_tasks_go_with_their_namespace_and_another_of_its_name_never_sees_them() {
    let mut world = tokio::task::spawn_blocking(|| World::new(2)).await.expect("a world");
    let [_, team] = <[String; 2]>::try_from(world.namespaces.clone()).unwrap();
    world.start();
    world.until("the database to be ready", || match world.get("/readyz") {
        ready if ready.starts_with("HTTP/1.1 200") => Ok(()),
        other => Err(other),
    });
    let store = store::open(&Home::Postgres(world.database.parse().expect("a URL")), None).await.expect("open");
    let insert = async |queue: &str| store.insert_tasks(&[task(&team, queue)]).await.expect("insert");
    insert("old").await;
    await_tasks(&world, &*store, &team, "the old task", |tasks| tasks.len() == 1).await;

    world.delete_namespace(&team);
    let ended = |tasks: &[Task]| tasks.iter().all(|task| task.state == TaskState::Cancelled) && tasks.len() == 1;
    await_tasks(&world, &*store, &team, "the old task to be cancelled, and kept", ended).await;

    // The clocks of two machines may differ by some seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    world.api.kubectl(&["create", "namespace", &team]);
    world.give_rights();
    await_tasks(&world, &*store, &team, "nothing to be left", <[Task]>::is_empty).await;
    insert("new").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let new = |tasks: &[Task]| tasks.len() == 1 && tasks[0].queue == "new" && tasks[0].state == TaskState::Pending;
    await_tasks(&world, &*store, &team, "the new one's own task", new).await;
}

fn task(namespace: &str, queue: &str) -> NewTask {
    NewTask {
        namespace: namespace.to_owned(),
        queue: queue.to_owned(),
        domain: "d".to_owned(),
        role: "r".to_owned(),
        payload: Payload { prompt: Some("a secret".to_owned()), ..Payload::default() },
        model: None,
        priority: 0,
        run_after: None,
        deadline: None,
        key: None,
        labels: Default::default(),
        expert: None,
    }
}

async fn await_tasks(world: &World, store: &dyn Store, namespace: &str, what: &str, wanted: impl Fn(&[Task]) -> bool) {
    let filter = TaskFilter { namespace: Some(namespace.to_owned()), ..TaskFilter::default() };
    let begun = Instant::now();
    loop {
        let seen = store.tasks(&filter, &TaskPage { limit: 100, ..TaskPage::default() }).await.expect("read");
        if wanted(&seen) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {seen:?}\n{}", world.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
