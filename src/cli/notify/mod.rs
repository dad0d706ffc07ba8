//! `ostler notify`: makes Notifiers, and tries them.

mod setup;

use clap::Subcommand;

use super::{CliError, Global, TargetSystem, output::print};
use crate::{api::Kind, http::Changed};

/// Make a Notifier, or try one
#[derive(Debug, clap::Args)]
pub struct NotifyArgs {
    #[command(subcommand)]
    command: NotifyCommand,
}

#[derive(Debug, Subcommand)]
enum NotifyCommand {
    Setup(setup::NotifySetupArgs),
    Test(NotifyTestArgs),
}

/// Send a test message to a Notifier, or call the URL of a Heartbeat
#[derive(Debug, clap::Args)]
pub struct NotifyTestArgs {
    /// Name of the Notifier
    name: String,
}

pub async fn run(args: NotifyArgs, global: &Global) -> Result<(), CliError> {
    match args.command {
        NotifyCommand::Setup(args) => setup::run(args, global).await,
        NotifyCommand::Test(args) => {
            let target = TargetSystem::of(global).await?;
            let message = test(&target, target.namespace_of_one(), &args.name).await?;
            print(&format!("{message} · {}\n", target.place))
        }
    }
}

async fn test(target: &TargetSystem, namespace: &str, name: &str) -> Result<String, CliError> {
    let path = [Kind::Notifier.plural(), namespace, name, "test"];
    let changed: Changed = target.api.post(&path, &[], None::<&()>).await?;
    Ok(changed.message)
}
