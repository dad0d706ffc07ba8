//! `ostler tasks results`.

use std::time::Duration;

use super::{
    wait::{Answer, told},
    which::{State, Which},
};
use crate::{
    cli::{
        CliError, Global, Target,
        output::{self, Format, nobody_reads, print, print_ready},
    },
    http::{FROM_NOW, ResultList},
};

const PAGE: i64 = 500;
/// The server answers within this, with or without something.
const WAIT_SECONDS: u64 = 20;
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Print what came of tasks, in the order in which they ended
///
/// With -o json one object a line. A result shows a second after its task ended, and once.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Go on with those that end from now on (and since --since or --after), until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only what ended after this cursor, which an earlier run printed with --cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    after: Option<String>,
    /// Print the cursor at the end, on standard error, for --after
    #[arg(long, conflicts_with = "follow")]
    cursor: bool,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    let Args { which, follow, after, cursor, output } = args;
    if let Some(State(live)) = which.state.iter().find(|s| !s.0.is_terminal()) {
        return Err(CliError::misused(format!(
            "--state {}: a result is completed, failed or cancelled",
            live.as_str()
        )));
    }
    let target = Target::of(global).await?;
    which.check_queue(&target).await?;
    let after = match (after, which.since.is_some()) {
        (None, false) if follow => Some(FROM_NOW.to_owned()),
        (after, _) => after,
    };
    if follow {
        return tokio::select! {
            ended = following(&target, &which, after, output) => ended,
            () = nobody_reads() => Ok(()),
        };
    }
    let after = until_now(&target, &which, after, output).await?;
    if cursor {
        output::tell(&format!("{after}\n"));
    }
    Ok(())
}

/// All that there is; returns the cursor behind it.
async fn until_now(
    target: &Target,
    which: &Which,
    mut after: Option<String>,
    output: Option<Format>,
) -> Result<String, CliError> {
    loop {
        let list = page(target, which, after.as_deref(), false).await?;
        show(&list, output)?;
        // A short page may be one of large tasks.
        if list.items.is_empty() {
            return Ok(list.next);
        }
        after = Some(list.next);
    }
}

/// Until Ctrl-C; also through restarts of the server.
async fn following(
    target: &Target,
    which: &Which,
    mut after: Option<String>,
    output: Option<Format>,
) -> Result<(), CliError> {
    let mut failing = false;
    loop {
        match page(target, which, after.as_deref(), true).await {
            Ok(list) => {
                failing = false;
                show(&list, output)?;
                after = Some(list.next);
            }
            Err(error) if after.is_some() => {
                if !failing {
                    output::tell(&format!("ostler: {error}; still trying\n"));
                }
                failing = true;
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn show(list: &ResultList, output: Option<Format>) -> Result<(), CliError> {
    for task in &list.items {
        match output {
            Some(format @ (Format::Json | Format::Yaml)) => print_ready(&Answer::of(task).written(format)?)?,
            _ => print(&format!("{}\n", told(task)))?,
        }
    }
    Ok(())
}

async fn page(target: &Target, which: &Which, after: Option<&str>, follow: bool) -> Result<ResultList, CliError> {
    let mut query = target.namespace_query();
    // What `--since` begins, the cursor goes on with: the time itself would move on.
    let which = if after.is_some() { Which { since: None, ..which.clone() } } else { which.clone() };
    query.extend(which.query()?);
    query.push(("limit", PAGE.to_string()));
    query.extend(after.map(|cursor| ("after", cursor.to_owned())));
    if follow {
        query.push(("wait", WAIT_SECONDS.to_string()));
    }
    target.api.get(&["tasks", "results"], &query).await
}
