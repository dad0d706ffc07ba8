//! `ostler status`.

use std::time::Duration;

use super::{
    CliError, Global, Target,
    output::{self, Format, Style, nobody_reads, print, print_ready},
};
use crate::http::Overview;

/// A server that was killed may serve again within a second: that it was away must be seen.
const REDRAW: Duration = Duration::from_millis(500);
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show everything on one screen, worst first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Exit with 3 unless everything that is declared, and not suspended, is as declared
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Show it anew twice a second, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
    /// For programs
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { check, watch, output } = args;
    let target = Target::of(global).await?;
    if watch {
        return tokio::select! {
            ended = watching(&target, output) => ended,
            () = nobody_reads() => Ok(()),
        };
    }
    let overview = overview(&target).await?;
    match show(&overview, output, "") {
        // The exit code is an answer of its own.
        Ok(()) | Err(CliError::NobodyReads) => {}
        Err(error) => return Err(error),
    }
    if check && !overview.healthy { Err(CliError::NotHealthy) } else { Ok(()) }
}

async fn overview(target: &Target) -> Result<Overview, CliError> {
    target.api.get(&["status"], &target.namespace_query()).await
}

fn show(overview: &Overview, format: Option<Format>, before: &str) -> Result<(), CliError> {
    if output::print_value(format, overview)? {
        return Ok(());
    }
    print_ready(&format!("{before}{}", output::screen(overview, Style::of_stdout())))
}

/// A server that goes away for a while, for a restart say, is no reason to stop watching.
async fn watching(target: &Target, format: Option<Format>) -> Result<(), CliError> {
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
