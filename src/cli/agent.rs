//! `ostler agent`.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, AgentSettings},
    listener::raise_open_files,
    telemetry,
};

use super::{CliError, DataDir, Global, output, process::signaled, reaper};

/// Look after the services of this host: start, stop and heal what the file lists, and nothing else
///
/// Services live on when the agent ends, and are found again when it starts.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's file (kind: AgentConfig)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for holds, operations and logs; no two agents share one [default: agents/NAME in the data folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The agent's own loop only says what it would do; what it is asked to do, it does
    #[arg(long)]
    observe: bool,
}

/// Runs until a signal ends it.
pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let logging = telemetry::Logging::start(global.log_format.into(), "info")?;
    raise_open_files();
    reaper::start();
    let result = serve(args, global).await;
    logging.flush();
    result
}

async fn serve(args: Args, global: &Global) -> Result<(), CliError> {
    let file = agent::load(&args.config).map_err(CliError::failed)?;
    let state_dir = match args.state_dir {
        Some(dir) => dir,
        None => DataDir::of(global)?.path().join("agents").join(&file.name),
    };
    let exe = std::env::current_exe()
        .map_err(|e| CliError::failed(format!("can't find the path of this program, which starts services: {e}")))?;
    let settings = AgentSettings {
        name: file.name,
        spec: file.spec,
        base_dir: file.base_dir,
        state_dir: std::path::absolute(&state_dir).map_err(CliError::failed)?,
        observe: args.observe,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        exe,
        metrics: telemetry::Metrics::new(),
        http: agent::check_client().map_err(CliError::failed)?,
        signing_secret: None,
    };
    let shutdown = CancellationToken::new();
    let agent = agent::start(settings, shutdown.clone()).await.map_err(CliError::failed)?;
    output::announce(&format!("agent serves on {}; its state is in {}\n", agent.url(), state_dir.display()));
    signaled().await?;
    shutdown.cancel();
    agent.join().await;
    output::announce("agent ended; its services stay up\n");
    Ok(())
}
