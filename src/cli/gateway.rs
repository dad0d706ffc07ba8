//! `ostler gateway`: serves agents, IDEs and scripts, wherever the database and the servers can be reached.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CliError, DataDir, Global,
    process::{self, holder, host, logged, signaled},
    reaper,
    worker::{opening_key, serve_health},
};
use crate::{
    calls::SealedSecrets,
    gateway::{Gateway, GatewayParts, GatewayTimings, Origins},
    listener::raise_open_files,
    net::HttpClient,
    store::{self, DatabaseUrl, Home, counted, sqlite::Hold, watch_deaths},
    telemetry::{Loops, Metrics},
};

const LOGS: &str = "ostler=info,warn";
/// Where `up` and `gateway` serve clients unless they are told otherwise.
pub const USUAL_ADDRESS: &str = "127.0.0.1:9181";

/// Serve the calls of agents, IDEs and scripts, under the limits that tasks keep
///
/// Needs the database and the servers, nothing else. Any number may run. SIGTERM drains: no call is taken, those that wait are told to
/// ask again, what is streamed is finished within --drain-seconds; a second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// Where clients call; beyond this machine each needs a key (`ostler callers create`)
    #[arg(long, value_name = "ADDRESS", default_value = USUAL_ADDRESS)]
    address: SocketAddr,
    /// PostgreSQL: postgres://USER:PASSWORD@HOST:PORT/DATABASE; without it, the data folder of an `ostler up` on this machine
    #[arg(long, value_name = "URL", env = "OSTLER_DATABASE_URL", hide_env_values = true)]
    database_url: Option<DatabaseUrl>,
    /// The id that this installation's database must have; without it, whatever is recorded there
    #[arg(long, value_name = "UUID", env = "OSTLER_INSTALLATION")]
    installation: Option<Uuid>,
    /// Where /livez, /readyz and /metrics are; without it, nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// How long open calls may take when it ends
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    drain_seconds: u32,
    #[command(flatten)]
    origins: OriginArgs,
}

/// Which web pages and apps may ask
#[derive(Debug, Default, clap::Args)]
pub struct OriginArgs {
    /// Origins of web pages and apps that may ask, beside those of this machine: https://*.example.com
    #[arg(long, value_name = "ORIGIN", env = "OLLAMA_ORIGINS", value_delimiter = ',')]
    origins: Vec<String>,
}

impl OriginArgs {
    pub fn origins(self) -> Origins {
        Origins::new(self.origins)
    }
}

pub async fn run(args: GatewayArgs, global: &Global) -> Result<(), CliError> {
    reaper::start();
    logged(global, LOGS, serve(args, global)).await
}

async fn serve(args: GatewayArgs, global: &Global) -> Result<(), CliError> {
    let GatewayArgs { address, database_url, installation, listen, drain_seconds, origins } = args;
    let namespace = global.namespace()?.unwrap_or_else(|| "default".to_owned());
    let home = match database_url {
        Some(url) => Home::Postgres(url),
        None => Home::Folder { path: DataDir::of(global)?.path().to_owned(), hold: Hold::Share },
    };
    let key = opening_key(&home)?;
    raise_open_files();
    let (metrics, loops) = (Metrics::new(), Loops::new());
    let store = counted(store::open(&home, installation).await?, metrics.clone());
    let clients = process::listen_as(address, "--address").await?;
    let ended = CancellationToken::new();
    tokio::spawn(loops.clone().keep_time(ended.clone()));
    tokio::spawn(watch_deaths(Arc::clone(&store), None, ended.clone()));
    let health = serve_health(listen, &store, &metrics, &loops, &ended).await?;
    let gateway = Gateway::new(GatewayParts {
        secrets: Arc::new(SealedSecrets { store: Arc::clone(&store), key }),
        store,
        http: HttpClient::new()?,
        loops,
        metrics: metrics.gateway.clone(),
        holder: holder(),
        host: host(),
        namespace,
        origins: origins.origins(),
        timings: GatewayTimings { drain: Duration::from_secs(drain_seconds.into()), ..GatewayTimings::default() },
    });
    let shutdown = CancellationToken::new();
    let mut serving = tokio::spawn(gateway.run(clients, shutdown.clone()));
    let outcome = tokio::select! {
        signal = signaled() => signal,
        broken = health => Err(broken),
        served = &mut serving => return Err(CliError::failed(format!("the gateway ended by itself: {served:?}"))),
    };
    shutdown.cancel();
    let served = serving.await;
    ended.cancel();
    served.map_err(|error| CliError::failed(format!("the gateway failed: {error}")))?.map_err(CliError::failed)?;
    outcome
}
