use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ApiServer, cache};

/// `charts/ostler`, rendered by Helm as release `ostler` of one namespace.
pub struct Chart {
    namespace: String,
    values: Vec<String>,
}

impl Chart {
    /// `values` are as `helm --set-json` takes them: `replicas=1`, `watchNamespaces=["a"]`. The database's Secret is
    /// named `ostler-database` unless they say otherwise.
    pub fn new(namespace: &str, values: &[&str]) -> Self {
        let database = r#"database.existingSecret="ostler-database""#;
        let values = std::iter::once(database).chain(values.iter().copied()).map(str::to_owned).collect();
        Self { namespace: namespace.to_owned(), values }
    }

    /// All its manifests, or only those of some templates (`role.yaml`); Helm's complaint if it refuses.
    pub fn render(&self, templates: &[&str]) -> Result<String, String> {
        let shown = templates.iter().map(|name| format!("--show-only=templates/{name}"));
        self.helm("template", shown.collect())
    }

    /// Installs all of it but the CRDs: see [`ApiServer::install_crds`].
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

    /// `helm lint --strict`.
    pub fn lint(&self) -> Result<String, String> {
        self.helm("lint", vec!["--strict".to_owned()])
    }

    fn helm(&self, command: &str, flags: Vec<String>) -> Result<String, String> {
        let program = cache().join("bin/helm");
        let mut helm = Command::new(&program);
        helm.arg(command);
        if command == "template" {
            helm.arg("ostler");
        }
        helm.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/ostler"));
        helm.args(["--namespace", &self.namespace]).args(flags);
        for value in &self.values {
            helm.args(["--set-json", value]);
        }
        let output = helm.output().unwrap_or_else(|error| panic!("can't run {}: {error}", program.display()));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stdout) + &text(&output.stderr)),
        }
    }
}
