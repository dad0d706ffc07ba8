//! `ostler tasks results`.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    wait::{Answer, told},
    which::{State, Which},
};
use crate::{
    cli::{
        CliError, Global, Target,
        output::{Format, print},
    },
    http::ResultList,
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
    let mut after = match (after, which.since.is_some()) {
        (None, false) if follow => Some(from_now()),
        (after, _) => after,
    };
    let mut failing = false;
    loop {
        let page = page(&target, &which, after.as_deref(), follow).await;
        match page {
            Ok(list) => {
                failing = false;
                for task in &list.items {
                    print(&match output {
                        Some(format @ (Format::Json | Format::Yaml)) => Answer::of(task).written(format)?,
                        _ => format!("{}\n", told(task)),
                    })?;
                }
                let last = i64::try_from(list.items.len()).unwrap_or(0) < PAGE;
                after = Some(list.next);
                if last && !follow {
                    break;
                }
            }
            // Whoever follows does so through restarts of the server.
            Err(error) if follow && after.is_some() => {
                if !failing {
                    eprintln!("ostler: {error}; still trying");
                }
                failing = true;
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            Err(error) => return Err(error),
        }
    }
    if cursor && let Some(after) = after {
        eprintln!("{after}");
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

fn from_now() -> String {
    crate::store::TaskCursor { at: Timestamp::now(), id: 0 }.to_string()
}
