//! The way to an Ostler in a cluster: port-forward to a pod of the controller, with a token of the caller's.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{Pod, Secret, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Client, Config,
    api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::net::TcpListener;

use super::CliError;
use crate::api::{Kind, RELEASE};

const CONTROLLERS: &str = "app.kubernetes.io/name=ostler,app.kubernetes.io/component=controller";
const PORT_NAME: &str = "http";
const DEFAULT_PORT: u16 = 9180;
const TOKEN_SECONDS: i64 = 600;
/// What the chart appends to the name of the controller's service account for that of people without a token of their own.
const FOR_PEOPLE: &str = "-operator";

/// The cluster of the kubeconfig's current context.
pub struct Cluster {
    client: Client,
    context: String,
    default_namespace: String,
    system_namespace: String,
    /// The kubeconfig's own token, if it has one.
    token: Option<String>,
}

impl Cluster {
    pub async fn connect() -> Result<Self, CliError> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            CliError::failed(format!("{what}: {e}; see that `kubectl get ns` works"))
        };
        let kubeconfig = Kubeconfig::read().map_err(|e| failed("can't read the kubeconfig", &e))?;
        let context = kubeconfig.current_context.clone().unwrap_or_default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| failed("can't use the kubeconfig", &e))?;
        let token = own_token(&config)?;
        Ok(Self {
            context,
            default_namespace: config.default_namespace.clone(),
            system_namespace: std::env::var("OSTLER_SYSTEM_NAMESPACE").unwrap_or_else(|_| "ostler-system".to_owned()),
            token,
            client: Client::try_from(config).map_err(|e| failed("can't build a client", &e))?,
        })
    }

    pub fn context(&self) -> &str {
        &self.context
    }

    pub fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// Where the controller runs: OSTLER_SYSTEM_NAMESPACE, else `ostler-system`.
    pub fn system_namespace(&self) -> &str {
        &self.system_namespace
    }

    /// Opens a port on this machine that leads to a controller, for as long as this process runs; and a token for it.
    pub async fn forward(&self) -> Result<(String, String), CliError> {
        let (pod, port, account) = self.controller().await?;
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.requested_token(&account).await?,
        };
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|e| CliError::failed(format!("can't listen on a port of this machine: {e}")))?;
        let address = listener.local_addr().map_err(CliError::failed)?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.system_namespace);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(pods.clone(), pod.clone(), port, stream));
            }
        });
        Ok((format!("http://{address}"), token))
    }

    /// The release that each of Ostler's CRDs is of; empty: it is not there. Else why nobody says.
    pub async fn crd_releases(&self) -> Result<BTreeMap<String, String>, String> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let mut releases = BTreeMap::new();
        for crd in crate::api::crds() {
            let name = crd.metadata.name.unwrap_or_default();
            let found = api.get_metadata_opt(&name).await.map_err(|e| e.to_string())?;
            let release = found.map(|found| {
                found
                    .metadata
                    .annotations
                    .unwrap_or_default()
                    .remove(RELEASE)
                    .unwrap_or_else(|| "an unknown release".to_owned())
            });
            releases.insert(name, release.unwrap_or_default());
        }
        Ok(releases)
    }

    /// A controller's pod that is ready, its port, and its service account.
    async fn controller(&self) -> Result<(String, u16, String), CliError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let found = pods
            .list(&ListParams::default().labels(CONTROLLERS))
            .await
            .map_err(|e| CliError::failed(format!("can't list pods in namespace {}: {e}", self.system_namespace)))?;
        found.items.into_iter().find(is_ready).and_then(|pod| reachable(&pod)).ok_or_else(|| {
            CliError::failed(format!(
                "no ready pod in namespace {} has the labels {CONTROLLERS}: set OSTLER_SYSTEM_NAMESPACE to where Ostler is \
                 installed, or see `kubectl get pods -n {}`",
                self.system_namespace, self.system_namespace
            ))
        })
    }

    /// A short-lived token of a service account: OSTLER_SERVICE_ACCOUNT, else the chart's for people, else the controller's own, which
    /// can only read. Who may ask for which is the cluster's to say.
    async fn requested_token(&self, account: &str) -> Result<String, CliError> {
        if let Ok(named) = std::env::var("OSTLER_SERVICE_ACCOUNT") {
            return self.token_of(&named).await;
        }
        match self.token_of(&format!("{account}{FOR_PEOPLE}")).await {
            Ok(token) => Ok(token),
            Err(_) => self.token_of(account).await,
        }
    }

    async fn token_of(&self, account: &str) -> Result<String, CliError> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.system_namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.map_err(|e| {
            CliError::failed(format!(
                "the kubeconfig has no token, and none can be had for service account {}/{account}: {e}; set \
                 OSTLER_SERVICE_ACCOUNT to one that you may ask tokens for",
                self.system_namespace
            ))
        })?;
        Ok(answer.status.map(|s| s.token).unwrap_or_default())
    }

    /// Makes a resource that is not there yet.
    pub async fn create(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        spec: serde_json::Value,
    ) -> Result<(), CliError> {
        let object = DynamicObject::new(name, &kind.api_resource()).data(serde_json::json!({"spec": spec}));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind.api_resource());
        api.create(&PostParams::default(), &object)
            .await
            .map(drop)
            .map_err(|e| CliError::failed(format!("can't create {kind} {namespace}/{name}: {e}")))
    }

    /// Makes a Secret.
    pub async fn create_secret(
        &self,
        namespace: &str,
        name: &str,
        data: BTreeMap<String, String>,
    ) -> Result<(), CliError> {
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            string_data: Some(data),
            ..Secret::default()
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &secret)
            .await
            .map(drop)
            .map_err(|e| CliError::failed(format!("can't create Secret {namespace}/{name}: {e}")))
    }

    pub async fn delete_secret(&self, namespace: &str, name: &str) -> Result<(), CliError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let deleted = api.delete(name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(|e| CliError::failed(format!("can't delete Secret {namespace}/{name}: {e}")))
    }

    /// Changes a resource as the caller: the API server decides, and records who it was.
    pub async fn patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), CliError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &kind.api_resource());
        let params = PatchParams { field_manager: Some("ostler-cli".to_owned()), ..PatchParams::default() };
        api.patch(name, &params, &Patch::Merge(patch)).await.map(drop).map_err(|e| {
            CliError::failed(format!("can't patch {}/{name} in namespace {namespace}: {e}", kind.singular()))
        })
    }
}

