//! The command line: one file per subcommand, each with its `Args` and a `run`. What a command needs is built here and
//! in [`up`] and [`controller`], and passed down.

mod act;
mod agent;
mod agent_exec;
pub mod bench;
mod client;
mod completions;
mod controller;
pub mod crds;
mod data_dir;
mod database;
mod database_url;
mod down;
mod error;
mod events;
mod get;
mod http_client;
mod init;
mod journaled;
mod kube;
mod migrate;
mod names;
mod output;
mod pause;
mod ports;
mod process;
mod service;
mod simulate;
mod status;
mod target;
mod tasks;
mod up;
mod worker;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::telemetry;

pub use client::ApiClient;
pub use data_dir::{DataDir, Endpoint};
pub use error::CliError;
pub use target::Target;
pub use up::Records;

/// Keeps LLM servers as declared, and heals them.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, max_term_width = 120, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand takes. Which system: `--data-dir` or OSTLER_DATA_DIR, else `--server` or OSTLER_SERVER (with
/// OSTLER_TOKEN), else the per-user data folder.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Data folder of an `ostler up` [env: OSTLER_DATA_DIR] [default: a folder of the user]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of an Ostler elsewhere, with its token in OSTLER_TOKEN [env: OSTLER_SERVER]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data_dir")]
    pub server: Option<String>,
    /// Reach the Ostler of the current kubeconfig context, by port-forward (as `kubectl ostler` does)
    #[arg(long, global = true, conflicts_with_all = ["data_dir", "server"])]
    pub kube: bool,
    /// Namespace of the resources; `controller` takes several: those that it watches
    #[arg(short, long = "namespace", global = true, value_name = "NAMESPACE")]
    pub namespaces: Vec<String>,
    /// How logs are written; OSTLER_LOG filters them (`debug`, `ostler=debug,kube=info`)
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Global {
    /// The one namespace of a command that takes one.
    pub fn namespace(&self) -> Result<Option<String>, CliError> {
        match self.namespaces.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            several => Err(CliError::misused(format!("-n is given {} times: this command takes one", several.len()))),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl From<LogFormat> for telemetry::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Status(status::Args),
    Get(get::Args),
    Events(events::Args),
    Tasks(tasks::Args),
    /// Look at a resource now; where a human was asked, begin anew
    Reconcile(act::Args),
    /// Leave a resource alone: it is probed, and nothing else
    Suspend(act::Args),
    /// End a suspension
    Resume(act::Args),
    /// Fire a TaskSchedule once, now
    Run(act::Args),
    /// Stop a service and keep it stopped, until `start`
    Stop(service::Args),
    /// Start a service, and end the hold of `stop`
    Start(service::Args),
    Pause(pause::Args),
    /// End the pause
    Unpause,
    Init(init::Args),
    Up(up::Args),
    Down(down::Args),
    Migrate(migrate::Args),
    Controller(controller::Args),
    Worker(worker::Args),
    Simulate(simulate::Args),
    Bench(bench::Args),
    Crds(crds::Args),
    Agent(agent::Args),
    #[command(hide = true)]
    AgentExec(agent_exec::Args),
    Completions(completions::Args),
}

/// Parses, builds the runtime, runs. Exit codes: 0 done, 1 failed, 2 misused, 3 not healthy (`status --check`).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut cli = Cli::parse_from(&args);
    cli.global.kube |= called_as_kubectl_plugin(&args);
    telemetry::install_crypto();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                eprintln!("ostler: {error}");
            }
            error.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Status(args) => block_on(status::run(args, &global)),
        Command::Get(args) => block_on(get::run(args, &global)),
        Command::Events(args) => block_on(events::run(args, &global)),
        Command::Tasks(args) => block_on(tasks::run(args, &global)),
        Command::Reconcile(args) => block_on(act::run(act::Verb::Reconcile, args, &global)),
        Command::Suspend(args) => block_on(act::run(act::Verb::Suspend, args, &global)),
        Command::Resume(args) => block_on(act::run(act::Verb::Resume, args, &global)),
        Command::Run(args) => block_on(act::run(act::Verb::Run, args, &global)),
        Command::Stop(args) => block_on(service::run(service::Verb::Stop, args, &global)),
        Command::Start(args) => block_on(service::run(service::Verb::Start, args, &global)),
        Command::Pause(args) => block_on(pause::run(args, &global)),
        Command::Unpause => block_on(pause::unpause(&global)),
        Command::Init(args) => block_on(init::run(args)),
        Command::Up(args) => block_on(up::run(args, &global)),
        Command::Controller(args) => block_on(controller::run(args, &global)),
        Command::Worker(args) => block_on(worker::run(args, &global)),
        Command::Down(args) => block_on(down::run(args, &global)),
        Command::Migrate(args) => block_on(migrate::run(args, &global)),
        Command::Agent(args) => block_on(agent::run(args, &global)),
        Command::AgentExec(args) => agent_exec::run(args),
        Command::Simulate(args) => block_on(simulate::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::Crds(args) => crds::run(&args),
    }
}

fn block_on(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::Failed(format!("can't start the async runtime: {error}")))?;
    runtime.block_on(command)
}

/// `kubectl ostler …` runs the program `kubectl-ostler`: a link to this one.
fn called_as_kubectl_plugin(args: &[OsString]) -> bool {
    args.first().and_then(|path| std::path::Path::new(path).file_stem()).is_some_and(|name| name == "kubectl-ostler")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_link_named_as_a_kubectl_plugin_asks_the_cluster() {
        for (name, plugin) in [("/usr/local/bin/kubectl-ostler", true), ("ostler", false)] {
            assert_eq!(called_as_kubectl_plugin(&[name.into()]), plugin, "{name}");
        }
    }
}
