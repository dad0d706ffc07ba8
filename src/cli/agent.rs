//! `ostler agent`, and `ostler agent-exec`, through which an agent starts services.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        self, AgentSettings,
        exec::{ExecPlan, exec},
    },
    telemetry,
};

use super::{
    CliError, DataDir, Global, output,
    process::{logged, signaled},
    reaper,
};

/// Run the host agent: start, stop and heal the services that its file lists, and nothing else
///
/// Services keep running when the agent ends, and are found again when it starts.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// The agent's file (kind: AgentConfig)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder for holds, operations and logs; no two agents share one [default: agents/NAME in the data folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Only report what the agent's own loop would do; requests are carried out
    #[arg(long)]
    observe: bool,
}

/// Runs until a signal ends it.
pub async fn run(args: AgentArgs, global: &Global) -> Result<(), CliError> {
    reaper::start();
    logged(global, "info", serve(args, global)).await
}

async fn serve(args: AgentArgs, global: &Global) -> Result<(), CliError> {
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

/// Become a service's program, after writing down pid and start time (agents call this)
#[derive(Debug, clap::Args)]
pub struct AgentExecArgs {
    /// File for pid and start time
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// User to become
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Folder to run in
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Limit of open files
    #[arg(long, value_name = "NUMBER")]
    open_files: Option<u64>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGUMENT")]
    argv: Vec<String>,
}

/// Returns only when the program can't be run.
pub fn exec_service(args: AgentExecArgs) -> Result<(), CliError> {
    let AgentExecArgs { record, user, dir, open_files, argv } = args;
    Err(CliError::NotRun(exec(&ExecPlan { record, user, dir, open_files, argv }).to_string()))
}
