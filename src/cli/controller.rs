//! `ostler controller`: the controllers in a cluster. Of several one leads.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    CliError, Global,
    data_dir::sealing_key_of_environment,
    database::Database,
    journaled::Journaled,
    process::{self, ControllerDoors, ControllerParts, ControllerProcess, TlsArgs, holder, logged, signaled},
};
use crate::{
    http::{ExternalUrl, KubeAuthorizer, Problem, ResourceHome},
    net::HttpClient,
    platform::{
        Platform,
        kubernetes::{self, KubernetesPlatform},
    },
    runtimes::{WorkerPodSettings, WorkerPods, Workloads},
    store::{ProcessIdentity, counted},
    telemetry::{Loops, Metrics},
};

/// What a watch meets is told once, by us.
const LOGS: &str = "ostler=info,warn,kube_runtime::watcher=error";

/// Run the controllers in a cluster; of several replicas one leads
///
/// Watches the namespaces of -n, or all. Needs a PostgreSQL database and the Kubernetes API.
#[derive(Debug, clap::Args)]
pub struct ControllerArgs {
    /// Where API, health and metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    listen: SocketAddr,
    /// Where health and metrics are alone, for probes and Prometheus where the API is on loopback
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    /// Where the API is by TLS too
    #[arg(long, value_name = "ADDRESS", requires = "tls_cert")]
    expose: Option<SocketAddr>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Where the dashboard is reached beside loopback: the address of an ingress or a proxy
    #[arg(long, value_name = "URL", env = "OSTLER_EXTERNAL_URL")]
    external_url: Option<ExternalUrl>,
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    workers: Workers,
    /// Only report what would be done
    #[arg(long)]
    observe: bool,
}

/// What the pods of WorkerPools are made from; the chart says it
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pods of WorkerPools")]
struct Workers {
    /// Their image, unless the pool's template names one
    #[arg(long, value_name = "IMAGE", env = "OSTLER_WORKER_IMAGE", hide_env_values = true)]
    worker_image: Option<String>,
    /// When their image is pulled
    #[arg(long, value_name = "POLICY", env = "OSTLER_WORKER_IMAGE_PULL_POLICY")]
    worker_image_pull_policy: Option<String>,
    /// Secrets to pull it with
    #[arg(long, value_name = "NAME", env = "OSTLER_WORKER_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    worker_image_pull_secrets: Vec<String>,
    /// Secret with the database's URL, in the pool's namespace: NAME/KEY
    #[arg(long, value_name = "NAME/KEY", env = "OSTLER_WORKER_DATABASE_SECRET", value_parser = secret_and_key)]
    worker_database_secret: Option<(String, String)>,
    /// Secret with OSTLER_KEY, in the pool's namespace: NAME/KEY
    #[arg(long, value_name = "NAME/KEY", env = "OSTLER_WORKER_KEY_SECRET", value_parser = secret_and_key)]
    worker_key_secret: Option<(String, String)>,
    /// What they log, as OSTLER_LOG has it
    #[arg(long, value_name = "FILTER", env = "OSTLER_WORKER_LOG", default_value = "info")]
    worker_log: String,
}

impl Workers {
    fn settings(self) -> WorkerPodSettings {
        WorkerPodSettings {
            image: self.worker_image.filter(|image| !image.is_empty()),
            image_pull_policy: self.worker_image_pull_policy.filter(|policy| !policy.is_empty()),
            image_pull_secrets: self.worker_image_pull_secrets.into_iter().filter(|name| !name.is_empty()).collect(),
            database_secret: self.worker_database_secret,
            key_secret: self.worker_key_secret,
            log: self.worker_log,
        }
    }
}

fn secret_and_key(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((name, key)) if !name.is_empty() && !key.is_empty() => Ok((name.to_owned(), key.to_owned())),
        _ => Err("write the Secret's name, a slash, and its key: ostler-database/url".to_owned()),
    }
}

pub async fn run(args: ControllerArgs, global: &Global) -> Result<(), CliError> {
    logged(global, LOGS, serve(args, global)).await
}

async fn serve(args: ControllerArgs, global: &Global) -> Result<(), CliError> {
    let ControllerArgs { listen, health, expose, tls, external_url, database, workers, observe } = args;
    let following = CancellationToken::new();
    let _followed = following.clone().drop_guard();
    let tls = tls.read(&following)?;
    let metrics = Metrics::new();
    let store = counted(database.open(None).await?, metrics.clone());
    let (client, namespace) = kubernetes::connect().await.map_err(CliError::failed)?;
    let doors = ControllerDoors {
        api: process::listen(listen).await?,
        health: match health {
            Some(address) => Some(process::listen_as(address, "--health").await?),
            None => None,
        },
        exposed: match expose.zip(tls) {
            Some((address, tls)) => Some((process::listen_as(address, "--expose").await?, tls)),
            None => None,
        },
    };
    let holder = holder();
    let cluster = KubernetesPlatform::new(client.clone(), global.namespaces.clone(), &holder);
    let platform = Arc::new(Journaled::new(Arc::new(cluster), Arc::clone(&store)));
    let watched = Arc::clone(&platform);
    let parts = ControllerParts {
        store,
        platform,
        workloads: Arc::new(Workloads::new(Some(client.clone()))),
        worker_pods: Arc::new(WorkerPods::new(Some(client.clone()), workers.settings())),
        sealing: sealing_key_of_environment()?,
        authorizer: Arc::new(KubeAuthorizer::new(client)),
        home: ResourceHome::Cluster,
        http: HttpClient::new()?,
        metrics,
        loops: Loops::new(),
        observe,
        home_namespace: ProcessIdentity::own().pod.as_ref().map_or(namespace, |pod| pod.namespace.clone()),
        holder,
        problems: Arc::new(move || watched.problems().into_iter().map(Problem::from).collect()),
        down: None,
        external_url,
    };
    let mut process = ControllerProcess::start(parts, doors).await?;
    tracing::info!(%listen, observe, "controller serves");
    let ended = tokio::select! {
        signal = signaled() => signal,
        broken = process.broken() => Err(broken),
    };
    tracing::info!("shutting down: controllers stop, then leadership is released");
    process.rest().await;
    process.end().await;
    ended
}
