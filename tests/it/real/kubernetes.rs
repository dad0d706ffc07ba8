use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Part, cache};

/// A real Kubernetes API server and its etcd. Nothing acts on objects: no controllers, no node.
pub struct ApiServer {
    part: Part,
    kubeconfig: PathBuf,
}

/// A real Kubernetes of one node that runs pods, in namespaces of its own (Linux, root).
///
/// The host's processes reach pods and services by their addresses; pods reach the host at [`Cluster::host_address`].
/// There is no DNS. Images are `local/busybox:1` and what [`Cluster::import_image`] brings, with
/// `imagePullPolicy: Never`.
pub struct Cluster {
    /// Its API server, with everything that works on one alone.
    pub api: ApiServer,
    host: String,
}

impl ApiServer {
    /// An API server for one test: for those that take it away.
    pub fn start() -> Self {
        Self::of(Part::start("cluster/apiserver.sh", &[]))
    }

    /// The one that all tests share, each in its own [`ApiServer::namespace`].
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<ApiServer> = LazyLock::new(ApiServer::start);
        &SHARED
    }

    fn of(part: Part) -> Self {
        let kubeconfig = part.dir().join("kubeconfig");
        Self { part, kubeconfig }
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl as administrator and returns what it prints.
    ///
    /// # Panics
    /// With kubectl's complaint, if it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args, "").unwrap_or_else(|complaint| panic!("kubectl {}: {complaint}", args.join(" ")))
    }

    /// `kubectl apply -f -` of some manifests, refusing what their schema does not know.
    pub fn apply(&self, manifests: &str) -> String {
        let args = ["apply", "--server-side", "--validate=strict", "-f", "-"];
        self.try_kubectl(&args, manifests).unwrap_or_else(|complaint| panic!("apply: {complaint}\n{manifests}"))
    }

    /// Installs Ostler's CustomResourceDefinitions and waits until they are served.
    pub fn install_crds(&self) {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": ostler::api::crds()});
        self.apply(&list.to_string());
        let names = ostler::api::crds().into_iter().map(|crd| format!("crd/{}", crd.metadata.name.unwrap_or_default()));
        let names: Vec<String> = names.collect();
        let mut wait = vec!["wait", "--for=condition=Established", "--timeout=30s"];
        wait.extend(names.iter().map(String::as_str));
        self.kubectl(&wait);
    }

    /// Runs kubectl as administrator with `input`: what it prints, or what it complains of.
    pub fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        kubectl(&self.kubeconfig, args, input)
    }

    /// Makes a namespace that no other test has.
    pub fn namespace(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]);
        name
    }

    /// A kubeconfig file of a service account (made if it isn't there yet), with a token of an hour.
    pub fn service_account(&self, namespace: &str, name: &str) -> PathBuf {
        let get = ["--namespace", namespace, "get", "serviceaccount", name];
        if self.try_kubectl(&get, "").is_err() {
            self.kubectl(&["--namespace", namespace, "create", "serviceaccount", name]);
        }
        let token = self.kubectl(&["--namespace", namespace, "create", "token", name, "--duration=1h"]);
        let admin = std::fs::read_to_string(&self.kubeconfig).expect("read the administrator's kubeconfig");
        let text: String = admin
            .lines()
            .map(|line| match line.starts_with("users:") {
                true => format!("users: [{{name: admin, user: {{token: {}}}}}]\n", token.trim()),
                false => format!("{line}\n"),
            })
            .collect();
        let path = self.part.dir().join(format!("{namespace}-{name}.kubeconfig"));
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }

    /// What the service accounts of a namespace have written so far, the refused among it, oldest first:
    /// `patch llmbackends/status mlx 200`. Reviews of tokens and of access are no writes.
    pub fn writes(&self, namespace: &str) -> Vec<String> {
        let log = self.part.dir().join("logs/audit.log");
        let text = match std::fs::read_to_string(&log) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.unwrap_or_else(|error| panic!("read {}: {error}", log.display())),
        };
        let account = format!("system:serviceaccount:{namespace}:");
        // The last line may still be half written; it is there next time.
        let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let ours =
            events.filter(|event| event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&account)));
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        ours.map(|event| {
            let object = &event["objectRef"];
            let resource = [word(&object["resource"]), word(&object["subresource"])].join("/");
            let resource = resource.trim_end_matches('/');
            format!("{} {resource} {} {}", word(&event["verb"]), word(&object["name"]), event["responseStatus"]["code"])
        })
        .collect()
    }

    /// A client that speaks as whoever `kubeconfig` says, in `namespace`.
    pub async fn client(kubeconfig: &Path, namespace: &str) -> kube::Client {
        ostler::net::install_crypto();
        let config = kube::config::Kubeconfig::read_from(kubeconfig).expect("read the kubeconfig");
        let mut config =
            kube::Config::from_custom_kubeconfig(config, &Default::default()).await.expect("a kubeconfig that works");
        namespace.clone_into(&mut config.default_namespace);
        kube::Client::try_from(config).expect("make a client")
    }

    /// Takes the API server away; etcd stays. [`ApiServer::resume`] brings it back on the same port.
    pub fn stop(&self) {
        self.part.tell("stop");
    }

    pub fn resume(&self) {
        self.part.tell("start");
    }
}

impl Cluster {
    /// The one cluster of this test binary. Those who stop its API server bring it back.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(|| {
            let part = Part::start("cluster/serve.sh", &[]);
            let host = part.greeting().split(' ').next().unwrap_or_default().to_owned();
            Cluster { api: ApiServer::of(part), host }
        });
        &SHARED
    }

    /// Where pods find this machine.
    pub fn host_address(&self) -> &str {
        &self.host
    }

    /// Puts a docker-archive tar into the node's image store.
    pub fn import_image(&self, archive: &Path) {
        self.api.part.tell(&format!("import {}", archive.display()));
    }
}

fn kubectl(kubeconfig: &Path, args: &[&str], input: &str) -> Result<String, String> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let program = assets.unwrap_or_else(|| cache().join("bin")).join("kubectl");
    let mut child = Command::new(&program)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("can't run {}: {error}", program.display()));
    // Whoever doesn't read its input closes it early; what it says about that is in its output.
    drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("wait for kubectl");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
