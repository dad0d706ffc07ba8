//! The chart installed on a real node: Ostler as pods, from an image that holds nothing but it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::real::{Chart, Cluster, Postgres, part_script};

/// Builds the image of the binary under test and puts it on the node as `local/ostler:test`.
fn bring_image(cluster: &Cluster) {
    let archive = std::env::temp_dir().join(format!("ostler-image-{}.tar", std::process::id()));
    let made = Command::new(part_script("image/ostler.sh"))
        .args([env!("CARGO_BIN_EXE_ostler"), "docker.io/local/ostler:test"])
        .arg(&archive)
        .output()
        .expect("run the image script");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    cluster.import_image(&archive);
    std::fs::remove_file(&archive).expect("remove the archive");
}

const ENGINE: &str = r#"
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
        readinessProbe: {tcpSocket: {port: 11434}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: engine}
spec: {selector: {app: engine}, ports: [{port: 11434}]}
"#;

/// What is asked again until it is so.
fn until(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + limit;
    while let Err(last) = ask() {
        assert!(Instant::now() < deadline, "{what}: after {limit:?} still {last}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

struct Installed {
    cluster: &'static Cluster,
    namespace: String,
    /// Lives as long as the controllers need it.
    _database: Postgres,
}

impl Installed {
    fn new() -> Self {
        let cluster = Cluster::shared();
        bring_image(cluster);
        cluster.api.install_crds();
        let namespace = cluster.api.namespace();
        let database = Postgres::listening_at(cluster.host_address());
        let url = format!("--from-literal=url={}", database.database_at(cluster.host_address()));
        let this = Self { cluster, namespace, _database: database };
        this.kubectl(&["create", "secret", "generic", "ostler-database", &url]);
        let watched = format!(r#"watchNamespaces=["{}"]"#, this.namespace);
        let image = r#"image={"repository":"local/ostler","tag":"test","pullPolicy":"Never"}"#;
        Chart::new(&this.namespace, &[image, &watched]).install(&cluster.api);
        this
    }

    fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        self.cluster.api.try_kubectl(&[&["--namespace", &self.namespace], args].concat(), input)
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, "").unwrap_or_else(|complaint| panic!("{args:?}: {complaint}\n{}", self.story()))
    }

    /// What one looks at when something is not as it should be.
    fn story(&self) -> String {
        let looks: [&[&str]; 4] = [
            &["get", "pods,llm", "--output=wide"],
            &["get", "llm", "--output=yaml"],
            &["get", "events"],
            &["logs", "--selector=app.kubernetes.io/component=controller", "--tail=40", "--prefix", "--ignore-errors"],
        ];
        looks.iter().map(|args| self.try_kubectl(args, "").unwrap_or_else(|complaint| complaint)).collect()
    }

    /// Name and uid of the engine's pods that are not on their way out.
    fn engine_pods(&self) -> String {
        let template = "{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} {{end}}{{end}}";
        self.kubectl(&["get", "pods", "--selector=app=engine", &format!("--output=go-template={template}")])
    }

    /// A loop that is thought stuck fails the liveness probe after a minute: a controller must outlive that.
    fn await_a_minute_without_restarts(&self) {
        let of = |field: &str| {
            let path = format!("--output=jsonpath={{.items[*].{field}}}");
            self.kubectl(&["get", "pods", "--selector=app.kubernetes.io/component=controller", &path])
        };
        until("controllers to be 80 s old", Duration::from_secs(120), || {
            let restarts = of("status.containerStatuses[*].restartCount");
            assert_eq!(restarts, "0 0", "no controller is restarted\n{}", self.story());
            let born = of("status.startTime");
            let young = born.split(' ').map(|time| time.parse::<jiff::Timestamp>().expect("a time"));
            let age = young.map(|time| jiff::Timestamp::now().duration_since(time).as_secs()).min().unwrap_or_default();
            if age >= 80 { Ok(()) } else { Err(format!("{age} s")) }
        });
    }

    /// `kubectl ostler ARGS` by a kubeconfig, and its exit code.
    fn plugin(&self, kubeconfig: &Path, args: &[&str]) -> (i32, String) {
        let link = std::env::temp_dir().join(format!("ostler-plugin-{}", std::process::id()));
        let _ = std::fs::create_dir(&link);
        let plugin = link.join("kubectl-ostler");
        let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ostler"), &plugin);
        let output = Command::new(&plugin)
            .args(args)
            .args(["--namespace", &self.namespace])
            .env("KUBECONFIG", kubeconfig)
            .env("OSTLER_SYSTEM_NAMESPACE", &self.namespace)
            .output()
            .expect("run the plugin");
        let _ = std::fs::remove_dir_all(&link);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code().unwrap_or(-1), said)
    }

    /// The way in is a port-forward; who may what is the cluster's to say.
    fn answers_as_a_plugin(&self) {
        let admin = self.cluster.api.kubeconfig();
        let (code, screen) = self.plugin(admin, &["status", "--check"]);
        assert!(code == 0 && screen.contains("✓ engine"), "{code} {screen}");
        let (_, events) = self.plugin(admin, &["events", "llm/engine"]);
        assert!(events.contains("llmbackend/engine"), "{events}");

        let (code, said) = self.plugin(admin, &["suspend", "llm/engine"]);
        assert!(code == 0 && said.contains("spec.suspend: true"), "{code} {said}");
        assert_eq!(self.kubectl(&["get", "llm", "engine", "--output=jsonpath={.spec.suspend}"]), "true");
        until("suspended", Duration::from_secs(30), || match self.plugin(admin, &["status"]) {
            (0, screen) if screen.contains("! engine") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(self.plugin(admin, &["resume", "llm/engine"]).0, 0);
        self.await_ready();
        assert_eq!(self.plugin(admin, &["reconcile", "llm/engine"]).0, 0);
        until("the request echoed", Duration::from_secs(30), || {
            match self.kubectl(&["get", "llm", "engine", "--output=jsonpath={.status.lastHandledReconcileAt}"]) {
                echo if echo.is_empty() => Err("no echo".to_owned()),
                _ => Ok(()),
            }
        });

        // Somebody who may forward ports and nothing else of ours.
        let visitor = self.cluster.api.service_account(&self.namespace, "visitor");
        let role = ["create", "role", "visitor", "--verb=get,list,create", "--resource=pods,pods/portforward"];
        self.kubectl(&role);
        let account = format!("--serviceaccount={}:visitor", self.namespace);
        self.kubectl(&["create", "rolebinding", "visitor", "--role=visitor", &account]);
        let (code, said) = self.plugin(&visitor, &["status"]);
        assert!(code == 1 && said.contains("may not list llmbackends"), "{code} {said}");
    }

    fn await_ready(&self) {
        until("the backend to be Ready", Duration::from_secs(90), || {
            let line = self.kubectl(&["get", "llm", "engine", "--no-headers"]);
            match line.split_whitespace().nth(1) {
                Some("True") => Ok(()),
                _ => Err(format!("{line}\n{}", self.story())),
            }
        });
    }
}

#[tokio::test]
async fn real_chart_installed_serves_and_replaces_the_pod_of_a_backend_that_refuses() {
    let ostler = Installed::new();
    ostler.kubectl(&["rollout", "status", "deployment/ostler", "--timeout=90s"]);
    ostler.try_kubectl(&["apply", "-f", "-"], ENGINE).expect("apply the engine");
    ostler.kubectl(&["rollout", "status", "deployment/engine", "--timeout=60s"]);
    let address = ostler.kubectl(&["get", "service", "engine", "--output=jsonpath={.spec.clusterIP}"]);
    let backend = format!(
        r#"
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: engine}}
spec:
  engine: Ollama
  url: http://{address}:11434
  models: [{{name: tiny}}]
  probe: {{periodSeconds: 1, failureThreshold: 3, startupSeconds: 30}}
  recovery: {{workloadRef: {{kind: Deployment, name: engine}}}}
"#
    );
    ostler.try_kubectl(&["apply", "-f", "-"], &backend).expect("apply the backend");
    ostler.await_ready();

    ostler.answers_as_a_plugin();

    ostler::telemetry::install_crypto();
    let before = ostler.engine_pods();
    let faults = format!("http://{address}:11434/simulate/faults");
    let set = reqwest::Client::new().put(&faults).body(r#"["refuse"]"#).send().await.expect("reach the engine");
    assert!(set.status().is_success(), "{}: {set:?}", faults);
    until("another pod", Duration::from_secs(90), || match ostler.engine_pods() {
        pods if pods.trim().is_empty() || pods == before => Err(format!("{pods}\n{}", ostler.story())),
        _ => Ok(()),
    });
    ostler.await_ready();

    ostler.await_a_minute_without_restarts();
}
