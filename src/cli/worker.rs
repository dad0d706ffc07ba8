//! `ostler worker`: does the tasks of a pool, in a cluster or wherever the database and the servers can be reached.

use std::{path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{
    CliError, Global,
    data_dir::state_folder,
    data_plane::DataPlaneArgs,
    process::{holder, host, logged},
    reaper,
};
use crate::{
    net::HttpClient,
    store::{Home, Store},
    worker::{Timings, Worker, WorkerParts},
};

const LOGS: &str = "ostler=info,warn";

/// Do the tasks of a pool's queues
///
/// Needs the database and the servers, nothing else. Any number may run, on any machine. SIGTERM drains: nothing new is begun, what
/// runs is finished within the pool's drainSeconds; a second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// The WorkerPool
    #[arg(long, value_name = "NAME")]
    pool: String,
    #[command(flatten)]
    plane: DataPlaneArgs,
    /// Where finished results wait while the database is away [default: in the data folder, or with a URL in ~/.local/state/ostler]
    #[arg(long, value_name = "DIR", env = "OSTLER_SPOOL_DIR")]
    spool: Option<PathBuf>,
}

pub async fn run(args: WorkerArgs, global: &Global) -> Result<(), CliError> {
    reaper::start();
    logged(global, LOGS, work(args, global)).await
}

async fn work(args: WorkerArgs, global: &Global) -> Result<(), CliError> {
    let WorkerArgs { pool, plane, spool } = args;
    let mut plane = plane.open(global).await?;
    let spool = spool.map_or_else(|| usual_spool(&plane.home), Ok)?;
    let worker = Worker::new(WorkerParts {
        secrets: plane.secrets.clone(),
        store: Arc::clone(&plane.store),
        http: HttpClient::new()?,
        metrics: plane.metrics.worker.clone(),
        loops: plane.loops.clone(),
        holder: holder(),
        host: host(),
        namespace: plane.namespace.clone(),
        pool: pool.clone(),
        spool,
        timings: Timings::default(),
    })
    .map_err(CliError::failed)?;
    tell_of_missing_pool(&*plane.store, &plane.namespace, &pool).await;
    let shutdown = CancellationToken::new();
    let working = tokio::spawn(worker.run(shutdown.clone()));
    let outcome = plane.until_ended().await;
    shutdown.cancel();
    working.await.map_err(|error| CliError::failed(format!("the worker failed: {error}")))?;
    outcome
}

/// A pool that is not declared may come later, so that is no failure; most often it is mistyped.
async fn tell_of_missing_pool(store: &dyn Store, namespace: &str, pool: &str) {
    let Ok(pools) = store.declared("WorkerPool").await else { return };
    if pools.iter().any(|row| row.namespace == namespace && row.name == pool) {
        return;
    }
    let known: Vec<String> = pools.iter().map(|row| format!("{}/{}", row.namespace, row.name)).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    tracing::warn!(namespace, pool, known, "no WorkerPool of this name is declared; waiting until one is");
}

fn usual_spool(home: &Home) -> Result<PathBuf, CliError> {
    match home {
        Home::Folder { path, .. } => Ok(path.join("spool")),
        Home::Postgres(_) => state_folder().map(|folder| folder.join("spool")).ok_or_else(|| {
            CliError::failed(
                "no folder where results can wait: HOME is not set; say where with --spool DIR or OSTLER_SPOOL_DIR",
            )
        }),
    }
}
