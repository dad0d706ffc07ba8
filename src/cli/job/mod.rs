//! `ostler service`: `up` and `agent` as jobs of systemd or launchd. What is written and run is computed first
//! ([`ManagedJob::steps`]), and can be printed instead.

mod launchd;
mod steps;
mod systemd;

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::{
    CliError, DataDir, Global,
    output::{self, Format, print},
};
use crate::agent;

pub use steps::{JobState, JobSteps};

/// What the file of a job begins with: only such a file is replaced or removed.
const MARK: &str = "Written by `ostler service install`";
/// Where a machine's own programs are, whoever installs.
const SYSTEM_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin";
/// Open files that a job may have.
const OPEN_FILES: u32 = 8192;
/// Between an end and the next start, in seconds.
const RESTART_SECONDS: u32 = 10;

/// Have `up` or `agent` started at login or at boot, and again after a crash
#[derive(Debug, clap::Args)]
pub struct JobArgs {
    #[command(subcommand)]
    command: JobCommand,
}

#[derive(Debug, clap::Subcommand)]
enum JobCommand {
    /// Write a unit of systemd or a plist of launchd, and start it
    Install(InstallArgs),
    /// Stop it and remove its file; services of the agent stay up, and data stay where they are
    Uninstall(JobSelection),
    /// Whether it is installed and runs; exits with 3 if it does not
    Status(StatusOfJobArgs),
}

#[derive(Debug, clap::Args)]
struct InstallArgs {
    #[command(flatten)]
    job: JobSelection,
    /// Folder of manifests (up)
    #[arg(short, value_name = "DIR", required_if_eq("program", "up"))]
    folder: Option<PathBuf>,
    /// The agent's file (agent)
    #[arg(long, value_name = "FILE", required_if_eq("program", "agent"))]
    config: Option<PathBuf>,
    /// User that it runs as, with --system
    #[arg(long, value_name = "USER", requires = "system")]
    run_as: Option<String>,
    /// Print the file instead of installing it
    #[arg(long)]
    print: bool,
}

