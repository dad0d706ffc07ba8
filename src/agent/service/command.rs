//! Services that commands start and stop: systemctl, launchctl, brew.

use super::{error::ServiceError, launch::Launcher};
use crate::agent::config::{CommandSpec, Commands};

/// Whether the status command says that the service is up; `None` without such a command.
pub async fn status(launcher: &Launcher, status: Option<&CommandSpec>) -> Result<Option<bool>, ServiceError> {
    match status {
        None => Ok(None),
        Some(spec) => Ok(Some(launcher.run(spec).await?.succeeded())),
    }
}

pub async fn run(launcher: &Launcher, spec: &CommandSpec) -> Result<(), ServiceError> {
    launcher.run(spec).await?.or_failed()
}

/// The command that restarts, or else the two that stop and start.
pub async fn restart(launcher: &Launcher, commands: &Commands) -> Result<(), ServiceError> {
    if let Some(spec) = &commands.restart {
        return run(launcher, spec).await;
    }
    run(launcher, &commands.stop).await?;
    run(launcher, &commands.start).await
}
