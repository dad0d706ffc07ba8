//! `ostler controller`: the controllers in a cluster. Of several one leads.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;

use super::{
    CliError, Global,
    database::Database,
    http_client::http_client,
    journaled::Journaled,
    process::{Parts, Process, holder, signaled},
};
use crate::{
    http::{Home, KubeAuthorizer, Problem},
    platform::{
        Platform,
        kubernetes::{self, KubernetesPlatform},
    },
    runtimes::ClusterWorkloads,
    store::counted,
    telemetry::{Logging, Loops, Metrics},
};

const LOGS: &str = "ostler=info,warn";

/// Run the controllers in a cluster; of several replicas one leads
///
/// Watches the namespaces of -n, or all. Needs a PostgreSQL database and the Kubernetes API.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where API, health and metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    listen: SocketAddr,
    #[command(flatten)]
    database: Database,
    /// Say what would be done, and do nothing
    #[arg(long)]
    observe: bool,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { listen, database, observe } = args;
    let logging = Logging::start(global.log_format.into(), LOGS)?;
    let ended = serve(listen, database, observe, global).await;
    // Spans are sent from a thread that the runtime must outlive.
    let _ = tokio::task::spawn_blocking(move || logging.flush()).await;
    ended
}

async fn serve(listen: SocketAddr, database: Database, observe: bool, global: &Global) -> Result<(), CliError> {
    let metrics = Metrics::new();
    let store = counted(database.open(None).await?, metrics.clone());
    let (client, _) = kubernetes::connect().await.map_err(CliError::failed)?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| CliError::failed(format!("can't listen on {listen}: {e}; choose another with --listen")))?;
    let holder = holder();
    let cluster = KubernetesPlatform::new(client.clone(), global.namespaces.clone(), &holder);
    let platform = Arc::new(Journaled::new(Arc::new(cluster), Arc::clone(&store)));
    let watched = Arc::clone(&platform);
    let parts = Parts {
        store,
        platform,
        workloads: Arc::new(ClusterWorkloads::new(client.clone())),
        authorizer: Arc::new(KubeAuthorizer::new(client)),
        home: Home::Cluster,
        http: http_client()?,
        metrics,
        loops: Loops::new(),
        observe,
        holder,
        problems: Arc::new(move || watched.problems().into_iter().map(Problem::from).collect()),
        down: None,
    };
    let mut process = Process::start(parts, listener).await?;
    tracing::info!(%listen, observe, "controller serves");
    let ended = tokio::select! {
        signal = signaled() => signal,
        broken = process.broken() => Err(broken),
    };
    tracing::info!("ending: controllers come to rest, then the lead is resigned");
    process.rest().await;
    process.end().await;
    ended
}
