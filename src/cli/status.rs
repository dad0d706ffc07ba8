//! `ostler status` and `version`.

use std::time::Duration;

use serde_json::Value;

use super::{
    CliError, Global, TargetSystem,
    output::{self, Format, Style, print, print_ready, until_unread},
};
use crate::http::Overview;

/// A server that was killed may serve again within a second: that it was away must be seen.
const REDRAW: Duration = Duration::from_millis(500);
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show the state of everything, worst first
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Exit with 3 unless every declared resource that is not suspended is Ready
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Refresh twice a second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// For programs
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: StatusArgs, global: &Global) -> Result<(), CliError> {
    let StatusArgs { check, watch, output } = args;
    let target = TargetSystem::of(global).await?;
    if watch {
        return until_unread(watching(&target, output)).await;
    }
    let overview = overview(&target).await?;
    match show(&overview, output, "") {
        // The exit code is an answer of its own.
        Ok(()) | Err(CliError::NobodyReads) => {}
        Err(error) => return Err(error),
    }
    if check && !overview.healthy { Err(CliError::NotHealthy) } else { Ok(()) }
}

async fn overview(target: &TargetSystem) -> Result<Overview, CliError> {
    target.api.get(&["status"], &target.namespace_query()).await
}

fn show(overview: &Overview, format: Option<Format>, before: &str) -> Result<(), CliError> {
    if output::print_value(format, overview)? {
        return Ok(());
    }
    print_ready(&format!("{before}{}", output::screen(overview, Style::of_stdout())))
}

/// A server that goes away for a while, for a restart say, is no reason to stop watching.
async fn watching(target: &TargetSystem, format: Option<Format>) -> Result<(), CliError> {
    let before = if Style::of_stdout().width.is_some() { CLEAR } else { "" };
    loop {
        match overview(target).await {
            Ok(overview) => show(&overview, format, before)?,
            Err(error) => {
                print_ready(before)?;
                print(&format!("{error}\n"))?;
            }
        }
        tokio::time::sleep(REDRAW).await;
    }
}

/// Show the version of this program and of the server
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// Only this program's version
    #[arg(long)]
    client: bool,
}

pub async fn version(args: VersionArgs, global: &Global) -> Result<(), CliError> {
    print(&format!("ostler {}\n", env!("CARGO_PKG_VERSION")))?;
    // Without a system there is none to ask; that is no failure of this command.
    let Some(target) = (if args.client { None } else { TargetSystem::of(global).await.ok() }) else { return Ok(()) };
    let description: Value = target.api.get(&["openapi.json"], &[]).await?;
    let version = description.pointer("/info/version").and_then(Value::as_str).unwrap_or("of an unknown release");
    print(&format!("server {version} · {}\n", target.place))
}