/// The token that the kubeconfig itself has. Its type hides it from every way but serialization.
fn own_token(config: &Config) -> Result<Option<String>, CliError> {
    let auth = serde_json::to_value(&config.auth_info).map_err(CliError::failed)?;
    if let Some(token) = auth.get("token").and_then(serde_json::Value::as_str).filter(|t| !t.is_empty()) {
        return Ok(Some(token.to_owned()));
    }
    let Some(file) = &config.auth_info.token_file else { return Ok(None) };
    std::fs::read_to_string(file)
        .map(|token| Some(token.trim().to_owned()))
        .map_err(|e| CliError::failed(format!("can't read the kubeconfig's token file {file}: {e}")))
}

fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn reachable(pod: &Pod) -> Option<(String, u16, String)> {
    let spec = pod.spec.as_ref()?;
    let port = spec
        .containers
        .iter()
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_deref() == Some(PORT_NAME))
        .and_then(|p| u16::try_from(p.container_port).ok())
        .unwrap_or(DEFAULT_PORT);
    let account = spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned());
    Some((pod.metadata.name.clone()?, port, account))
}

/// Carries one connection to the pod.
async fn carry(pods: Api<Pod>, pod: String, port: u16, mut here: tokio::net::TcpStream) {
    let mut forwarder = match pods.portforward(&pod, &[port]).await {
        Ok(forwarder) => forwarder,
        Err(error) => return tracing::warn!(%error, pod, "port-forward"),
    };
    if let Some(mut there) = forwarder.take_stream(port) {
        // Either side may end the connection at any time.
        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ready: &str, ports: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "ostler-0"},
            "spec": {"serviceAccountName": "ostler", "containers": [{"name": "ostler", "ports": ports}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_way_leads_to_the_port_named_http_of_a_ready_pod() {
        let named = pod("True", serde_json::json!([{"containerPort": 1}, {"name": "http", "containerPort": 8080}]));
        assert!(is_ready(&named) && !is_ready(&pod("False", serde_json::json!([]))));
        assert_eq!(reachable(&named), Some(("ostler-0".into(), 8080, "ostler".into())));
        assert_eq!(reachable(&pod("True", serde_json::json!([]))).map(|(_, port, _)| port), Some(9180));
    }

    #[test]
    fn the_kubeconfigs_own_token_is_found() {
        let mut config = Config::new("https://127.0.0.1:1".parse().unwrap());
        assert_eq!(own_token(&config).unwrap(), None);
        config.auth_info = serde_json::from_value(serde_json::json!({"token": "abc"})).unwrap();
        assert_eq!(own_token(&config).unwrap().as_deref(), Some("abc"));
    }
}
