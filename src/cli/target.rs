//! Which system a command talks to.

use super::{ApiClient, CliError, DataDir, Global, kube::Cluster};

/// The system, and the way to it.
pub struct TargetSystem {
    pub api: ApiClient,
    /// The cluster, when the way leads through a kubeconfig: changes of resources go to its API server.
    pub cluster: Option<Cluster>,
    /// For "went to …".
    pub place: String,
    /// The namespace of `-n`, or of the kubeconfig's context.
    pub namespace: Option<String>,
}

impl TargetSystem {
    /// `--kube`, else `--data-dir` or OSTLER_DATA_DIR, else `--server` or OSTLER_SERVER, else the user's data folder. What is
    /// typed goes before what is in the environment.
    pub async fn of(global: &Global) -> Result<Self, CliError> {
        if global.kube {
            return Self::kube(global).await;
        }
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let server = match (&global.server, &global.data_dir, set("OSTLER_DATA_DIR")) {
            (Some(server), ..) => Some(server.clone()),
            (None, None, None) => set("OSTLER_SERVER"),
            _ => None,
        };
        match server {
            Some(server) => Self::server(global, &server, set("OSTLER_TOKEN")),
            None => Self::local(global),
        }
    }

    fn server(global: &Global, server: &str, token: Option<String>) -> Result<Self, CliError> {
        let token = token.ok_or_else(|| {
            CliError::misused(format!(
                "{server} wants a token: set OSTLER_TOKEN (an argument would be seen by everybody)"
            ))
        })?;
        let hint = "see that this address is an Ostler's and that it runs";
        Ok(Self {
            api: ApiClient::new(server, &token, hint)?,
            cluster: None,
            place: server.to_owned(),
            namespace: global.namespace()?,
        })
    }

    fn local(global: &Global) -> Result<Self, CliError> {
        let dir = DataDir::of(global)?;
        let start = "start one with `ostler up -f DIR`, or say where one is with --data-dir, --server or --kube";
        let endpoint = dir.read_endpoint()?.ok_or_else(|| {
            CliError::failed(format!("no `ostler up` runs with data folder {}: {start}", dir.path().display()))
        })?;
        let hint = format!(
            "the `ostler up` of data folder {} (pid {}) has ended or hangs: {start}",
            dir.path().display(),
            endpoint.pid
        );
        Ok(Self {
            api: ApiClient::new(&endpoint.address, &endpoint.token, &hint)?.renewed_by(dir.clone()),
            cluster: None,
            place: format!("{} (data folder {})", endpoint.address, dir.path().display()),
            namespace: global.namespace()?,
        })
    }

    async fn kube(global: &Global) -> Result<Self, CliError> {
        let cluster = Cluster::connect().await?;
        let (address, token) = cluster.forward().await?;
        let hint = format!("see that the controller's pods in namespace {} run", cluster.system_namespace());
        Ok(Self {
            api: ApiClient::new(&address, &token, &hint)?,
            place: format!("cluster {}", cluster.context()),
            namespace: global.namespace()?.or_else(|| Some(cluster.default_namespace().to_owned())),
            cluster: Some(cluster),
        })
    }

    /// Where one named resource is looked for.
    pub fn namespace_of_one(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The query `namespace=…`, for lists: without `-n`, all of them.
    pub fn namespace_query(&self) -> Vec<(&'static str, String)> {
        self.namespace.iter().map(|n| ("namespace", n.clone())).collect()
    }
}
