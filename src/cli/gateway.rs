//! `ostler gateway`: serves agents, IDEs and scripts, wherever the database and the servers can be reached.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    CliError, Global,
    data_plane::DataPlaneArgs,
    process::{self, TlsArgs, holder, host, logged},
    reaper,
};
use crate::{
    gateway::{Gateway, GatewayParts, GatewayTimings, Origins},
    net::HttpClient,
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
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    plane: DataPlaneArgs,
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
    let GatewayArgs { address, tls, plane, drain_seconds, origins } = args;
    let shutdown = CancellationToken::new();
    let tls = tls.read(&shutdown)?;
    let mut plane = plane.open(global).await?;
    let clients = process::listen_as(address, "--address").await?;
    let gateway = Gateway::new(GatewayParts {
        secrets: plane.secrets.clone(),
        store: Arc::clone(&plane.store),
        http: HttpClient::new()?,
        loops: plane.loops.clone(),
        metrics: plane.metrics.gateway.clone(),
        holder: holder(),
        host: host(),
        namespace: plane.namespace.clone(),
        origins: origins.origins(),
        timings: GatewayTimings { drain: Duration::from_secs(drain_seconds.into()), ..GatewayTimings::default() },
    })
    .with_tls(tls);
    let mut serving = tokio::spawn(gateway.run(clients, shutdown.clone()));
    let outcome = tokio::select! {
        ended = plane.until_ended() => ended,
        served = &mut serving => {
            let why = match served {
                Ok(Ok(())) => "nobody told it to".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic.to_string(),
            };
            return Err(CliError::failed(format!("the gateway ended by itself: {why}")));
        }
    };
    shutdown.cancel();
    let served = serving.await.map_err(|error| CliError::failed(format!("the gateway failed: {error}")))?;
    served.map_err(CliError::failed)?;
    outcome
}
