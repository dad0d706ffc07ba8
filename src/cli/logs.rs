//! `ostler logs`.

use std::time::Duration;

use clap_complete::ArgValueCompleter;

use super::{
    CliError, Global, TargetSystem, complete,
    output::{self, Outage, print, until_unread},
    service,
};
use crate::host::LogPart;

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Show the log of a service of a host agent
///
/// A service that the agent starts itself has a log there; one that systemd, brew or a container engine starts has it where these
/// keep it. What looks like a secret is masked.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// A service of a host agent; AGENT is optional if the service name is unique
    #[arg(value_name = "[AGENT/]SERVICE", add = ArgValueCompleter::new(complete::services))]
    service: String,
    /// Follow the log, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Number of lines from the end
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    tail: usize,
}

pub async fn run(args: LogsArgs, global: &Global) -> Result<(), CliError> {
    let LogsArgs { service, follow, tail } = args;
    let target = TargetSystem::of(global).await?;
    let found = service::locate(&service, &target).await?;
    let path = ["services", &found.agent, &found.service, "log"];
    let query = [("namespace", found.namespace.clone())];
    let first: LogPart = target.api.get(&path, &query).await?;
    output::tell(&format!("{} on agent {}\n", first.file, found.agent));
    let lines: Vec<&str> = first.text.split_inclusive('\n').collect();
    print(&lines[lines.len().saturating_sub(tail)..].concat())?;
    if !follow {
        return Ok(());
    }
    until_unread(following(&target, &path, &query, first.next)).await
}

/// Through restarts of the server.
async fn following(
    target: &TargetSystem,
    path: &[&str],
    query: &[(&str, String)],
    mut after: u64,
) -> Result<(), CliError> {
    let mut outage = Outage::default();
    loop {
        let query: Vec<_> = query.iter().cloned().chain([("after", after.to_string())]).collect();
        match target.api.get::<LogPart>(path, &query).await {
            Ok(part) => {
                outage.is_over();
                print(&part.text)?;
                // There is more than one answer holds.
                if std::mem::replace(&mut after, part.next) != after && !part.text.is_empty() {
                    continue;
                }
            }
            Err(error) => outage.report(&error),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
