//! `ostler logs`.

use std::time::Duration;

use clap_complete::ArgValueCompleter;

use super::{
    CliError, Global, Target, complete,
    output::{self, nobody_reads, print},
    service,
};
use crate::{host::LogPart, http::ItemList};

const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Show what a service of a host agent wrote
///
/// A service that the agent starts itself has a log there; one that systemd, brew or a container engine starts has it where these
/// keep it. What looks like a secret is masked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A service of a host agent; the agent may be left out where only one has it
    #[arg(value_name = "[AGENT/]SERVICE", add = ArgValueCompleter::new(complete::services))]
    service: String,
    /// Go on with what it writes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// The last so many lines
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    tail: usize,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { service, follow, tail } = args;
    let target = Target::of(global).await?;
    let list: ItemList = target.api.get(&["hostagents"], &target.namespace_query()).await?;
    let found = service::find(&service, &list.items)?;
    let path = ["services", &found.agent, &found.service, "log"];
    let query = [("namespace", found.namespace.clone())];
    let first: LogPart = target.api.get(&path, &query).await?;
    output::tell(&format!("{} on agent {}\n", first.file, found.agent));
    let lines: Vec<&str> = first.text.split_inclusive('\n').collect();
    print(&lines[lines.len().saturating_sub(tail)..].concat())?;
    if !follow {
        return Ok(());
    }
    tokio::select! {
        ended = following(&target, &path, &query, first.next) => ended,
        () = nobody_reads() => Ok(()),
    }
}

/// Through restarts of the server.
async fn following(target: &Target, path: &[&str], query: &[(&str, String)], mut after: u64) -> Result<(), CliError> {
    let mut failing = false;
    loop {
        let query: Vec<_> = query.iter().cloned().chain([("after", after.to_string())]).collect();
        match target.api.get::<LogPart>(path, &query).await {
            Ok(part) => {
                failing = false;
                print(&part.text)?;
                // There is more than one answer holds.
                if std::mem::replace(&mut after, part.next) != after && !part.text.is_empty() {
                    continue;
                }
            }
            Err(error) => {
                if !failing {
                    output::tell(&format!("ostler: {error}; still trying\n"));
                }
                failing = true;
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
