//! `ostler pause` and `unpause`.

use std::time::Duration;

use super::{CliError, Global, Target, names, output::print};
use crate::http::{Changed, PauseRequest};

/// Let nothing act, everywhere, until `unpause`: probing and tasks go on, nothing is restarted, unloaded or pulled
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End it by itself after 30m, 2h, 1d, ...
    #[arg(long = "for", value_name = "DURATION", value_parser = names::duration)]
    for_: Option<Duration>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let target = Target::of(global).await?;
    let for_seconds = args.for_.map(|d| i64::try_from(d.as_secs())).transpose().map_err(CliError::misused)?;
    let changed: Changed = target.api.post(&["pause"], &[], Some(&PauseRequest { for_seconds })).await?;
    print(&format!("{} · {}\n", changed.message, target.place))
}

pub async fn unpause(global: &Global) -> Result<(), CliError> {
    let target = Target::of(global).await?;
    let changed: Changed = target.api.delete(&["pause"]).await?;
    print(&format!("{} · {}\n", changed.message, target.place))
}
