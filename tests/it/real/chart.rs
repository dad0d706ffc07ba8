use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ApiServer, cache};

/// `charts/ostler`, rendered by Helm as release `ostler` of one namespace.
pub struct Chart {
    namespace: String,
    folder: PathBuf,
    values: Vec<String>,
}

impl Chart {
    /// `values` are as `helm --set-json` takes them: `replicas=1`, `watchNamespaces=["a"]`. The database's Secret is
    /// named `ostler-database` unless they say otherwise.
    pub fn new(namespace: &str, values: &[&str]) -> Self {
        let database = r#"database.existingSecret="ostler-database""#;
        let values = std::iter::once(database).chain(values.iter().copied()).map(str::to_owned).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/ostler");
        Self { namespace: namespace.to_owned(), folder, values }
    }

    /// With every ability on, in this and other namespaces: what a controller under test may do is then what the chart grants.
    pub fn able(namespace: &str, watched: &[&str]) -> Self {
        let all: Vec<&str> =
            std::iter::once(namespace).chain(watched.iter().copied().filter(|other| *other != namespace)).collect();
        let all = serde_json::json!(all);
        let namespaces = ["watchNamespaces", "secretNamespaces"].map(|value| format!("{value}={all}"));
        let abilities = Self::ABILITIES.map(|ability| format!("{ability}=true"));
        let values: Vec<&str> = namespaces.iter().chain(&abilities).map(String::as_str).collect();
        Self::new(namespace, &values)
    }

    /// What the controller may do only where the chart is told so.
    pub const ABILITIES: [&str; 7] = [
        "scaleWorkers",
        "restartWorkloads",
        "readLogs",
        "resizePods",
        "patchWorkloads",
        "makeWorkers",
        "readConfigMaps",
    ];

    /// The same with one more value.
    #[must_use]
    pub fn with(mut self, value: &str) -> Self {
        self.values.push(value.to_owned());
        self
    }

    /// What is told after an installation.
    pub fn notes(&self) -> String {
        let told = self.helm("install", vec!["--dry-run=client".to_owned()]).expect("a dry run");
        told.split("NOTES:").nth(1).unwrap_or_default().to_owned()
    }

    /// All its manifests, or only those of some templates (`role.yaml`); Helm's complaint if it refuses.
    pub fn render(&self, templates: &[&str]) -> Result<String, String> {
        let shown = templates.iter().map(|name| format!("--show-only=templates/{name}"));
        // The pod of `helm test` is no part of what is installed.
        self.helm("template", shown.chain(["--skip-tests".to_owned()]).collect())
    }

    /// Installs all of it.
    pub fn install(&self, server: &ApiServer) {
        server.apply(&self.render(&[]).unwrap_or_else(|complaint| panic!("render the chart: {complaint}")));
    }

    /// Installs its service account and what that may do, and returns the account's kubeconfig file: controllers under
    /// test run as it.
    pub fn service_account(&self, server: &ApiServer) -> PathBuf {
        let manifests = self.render(&["serviceaccount.yaml", "clusterrole.yaml", "role.yaml"]);
        server.apply(&manifests.unwrap_or_else(|complaint| panic!("render the chart: {complaint}")));
        server.service_account(&self.namespace, "ostler")
    }

    /// Another folder than `charts/ostler`.
    #[must_use]
    pub fn in_folder(self, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ..self }
    }

    /// `helm install` or `upgrade` as release `ostler`, by whom the kubeconfig says.
    pub fn release(&self, command: &str, kubeconfig: &Path, flags: &[&str]) -> Result<String, String> {
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        self.helm(command, flags.chain([format!("--kubeconfig={}", kubeconfig.display())]).collect())
    }

    /// `helm lint --strict`.
    pub fn lint(&self) -> Result<String, String> {
        self.helm("lint", vec!["--strict".to_owned()])
    }

    fn helm(&self, command: &str, flags: Vec<String>) -> Result<String, String> {
        let program = cache().join("bin/helm");
        let mut helm = Command::new(&program);
        helm.arg(command);
        if command != "lint" {
            helm.arg("ostler");
        }
        helm.args(["--namespace", &self.namespace]).args(flags);
        // What is there already knows its chart.
        if !["test", "uninstall", "rollback"].contains(&command) {
            helm.arg(&self.folder);
            for value in &self.values {
                helm.args(["--set-json", value]);
            }
        }
        let output = helm.output().unwrap_or_else(|error| panic!("can't run {}: {error}", program.display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stdout) + &text(&output.stderr)),
        }
    }
}
