//! `ostler status`.

use std::time::Duration;

use super::{
    CliError, Global, Target,
    output::{self, Format, Style, print},
};
use crate::http::Overview;

const REDRAW: Duration = Duration::from_secs(2);
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show everything on one screen, worst first
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Exit with 3 unless everything that is declared, and not suspended, is as declared
    #[arg(long, conflicts_with = "watch")]
    check: bool,
    /// Show it anew every 2 seconds, until Ctrl-C
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
        return watching(&target, output).await;
    }
    let overview = show(&target, output, "").await?;
    if check && !overview.healthy { Err(CliError::NotHealthy) } else { Ok(()) }
}

async fn show(target: &Target, format: Option<Format>, before: &str) -> Result<Overview, CliError> {
    let overview: Overview = target.api.get(&["status"], &target.namespace_query()).await?;
    if !output::print_value(format, &overview)? {
        print(&format!("{before}{}", output::screen(&overview, Style::of_stdout())))?;
    }
    Ok(overview)
}

/// A server that goes away for a while, for a restart say, is no reason to stop watching.
async fn watching(target: &Target, format: Option<Format>) -> Result<(), CliError> {
    let before = if Style::of_stdout().width.is_some() { CLEAR } else { "" };
    loop {
        if let Err(error) = show(target, format, before).await {
            print(&format!("{before}{error}\n"))?;
        }
        tokio::time::sleep(REDRAW).await;
    }
}
