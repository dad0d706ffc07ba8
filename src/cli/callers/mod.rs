//! `ostler callers`: keys for programs that call through a gateway, and what to set in them.

mod create;
mod env;

use clap::Subcommand;

use super::{CliError, Global};

/// Who may call through the gateway
#[derive(Debug, clap::Args)]
pub struct CallersArgs {
    #[command(subcommand)]
    command: CallersCommand,
}

#[derive(Debug, Subcommand)]
enum CallersCommand {
    Create(create::CallersCreateArgs),
    Env(env::CallersEnvArgs),
}

pub async fn run(args: CallersArgs, global: &Global) -> Result<(), CliError> {
    match args.command {
        CallersCommand::Create(args) => create::run(args, global).await,
        CallersCommand::Env(args) => env::run(args).await,
    }
}
