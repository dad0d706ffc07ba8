//! `ostler completions SHELL`.

use clap_complete::env::Shells;

use super::{CliError, output::print_ready};

/// Asked for by the shell that wants completion.
pub const VARIABLE: &str = "OSTLER_COMPLETE";

/// Print completions: `source <(ostler completions bash)`; names of resources are those of the running system
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(value_parser = ["bash", "elvish", "fish", "powershell", "zsh"])]
    shell: String,
}

pub fn run(args: &Args) -> Result<(), CliError> {
    let shells = Shells::builtins();
    let shell =
        shells.completer(&args.shell).ok_or_else(|| CliError::misused(format!("{}: no such shell", args.shell)))?;
    let program = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned));
    let program = program.as_deref().unwrap_or("ostler");
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "ostler", "ostler", program, &mut script).map_err(CliError::failed)?;
    print_ready(&String::from_utf8_lossy(&script))
}
