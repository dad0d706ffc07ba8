//! Experts, queues, pools and schedules in a cluster: an `ostler controller` as the chart's service account, on a real API server
//! and a real PostgreSQL.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::real::{ApiServer, Chart, Postgres};

const PATIENCE: Duration = Duration::from_secs(90);

/// An `ostler`, killed with the test.
pub struct Process(Child);

impl Process {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace, the chart's service account, and a database.
pub struct World {
    /// `None`: the one that tests share.
    server: Option<ApiServer>,
    pub namespace: String,
    account: PathBuf,
    _postgres: Postgres,
    pub database: String,
    root: PathBuf,
}

impl World {
    fn new() -> Self {
        Self::on(None, |namespace| Chart::able(namespace, &[]))
    }

    /// With what the chart grants so.
    fn with(chart: impl Fn(&str) -> Chart) -> Self {
        Self::on(None, chart)
    }

    /// With an API server of its own, to be taken away.
    pub fn alone() -> Self {
        Self::on(Some(ApiServer::start()), |namespace| Chart::able(namespace, &[]))
    }

    fn on(own: Option<ApiServer>, chart: impl Fn(&str) -> Chart) -> Self {
        let server = own.as_ref().unwrap_or_else(|| ApiServer::shared());
        server.install_crds();
        let namespace = server.namespace();
        let account = chart(&namespace).service_account(server);
        let postgres = Postgres::start();
        let root = std::env::temp_dir().join(format!("ostler-pools-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&root).unwrap();
        Self { namespace, account, database: postgres.database(), _postgres: postgres, root, server: own }
    }

    pub fn api(&self) -> &ApiServer {
        self.server.as_ref().unwrap_or_else(|| ApiServer::shared())
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(format!("{name}.log"))).unwrap_or_default()
    }

    pub fn start(&self, name: &str, args: &[&str]) -> Process {
        Process(self.command(name, args).spawn().unwrap())
    }

    fn command(&self, name: &str, args: &[&str]) -> Command {
        let log = std::fs::File::create(self.root.join(format!("{name}.log"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command
            .args(args)
            .args(["-n", &self.namespace])
            .env("OSTLER_DATABASE_URL", &self.database)
            .env("KUBECONFIG", &self.account)
            .env("OSTLER_WORKER_IMAGE", "registry.example/ostler:1")
            .env("OSTLER_WORKER_DATABASE_SECRET", "ostler-database/url")
            .env("OSTLER_SPOOL_DIR", self.root.join("spool"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        self.api().kubectl(&[&["-n", &self.namespace], args].concat())
    }

    fn try_get(&self, what: &str) -> Option<Value> {
        let text = self.kubectl(&["get", what, "-o", "json", "--ignore-not-found"]);
        serde_json::from_str(&text).ok()
    }

    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let seen = self.try_get(what).unwrap_or_default();
            if wanted(&seen) {
                return seen;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {seen:#}\n{}", self.log("controller"));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn versions(&self) -> Vec<Value> {
        let all = ["exp/igor", "tq/default", "wp/pool", "ts/yearly", "deploy/ostler-worker-pool"];
        all.map(|what| self.try_get(what).unwrap()["metadata"]["resourceVersion"].clone()).to_vec()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for a look: {}", self.root.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

pub fn is(state: &str) -> impl Fn(&Value) -> bool + '_ {
    move |seen| seen["status"]["state"] == state
}

#[test]
fn real_pool_has_a_deployment_as_planned_and_a_schedule_fires_by_annotation() {
    let world = World::new();
    let ns = &world.namespace;
    world.api().apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: prompts, namespace: {ns}}}\ndata: {{systemPrompt: You are an engineer.}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: LLMBackend\nmetadata: {{name: nowhere, namespace: {ns}}}\nspec: {{engine: OpenAI, url: 'http://10.255.255.1:1', models: [{{name: small}}]}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: Expert\nmetadata: {{name: igor, namespace: {ns}}}\nspec: {{model: small, systemPromptRef: {{name: prompts}}}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: TaskQueue\nmetadata: {{name: default, namespace: {ns}}}\nspec: {{requires: [{{kind: LLMBackend, name: nowhere}}]}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: {ns}}}\nspec: {{queueRefs: [{{name: default}}], replicas: {{min: 1, max: 3}}, drainSeconds: 45}}\n---\n\
         apiVersion: ostler.dev/v1alpha1\nkind: TaskSchedule\nmetadata: {{name: yearly, namespace: {ns}}}\n\
         spec: {{queueRef: {{name: default}}, schedule: '0 0 1 1 *', forEachExpert: {{}}, task: {{prompt: Learn.}}}}\n"
    ));
    let _controller = world.start("controller", &["controller", "--listen", "127.0.0.1:0"]);
    world.until("exp/igor", is("Available"));
    let held = world.until("tq/default", is("Held"));
    assert_eq!(held["status"]["pools"], 1, "{held:#}");
    let pool = world.until("wp/pool", is("Waiting"));
    let deployment = world.until("deploy/ostler-worker-pool", |seen| seen["spec"]["replicas"] == 1);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["uid"], pool["metadata"]["uid"]);
    assert_eq!(pod["terminationGracePeriodSeconds"], 45);
    assert_eq!(pod["containers"][0]["image"], "registry.example/ostler:1");
    assert_eq!(pod["automountServiceAccountToken"], false);

    // A process that reports is what the pods would do.
    let _worker = world.start("worker", &["worker", "--pool", "pool"]);
    world.until("wp/pool", is("Running"));
    // What somebody changes by hand is changed back.
    world.kubectl(&["scale", "deploy/ostler-worker-pool", "--replicas=0"]);
    world.until("deploy/ostler-worker-pool", |seen| seen["spec"]["replicas"] == 1);

    let second = jiff::Timestamp::now().as_second().to_string();
    world.kubectl(&["annotate", "ts/yearly", &format!("ostler.dev/run-requested-at={second}")]);
    let fired = world.until("ts/yearly", |seen| seen["status"]["lastHandledRunAt"] == second.as_str());
    assert_eq!(fired["status"]["lastRunTasks"], 1, "{fired:#}");

    // Steady: nobody writes anything. Another's late write of before may still come in, so it is waited for once.
    let mut before = world.versions();
    let begun = Instant::now();
    loop {
        std::thread::sleep(Duration::from_secs(12));
        let now = world.versions();
        if now == before {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never steady: {before:?}, {now:?}");
        before = now;
    }
    world.kubectl(&["patch", "wp/pool", "--type=merge", "-p", r#"{"spec": {"replicas": {"min": 2}}}"#]);
    world.until("deploy/ostler-worker-pool", |seen| seen["spec"]["replicas"] == 2);
    world.until("wp/pool", is("Scaling"));
    world.kubectl(&["patch", "wp/pool", "--type=merge", "-p", r#"{"spec": {"suspend": true}}"#]);
    world.until("wp/pool", is("Suspended"));
}

const SCALED: &str = "
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: default}
spec: {}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: pool}
spec: {queueRefs: [{name: default}], replicas: {min: 2, max: 3}, workloadRef: {kind: Deployment, name: workers}}
";

const WORKERS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: workers}
spec:
  selector: {matchLabels: {app: workers}}
  template:
    metadata: {labels: {app: workers}}
    spec: {containers: [{name: worker, image: 'registry.example/ostler:1'}]}
";

#[test]
fn real_pool_scales_the_deployment_that_it_refers_to_and_makes_none() {
    let world = World::with(|namespace| Chart::new(namespace, &[]));
    let apply = |text: &str| {
        let args = ["-n", &world.namespace, "apply", "--server-side", "--validate=strict", "-f", "-"];
        world.api().try_kubectl(&args, text).unwrap();
    };
    apply(SCALED);
    let _controller = world.start("controller", &["controller", "--listen", "127.0.0.1:0"]);
    let says = |word: &'static str| {
        move |seen: &Value| {
            let conditions = seen["status"]["conditions"].as_array();
            let ready = conditions.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
            ready.is_some_and(|ready| ready["message"].as_str().unwrap_or_default().contains(word))
        }
    };
    world.until("wp/pool", says("scaleWorkers: true"));
    // The ability is turned on, as an upgrade of the chart does.
    Chart::new(&world.namespace, &["scaleWorkers=true"]).service_account(world.api());
    world.until("wp/pool", says("Deployment"));
    world.until("wp/pool", says("is not there"));
    apply(WORKERS);
    world.until("deploy/workers", |seen| seen["spec"]["replicas"] == 2);
    world.until("wp/pool", is("Waiting"));
    world.kubectl(&["patch", "wp/pool", "--type=merge", "-p", r#"{"spec": {"replicas": {"min": 3}}}"#]);
    let scaled = world.until("deploy/workers", |seen| seen["spec"]["replicas"] == 3);
    assert_eq!(scaled["spec"]["template"]["spec"]["containers"][0]["image"], "registry.example/ostler:1");
    assert_eq!(world.kubectl(&["get", "deployments", "-o", "name"]).trim(), "deployment.apps/workers");
    let writes = world.api().writes(&world.namespace);
    let about: Vec<&String> =
        writes.iter().filter(|write| write.contains("deployments") && write.ends_with(" 200")).collect();
    assert!(
        !about.is_empty() && about.iter().all(|write| write.starts_with("patch deployments/scale workers")),
        "{about:?}"
    );
}

#[test]
fn real_pool_without_rights_to_make_pods_counts_the_workers_that_report() {
    let world = World::with(|namespace| Chart::new(namespace, &[]));
    let apply = ["-n", &world.namespace, "apply", "--server-side", "-f", "-"];
    let pool = SCALED.replace(", workloadRef: {kind: Deployment, name: workers}", "");
    world.api().try_kubectl(&apply, &pool).unwrap();
    // As the chart without makeWorkers: nothing says what pods are made from.
    let mut controller = world.command("controller", &["controller", "--listen", "127.0.0.1:0"]);
    let _controller = Process(controller.env_remove("OSTLER_WORKER_DATABASE_SECRET").spawn().unwrap());
    world.until("wp/pool", |seen| seen["status"]["state"] == "Waiting" && !seen.to_string().contains("could not"));
    let _worker = world.start("worker", &["worker", "--pool", "pool"]);
    let running = world.until("wp/pool", is("Running"));
    assert_eq!(running["status"]["readyReplicas"], 1, "{running:#}");
}
