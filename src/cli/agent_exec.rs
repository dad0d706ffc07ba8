//! `ostler agent-exec`: what an agent starts services through. Not for people.

use std::path::PathBuf;

use crate::agent::exec::{ExecPlan, exec};

use super::CliError;

/// Become a service's program, after writing down pid and start time (agents call this)
#[derive(Debug, clap::Args)]
pub struct Args {
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
pub fn run(args: Args) -> Result<(), CliError> {
    let Args { record, user, dir, open_files, argv } = args;
    Err(CliError::NotRun(exec(&ExecPlan { record, user, dir, open_files, argv }).to_string()))
}