#[derive(Debug, clap::Args)]
struct StatusOfJobArgs {
    #[command(flatten)]
    job: JobSelection,
    /// For programs
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct JobSelection {
    /// Which command
    #[arg(value_enum)]
    program: JobProgram,
    /// At boot, for the machine, in place of at login, for this user
    #[arg(long)]
    system: bool,
    /// systemd, or launchd [default: what this system has]
    #[arg(long, value_enum)]
    manager: Option<JobManager>,
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum JobProgram {
    Up,
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JobManager {
    Systemd,
    Launchd,
}

impl JobManager {
    pub fn of_this_system() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }
}

/// A job as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedJob {
    pub program: JobProgram,
    pub manager: JobManager,
    /// At boot, for the machine.
    pub system: bool,
    pub run_as: Option<String>,
    /// The program with its arguments.
    pub command: Vec<String>,
    /// Where programs are looked for.
    pub path: String,
    /// Of whoever installs.
    pub home: PathBuf,
    pub uid: u32,
    pub data_dir: PathBuf,
}

pub fn run(args: JobArgs, global: &Global) -> Result<(), CliError> {
    match args.command {
        JobCommand::Install(args) => install(args, global),
        JobCommand::Uninstall(job) => uninstall(&of_selection(job)?),
        JobCommand::Status(args) => status(args),
    }
}

fn install(args: InstallArgs, global: &Global) -> Result<(), CliError> {
    let InstallArgs { job, folder, config, run_as, print: only_print } = args;
    let job = ManagedJob { run_as, ..of_selection(job)? };
    let data_dir = if job.system && global.data_dir.is_none() {
        PathBuf::from(if job.manager == JobManager::Launchd {
            "/Library/Application Support/ostler"
        } else {
            "/var/lib/ostler"
        })
    } else {
        absolute(DataDir::of(global)?.path())?
    };
    let mut command = vec![program_path()?, job.program.to_string()];
    match (job.program, folder, config) {
        (JobProgram::Up, Some(folder), _) => command.extend(["-f".to_owned(), existing(&folder)?]),
        (JobProgram::Agent, _, Some(config)) => {
            agent::load(&config).map_err(CliError::failed)?;
            command.extend(["--config".to_owned(), existing(&config)?]);
        }
        _ => return Err(CliError::misused("say -f DIR for up, --config FILE for agent")),
    }
    command.extend(["--data-dir".to_owned(), text(&data_dir)?]);
    let job = ManagedJob { command, data_dir, ..job };
    let steps = job.steps();
    if only_print {
        return print(&steps.text);
    }
    steps.install(&job)?;
    let mut said = format!("{} is installed ({}) and started\n", job.name(), steps.file.display());
    if !job.system && job.manager == JobManager::Systemd {
        said += "it runs while you are logged in; `loginctl enable-linger` lets it start at boot\n";
    }
    print(&said)
}

fn uninstall(job: &ManagedJob) -> Result<(), CliError> {
    let steps = job.steps();
    if steps.uninstall()? {
        print(&format!("{} is stopped, {} removed; data stay in place\n", job.name(), steps.file.display()))
    } else {
        print(&format!("{} is not installed: there is no {}\n", job.name(), steps.file.display()))
    }
}

fn status(args: StatusOfJobArgs) -> Result<(), CliError> {
    let job = of_selection(args.job)?;
    let state = job.observe();
    if !output::print_value(args.output, &state)? {
        print(&format!("{}: {}\n", job.name(), state.sentence()))?;
    }
    if state.running { Ok(()) } else { Err(CliError::NotHealthy) }
}

/// The job that a selection names, with what this machine says; its command is not known.
fn of_selection(selection: JobSelection) -> Result<ManagedJob, CliError> {
    let JobSelection { program, system, manager } = selection;
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = match home {
        Some(home) => home,
        None if system => PathBuf::from("/"),
        None => return Err(CliError::failed("HOME is not set: nothing says where a user's jobs are; use --system")),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let absolute_only: Vec<&str> = path.split(':').filter(|folder| folder.starts_with('/')).collect();
    Ok(ManagedJob {
        program,
        manager: manager.unwrap_or_else(JobManager::of_this_system),
        system,
        run_as: None,
        command: Vec::new(),
        path: if system || absolute_only.is_empty() { SYSTEM_PATH.to_owned() } else { absolute_only.join(":") },
        home,
        uid: nix::unistd::Uid::current().as_raw(),
        data_dir: PathBuf::new(),
    })
}

/// The jobs of this user and of the machine that are installed, with their states.
pub fn installed() -> Vec<(String, JobState)> {
    let mut found = Vec::new();
    for program in [JobProgram::Up, JobProgram::Agent] {
        for system in [false, true] {
            let Ok(job) = of_selection(JobSelection { program, system, manager: None }) else { continue };
            let state = job.observe();
            if state.installed {
                found.push((job.name(), state));
            }
        }
    }
    found
}

fn program_path() -> Result<String, CliError> {
    let path = std::env::current_exe()
        .map_err(|e| CliError::failed(format!("can't find the path of this program, which the job runs: {e}")))?;
    text(&path)
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|e| CliError::failed(format!("can't make {} absolute: {e}", path.display())))
}

fn existing(path: &Path) -> Result<String, CliError> {
    if !path.exists() {
        return Err(CliError::misused(format!("{}: there is no such folder or file", path.display())));
    }
    text(&absolute(path)?)
}

fn text(path: &Path) -> Result<String, CliError> {
    let refused = |why: &str| CliError::misused(format!("{}: {why} can't be part of a job's file", path.display()));
    let text = path.to_str().ok_or_else(|| refused("a path that is no UTF-8"))?;
    if text.chars().any(char::is_control) {
        Err(refused("a path with control characters"))
    } else {
        Ok(text.to_owned())
    }
}
