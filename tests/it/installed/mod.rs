//! The chart installed on a real node: Ostler as pods, from an image that holds nothing but it. All tests share one installation,
//! each in a namespace of its own.

mod containers;
mod healing;
mod pools;
mod releases;
mod working;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::real::{Chart, Cluster, Postgres};

/// Namespaces whose resources count, beside that of the release.
const CONTAINERS: &str = "installed-containers";
const HEALING: &str = "installed-healing";
const WORKING: &str = "installed-working";

/// What is asked again until it is so.
fn until(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + limit;
    while let Err(last) = ask() {
        if Instant::now() >= deadline {
            // Beside the tests' own lines, and not only after the last of them: whoever reads a long log looks there.
            let brief: String = last.chars().take(4_000).collect();
            let _ = writeln!(std::io::stderr(), "{what}: after {limit:?} still {brief}");
            panic!("{what}: after {limit:?} still {last}");
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Builds the image of the binary under test and puts it on the node as `local/ostler:test`.
fn bring_image(cluster: &Cluster) {
    let archive = std::env::temp_dir().join(format!("ostler-image-{}.tar", std::process::id()));
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/image"))
        .args([env!("CARGO_BIN_EXE_ostler"), "docker.io/local/ostler:test"])
        .arg(&archive)
        .output()
        .expect("run the image script");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    cluster.import_image(&archive);
    std::fs::remove_file(&archive).expect("remove the archive");
}

/// A release of the chart.
struct Installed {
    cluster: &'static Cluster,
    /// Where the controllers run.
    system: String,
    /// As pods and this machine reach it.
    database: String,
    /// Lives as long as the controllers need it.
    _postgres: Postgres,
}

impl Installed {
    fn shared() -> &'static Self {
        static SHARED: LazyLock<Installed> = LazyLock::new(Installed::new);
        &SHARED
    }

    fn new() -> Self {
        let cluster = Cluster::shared();
        bring_image(cluster);
        cluster.api.install_crds();
        let postgres = Postgres::listening_at(cluster.host_address());
        let database = postgres.database_at(cluster.host_address());
        let this = Self { cluster, system: cluster.api.namespace(), database, _postgres: postgres };
        let (url, key) = (format!("--from-literal=url={}", this.database), ostler::store::seal::Key::generate());
        for namespace in [CONTAINERS, HEALING, WORKING] {
            cluster.api.kubectl(&["create", "namespace", namespace]);
        }
        // Workers run where their pool is, and need them there.
        for namespace in [&this.system, WORKING] {
            let key = format!("--from-literal=key={key}");
            for (name, value) in [("ostler-database", &url), ("ostler-key", &key)] {
                cluster.api.kubectl(&["--namespace", namespace, "create", "secret", "generic", name, value]);
            }
        }
        let image = r#"image={"repository":"local/ostler","tag":"test","pullPolicy":"Never"}"#;
        let sealing = r#"sealing.existingSecret="ostler-key""#;
        let chart = Chart::able(&this.system, &[CONTAINERS, HEALING, WORKING]);
        chart.with(image).with(sealing).with("rbac.aggregate=true").install(&cluster.api);
        let rolled = ["--namespace", &this.system, "rollout", "status", "deployment/ostler", "--timeout=90s"];
        let rolled = cluster.api.try_kubectl(&rolled, "");
        assert!(rolled.is_ok(), "{rolled:?}\n{}", this.controllers());
        this
    }

    fn of(namespace: &'static str) -> Team {
        Team { installed: Self::shared(), namespace }
    }

    /// How the controllers are, and what they said last.
    fn controllers(&self) -> String {
        let logs = "--selector=app.kubernetes.io/component=controller";
        let looks: [&[&str]; 2] =
            [&["get", "pods", "--output=wide"], &["logs", logs, "--tail=60", "--prefix", "--ignore-errors"]];
        looks.iter().map(|args| said(self.cluster, &self.system, args)).collect()
    }
}

/// A namespace that the controllers watch.
#[derive(Clone, Copy)]
struct Team {
    installed: &'static Installed,
    namespace: &'static str,
}

impl Team {
    fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        self.installed.cluster.api.try_kubectl(&[&["--namespace", self.namespace], args].concat(), input)
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, "").unwrap_or_else(|complaint| panic!("{args:?}: {complaint}\n{}", self.story()))
    }

    fn apply(&self, manifests: &str) {
        let args = ["apply", "--server-side", "--validate=strict", "-f", "-"];
        self.try_kubectl(&args, manifests).unwrap_or_else(|complaint| panic!("apply: {complaint}\n{manifests}"));
    }

    /// One field, by its JSON path; nothing where it is not there.
    fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&["get", what, "--ignore-not-found", &format!("--output=jsonpath={{{path}}}")])
    }

    /// What one looks at when something is not as it should be.
    fn story(&self) -> String {
        let workers = "--selector=app.kubernetes.io/component=worker";
        let looks: [&[&str]; 4] = [
            &["get", "pods,ostler", "--output=wide"],
            &["get", "llm,ts,wp,chc", "--output=yaml"],
            &["get", "events"],
            &["logs", workers, "--tail=20", "--prefix", "--ignore-errors"],
        ];
        let seen: String = looks.iter().map(|args| said(self.installed.cluster, self.namespace, args)).collect();
        seen + &self.installed.controllers()
    }

    /// `kubectl ostler ARGS` by a kubeconfig, and its exit code.
    fn plugin(&self, kubeconfig: &Path, args: &[&str]) -> (i32, String) {
        let plugin = Plugin::new();
        let output = Command::new(plugin.0.join("kubectl-ostler"))
            .args(args)
            .args(["--namespace", self.namespace])
            .env("KUBECONFIG", kubeconfig)
            .env("OSTLER_SYSTEM_NAMESPACE", &self.installed.system)
            .output()
            .expect("run the plugin");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.code().unwrap_or(-1), said)
    }

    /// The kubeconfig of somebody to whom the cluster's own role `edit` is bound here, and where the controllers run for the way to them.
    fn editor(&self, name: &str) -> PathBuf {
        let api = &self.installed.cluster.api;
        let kubeconfig = api.service_account(self.namespace, name);
        let account = format!("--serviceaccount={}:{name}", self.namespace);
        for namespace in [self.namespace, &self.installed.system] {
            api.kubectl(&["--namespace", namespace, "create", "rolebinding", name, "--clusterrole=edit", &account]);
        }
        kubeconfig
    }
}

fn said(cluster: &Cluster, namespace: &str, args: &[&str]) -> String {
    let args = [&["--namespace", namespace], args].concat();
    cluster.api.try_kubectl(&args, "").unwrap_or_else(|complaint| complaint)
}

/// The binary under the name by which kubectl finds it, as long as it is used.
struct Plugin(PathBuf);

impl Plugin {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ostler-plugin-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("make a folder");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ostler"), folder.join("kubectl-ostler")).expect("link it");
        Self(folder)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
