//! `ostler worker`: does the tasks of a pool, in a cluster or wherever the database and the servers can be reached.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CliError, DataDir, Global,
    data_dir::{KEY_FILE, sealing_key_of_environment, state_folder},
    process::{self, holder, host, logged, signaled},
    reaper,
};
use crate::{
    calls::SealedSecrets,
    http,
    net::HttpClient,
    store::{self, DatabaseUrl, Home, Store, counted, seal, sqlite::Hold, watch_deaths},
    telemetry::{Loops, Metrics},
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
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; without it, the data folder of an `ostler up` on this machine
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
    /// The id that this installation's database must have; without it, whatever is recorded there
    #[arg(long, value_name = "UUID", env = "OSTLER_INSTALLATION")]
    installation: Option<Uuid>,
    /// Where /livez, /readyz and /metrics are; without it, nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where finished results wait while the database is away [default: in the data folder, or with a URL in ~/.local/state/ostler]
    #[arg(long, value_name = "DIR", env = "OSTLER_SPOOL_DIR")]
    spool: Option<PathBuf>,
}

pub async fn run(args: WorkerArgs, global: &Global) -> Result<(), CliError> {
    reaper::start();
    logged(global, LOGS, work(args, global)).await
}

async fn work(args: WorkerArgs, global: &Global) -> Result<(), CliError> {
    let WorkerArgs { pool, database_url, installation, listen, spool } = args;
    let namespace = global.namespace()?.unwrap_or_else(|| "default".to_owned());
    let home = match database_url {
        Some(url) => Home::Postgres(url),
        None => Home::Folder { path: DataDir::of(global)?.path().to_owned(), hold: Hold::Share },
    };
    let key = opening_key(&home)?;
    let spool = spool.map_or_else(|| usual_spool(&home), Ok)?;
    let (metrics, loops) = (Metrics::new(), Loops::new());
    let store = counted(store::open(&home, installation).await?, metrics.clone());
    let ended = CancellationToken::new();
    tokio::spawn(loops.clone().keep_time(ended.clone()));
    tokio::spawn(watch_deaths(Arc::clone(&store), None, ended.clone()));
    let door = serve_health(listen, &store, &metrics, &loops, &ended).await?;
    let worker = Worker::new(WorkerParts {
        secrets: Arc::new(SealedSecrets { store: Arc::clone(&store), key }),
        store: Arc::clone(&store),
        http: HttpClient::new()?,
        metrics: metrics.worker.clone(),
        loops,
        holder: holder(),
        host: host(),
        namespace: namespace.clone(),
        pool: pool.clone(),
        spool,
        timings: Timings::default(),
    })
    .map_err(CliError::failed)?;
    tell_of_missing_pool(&*store, &namespace, &pool).await;
    let shutdown = CancellationToken::new();
    let working = tokio::spawn(worker.run(shutdown.clone()));
    let outcome = tokio::select! {
        signal = signaled() => signal,
        broken = door => Err(broken),
    };
    shutdown.cancel();
    let ended_well = working.await;
    ended.cancel();
    ended_well.map_err(|error| CliError::failed(format!("the worker failed: {error}")))?;
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

/// Serves health and metrics, where asked to; the future tells what went wrong with that.
pub(super) async fn serve_health(
    listen: Option<SocketAddr>,
    store: &Arc<dyn Store>,
    metrics: &Metrics,
    loops: &Loops,
    ended: &CancellationToken,
) -> Result<impl Future<Output = CliError> + use<>, CliError> {
    let server = match listen {
        None => None,
        Some(listen) => {
            let listener = process::listen(listen).await?;
            let (store, metrics, loops) = (Arc::clone(store), metrics.clone(), loops.clone());
            let health = http::Health { store, metrics, loops, platform: None };
            Some(tokio::spawn(http::serve_health(listener, health, ended.clone())))
        }
    };
    Ok(async move {
        let Some(server) = server else { return std::future::pending().await };
        match server.await {
            Ok(Ok(())) => CliError::failed("the health page ended by itself"),
            Ok(Err(error)) => CliError::failed(format!("the health page failed: {error}")),
            Err(error) => CliError::failed(format!("the health page failed: {error}")),
        }
    })
}

/// What opens sealed Secrets: OSTLER_KEY, else the key that an `ostler up` keeps in its data folder.
pub(super) fn opening_key(home: &Home) -> Result<Option<seal::Key>, CliError> {
    if let Some(key) = sealing_key_of_environment()? {
        return Ok(Some(key));
    }
    let text = match home {
        Home::Folder { path, .. } => std::fs::read_to_string(path.join(KEY_FILE)).ok(),
        Home::Postgres(_) => None,
    };
    text.map(|text| seal::Key::parse(&text)).transpose().map_err(CliError::failed)
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
