//! The command line: one file per subcommand, each with its `Args` and a `run`. What a command needs is built here and
//! in [`up`] and [`controller`], and passed down.

mod act;
mod agent;
mod agent_exec;
pub mod bench;
mod client;
mod complete;
mod completions;
mod controller;
pub mod crds;
mod data_dir;
mod database;
mod database_url;
mod describe;
mod down;
mod error;
mod events;
mod get;
mod http_client;
mod init;
mod journaled;
mod kube;
mod logs;
mod migrate;
mod names;
mod output;
mod pause;
mod ports;
mod process;
mod reaper;
mod service;
mod simulate;
mod status;
mod target;
mod tasks;
mod up;
mod validate;
mod version;
mod worker;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::CompleteEnv;

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
#[derive(Args, Clone, Debug, Default)]
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
    Describe(describe::Args),
    Events(events::Args),
    Logs(logs::Args),
    Tasks(tasks::Args),
    /// Look at a resource now; where a human was asked, begin anew
    Reconcile(act::Args),
    /// Leave a resource alone: it is probed, and nothing else
    Suspend(act::Args),
    /// End a suspension
    Resume(act::Args),
    /// Fire a TaskSchedule once, now
    Run(act::RunArgs),
    /// Stop a service and keep it stopped, until `start`
    Stop(service::Args),
    /// Start a service, and end the hold of `stop`
    Start(service::Args),
    Pause(pause::Args),
    /// End the pause
    Unpause,
    Init(init::Args),
    Validate(validate::Args),
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
    Version(version::Args),
}

/// Parses, builds the runtime, runs. Exit codes: 0 done, 1 failed, 2 misused, 3 not healthy (`status --check`).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    CompleteEnv::with_factory(command).var(completions::VARIABLE).complete();
    let matches = command().get_matches_from(&args);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli.global.kube |= called_as_kubectl_plugin(&args);
    telemetry::install_crypto();
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                output::tell(&format!("ostler: {error}\n"));
            }
            error.exit_code()
        }
    }
}

/// The whole command line. An option for all commands is hidden where it means nothing.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let options: Vec<clap::Arg> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
    for name in names {
        let meant = options_of(&name);
        command = command.mut_subcommand(&name, |subcommand| {
            let hidden = options.iter().filter(|arg| !meant.contains(&arg.get_id().as_str()));
            hidden.fold(subcommand, |subcommand, arg| subcommand.arg(arg.clone().hide(true)))
        });
    }
    command
}

/// Which options of all commands a command heeds.
fn options_of(name: &str) -> &'static [&'static str] {
    match name {
        "init" | "validate" | "simulate" | "bench" | "crds" | "agent-exec" | "completions" => &[],
        "up" | "agent" => &["data_dir", "log_format"],
        "down" | "migrate" => &["data_dir"],
        "controller" => &["namespaces", "log_format"],
        "worker" => &["data_dir", "namespaces", "log_format"],
        "pause" | "unpause" | "version" => &["data_dir", "server", "kube"],
        _ => &["data_dir", "server", "kube", "namespaces"],
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Status(args) => block_on(status::run(args, &global)),
        Command::Get(args) => block_on(get::run(args, &global)),
        Command::Describe(args) => block_on(describe::run(args, &global)),
        Command::Events(args) => block_on(events::run(args, &global)),
        Command::Logs(args) => block_on(logs::run(args, &global)),
        Command::Tasks(args) => block_on(tasks::run(args, &global)),
        Command::Reconcile(args) => block_on(act::run(act::Verb::Reconcile, args, &global)),
        Command::Suspend(args) => block_on(act::run(act::Verb::Suspend, args, &global)),
        Command::Resume(args) => block_on(act::run(act::Verb::Resume, args, &global)),
        Command::Run(args) => block_on(act::run_schedule(args, &global)),
        Command::Stop(args) => block_on(service::run(service::Verb::Stop, args, &global)),
        Command::Start(args) => block_on(service::run(service::Verb::Start, args, &global)),
        Command::Pause(args) => block_on(pause::run(args, &global)),
        Command::Unpause => block_on(pause::unpause(&global)),
        Command::Init(args) => block_on(init::run(args)),
        Command::Validate(args) => validate::run(&args),
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
        Command::Version(args) => block_on(version::run(args, &global)),
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
    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        command().debug_assert();
    }

    #[test]
    fn options_are_shown_where_they_mean_something_and_are_taken_before_and_after_the_command() {
        let help = |name: &str| {
            let mut command = command();
            command.build();
            command.find_subcommand_mut(name).unwrap().render_long_help().to_string()
        };
        for (name, shown, hidden) in [
            ("status", &["--data-dir", "--kube", "--namespace"][..], &["--log-format"][..]),
            ("up", &["--data-dir", "--log-format"], &["--kube", "--server", "--namespace"]),
            ("simulate", &[], &["--data-dir", "--kube", "--server", "--namespace", "--log-format"]),
        ] {
            let help = help(name);
            assert!(shown.iter().all(|option| help.contains(option)), "{name}: {help}");
            assert!(hidden.iter().all(|option| !help.contains(option)), "{name}: {help}");
        }
        for args in [["ostler", "-n", "team", "status"], ["ostler", "status", "-n", "team"]] {
            let matches = command().try_get_matches_from(args).unwrap();
            assert_eq!(Cli::from_arg_matches(&matches).unwrap().global.namespaces, ["team"]);
        }
        let matches = command().try_get_matches_from(["ostler", "--log-format", "json", "simulate"]).unwrap();
        assert!(matches!(Cli::from_arg_matches(&matches).unwrap().global.log_format, LogFormat::Json));
    }

    #[test]
    fn a_link_named_as_a_kubectl_plugin_asks_the_cluster() {
        for (name, plugin) in [("/usr/local/bin/kubectl-ostler", true), ("ostler", false)] {
            assert_eq!(called_as_kubectl_plugin(&[name.into()]), plugin, "{name}");
        }
    }
}
