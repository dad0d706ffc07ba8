//! `ostler completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError};

/// Print completions: `source <(ostler completions bash)`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(args: &Args) -> Result<(), CliError> {
    clap_complete::generate(args.shell, &mut Cli::command(), "ostler", &mut std::io::stdout());
    Ok(())
}
