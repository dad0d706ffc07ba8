//! The command line: one file per subcommand, each with its `Args` and a `run`. What a command needs is built here and
//! in [`up`] and [`controller`], and passed down.

mod act;
mod agent;
mod backup;
pub mod bench;
mod bundle;
mod callers;
mod calls;
mod causes;
mod client;
mod complete;
mod controller;
pub mod crds;
mod dashboard;
mod data_dir;
mod data_plane;
mod database;
mod describe;
pub mod doctor;
mod down;
mod error;
mod events;
mod gateway;
mod get;
mod init;
mod job;
mod journaled;
mod kube;
mod logs;
mod names;
mod notify;
mod output;
mod process;
mod reaper;
mod service;
mod simulate;
mod status;
mod target;
mod tasks;
mod up;
mod validate;
mod worker;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::CompleteEnv;

use crate::{net, telemetry};

pub use client::ApiClient;
pub use data_dir::{DataDir, UpEndpoint};
pub use error::CliError;
pub use target::TargetSystem;
pub use up::Records;

/// Keeps LLM servers as declared, and heals them.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, max_term_width = 120, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: CliCommand,
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
    pub log_format: LogFormatArg,
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
pub enum LogFormatArg {
    #[default]
    Text,
    Json,
}

impl From<LogFormatArg> for telemetry::LogFormat {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Json => Self::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum CliCommand {
    Status(status::StatusArgs),
    Causes(causes::CausesArgs),
    Ack(causes::AckArgs),
    Report(causes::ReportArgs),
    Notify(notify::NotifyArgs),
    Dashboard(dashboard::DashboardArgs),
    Get(get::GetArgs),
    Describe(describe::DescribeArgs),
    Events(events::EventsArgs),
    Logs(logs::LogsArgs),
    Tasks(tasks::TasksArgs),
    Calls(calls::CallsArgs),
    Callers(callers::CallersArgs),
    /// Reconcile a resource now; if it is deferred to a human, start a new episode
    Reconcile(act::ResourceArgs),
    /// Suspend a resource: it is probed, and nothing else
    Suspend(act::ResourceArgs),
    /// End a suspension
    Resume(act::ResourceArgs),
    /// Run a TaskSchedule once, now
    Run(act::RunArgs),
    /// Stop a service and hold it until `start`
    Stop(service::ServiceArgs),
    /// Start a service, and release the hold of `stop`
    Start(service::ServiceArgs),
    Pause(act::PauseArgs),
    /// End the pause
    Unpause,
    Init(init::InitArgs),
    Validate(validate::ValidateArgs),
    Up(up::UpArgs),
    Down(down::DownArgs),
    Migrate(database::MigrateArgs),
    Backup(backup::BackupArgs),
    Doctor(doctor::DoctorArgs),
    Service(job::JobArgs),
    Controller(controller::ControllerArgs),
    Worker(worker::WorkerArgs),
    Gateway(gateway::GatewayArgs),
    Simulate(simulate::SimulateArgs),
    Bench(bench::BenchArgs),
    Crds(crds::CrdsArgs),
    Agent(agent::AgentArgs),
    #[command(hide = true)]
    AgentExec(agent::AgentExecArgs),
    Completions(complete::CompletionsArgs),
    Version(status::VersionArgs),
}

/// Parses, builds the runtime, runs. Exit codes: 0 done, 1 failed, 2 misused, 3 not healthy (`status --check`).
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    CompleteEnv::with_factory(command).var(complete::VARIABLE).complete();
    let matches = command().get_matches_from(&args);
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    cli.global.kube |= called_as_kubectl_plugin(&args);
    net::install_crypto();
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
        "backup" | "service" => &["data_dir"],
        "down" | "migrate" => &["data_dir"],
        "controller" => &["namespaces", "log_format"],
        "worker" | "gateway" => &["data_dir", "namespaces", "log_format"],
        "callers" => &["data_dir", "kube", "namespaces"],
        "pause" | "unpause" | "version" => &["data_dir", "server", "kube"],
        _ => &["data_dir", "server", "kube", "namespaces"],
    }
}

fn dispatch(cli: Cli) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    match command {
        CliCommand::Status(args) => block_on(status::run(args, &global)),
        CliCommand::Causes(args) => block_on(causes::run(args, &global)),
        CliCommand::Ack(args) => block_on(causes::acknowledge(args, &global)),
        CliCommand::Report(args) => block_on(causes::report(args, &global)),
        CliCommand::Notify(args) => block_on(notify::run(args, &global)),
        CliCommand::Dashboard(args) => block_on(dashboard::run(args, &global)),
        CliCommand::Get(args) => block_on(get::run(args, &global)),
        CliCommand::Describe(args) => block_on(describe::run(args, &global)),
        CliCommand::Events(args) => block_on(events::run(args, &global)),
        CliCommand::Logs(args) => block_on(logs::run(args, &global)),
        CliCommand::Tasks(args) => block_on(tasks::run(args, &global)),
        CliCommand::Calls(args) => block_on(calls::run(args, &global)),
        CliCommand::Callers(args) => block_on(callers::run(args, &global)),
        CliCommand::Reconcile(args) => block_on(act::run(act::ResourceVerb::Reconcile, args, &global)),
        CliCommand::Suspend(args) => block_on(act::run(act::ResourceVerb::Suspend, args, &global)),
        CliCommand::Resume(args) => block_on(act::run(act::ResourceVerb::Resume, args, &global)),
        CliCommand::Run(args) => block_on(act::run_schedule(args, &global)),
        CliCommand::Stop(args) => block_on(service::run(service::ServiceVerb::Stop, args, &global)),
        CliCommand::Start(args) => block_on(service::run(service::ServiceVerb::Start, args, &global)),
        CliCommand::Pause(args) => block_on(act::pause(args, &global)),
        CliCommand::Unpause => block_on(act::unpause(&global)),
        CliCommand::Init(args) => block_on(init::run(args)),
        CliCommand::Validate(args) => validate::run(&args),
        CliCommand::Up(args) => block_on(up::run(args, &global)),
        CliCommand::Controller(args) => block_on(controller::run(args, &global)),
        CliCommand::Worker(args) => block_on(worker::run(args, &global)),
        CliCommand::Gateway(args) => block_on(gateway::run(args, &global)),
        CliCommand::Down(args) => block_on(down::run(args, &global)),
        CliCommand::Migrate(args) => block_on(database::migrate(args, &global)),
        CliCommand::Backup(args) => block_on(backup::run(args, &global)),
        CliCommand::Doctor(args) => block_on(doctor::run(args, &global)),
        CliCommand::Service(args) => job::run(args, &global),
        CliCommand::Agent(args) => block_on(agent::run(args, &global)),
        CliCommand::AgentExec(args) => agent::exec_service(args),
        CliCommand::Simulate(args) => block_on(simulate::run(args)),
        CliCommand::Bench(args) => block_on(bench::run(args)),
        CliCommand::Completions(args) => complete::run(&args),
        CliCommand::Crds(args) => crds::run(&args),
        CliCommand::Version(args) => block_on(status::version(args, &global)),
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
        assert!(matches!(Cli::from_arg_matches(&matches).unwrap().global.log_format, LogFormatArg::Json));
    }

    #[test]
    fn a_link_named_as_a_kubectl_plugin_asks_the_cluster() {
        for (name, plugin) in [("/usr/local/bin/kubectl-ostler", true), ("ostler", false)] {
            assert_eq!(called_as_kubectl_plugin(&[name.into()]), plugin, "{name}");
        }
    }
}
