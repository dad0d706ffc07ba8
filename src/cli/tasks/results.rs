//! `ostler tasks results`.

use std::time::Duration;

use super::{
    wait::{TaskAnswer, told},
    which::{StateArg, TaskFilterArgs},
};
use crate::{
    cli::{
        CliError, Global, TargetSystem,
        output::{self, Format, Outage, print, print_ready, until_unread},
    },
    http::{FROM_NOW, ResultList},
};

const PAGE: i64 = 500;
/// The server answers within this, with or without something.
const WAIT_SECONDS: u64 = 20;
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Print results of tasks in the order in which they ended
///
/// With -o json one object per line. A result appears once, one second after its task has ended.
#[derive(Debug, clap::Args)]
pub struct TasksResultsArgs {
    #[command(flatten)]
    which: TaskFilterArgs,
    /// Follow tasks that end from now on (or since --since or --after), until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Only results after this cursor, as printed by --cursor
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    after: Option<String>,
    /// Print the cursor at the end, on standard error, for --after
    #[arg(long, conflicts_with = "follow")]
    cursor: bool,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: TasksResultsArgs, global: &Global) -> Result<(), CliError> {
    let TasksResultsArgs { which, follow, after, cursor, output } = args;
    if let Some(StateArg(live)) = which.state.iter().find(|s| !s.0.is_terminal()) {
        return Err(CliError::misused(format!(
            "--state {}: a result is completed, failed or cancelled",
            live.as_str()
        )));
    }
    let target = TargetSystem::of(global).await?;
    which.check_queue(&target).await?;
    let after = match (after, which.since.is_some()) {
        (None, false) if follow => Some(FROM_NOW.to_owned()),
        (after, _) => after,
    };
    if follow {
        return until_unread(following(&target, &which, after, output)).await;
    }
    let after = until_now(&target, &which, after, output).await?;
    if cursor {
        output::tell(&format!("{after}\n"));
    }
    Ok(())
}

/// All that there is; returns the cursor behind it.
async fn until_now(
    target: &TargetSystem,
    which: &TaskFilterArgs,
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
    target: &TargetSystem,
    which: &TaskFilterArgs,
    mut after: Option<String>,
    output: Option<Format>,
) -> Result<(), CliError> {
    let mut outage = Outage::default();
    loop {
        match page(target, which, after.as_deref(), true).await {
            Ok(list) => {
                outage.is_over();
                show(&list, output)?;
                after = Some(list.next);
            }
            Err(error) if after.is_some() => {
                outage.report(&error);
                tokio::time::sleep(AFTER_FAILURE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn show(list: &ResultList, output: Option<Format>) -> Result<(), CliError> {
    for task in &list.items {
        match output {
            Some(format @ (Format::Json | Format::Yaml)) => print_ready(&TaskAnswer::of(task).written(format)?)?,
            _ => print(&format!("{}\n", told(task)))?,
        }
    }
    Ok(())
}

async fn page(
    target: &TargetSystem,
    which: &TaskFilterArgs,
    after: Option<&str>,
    follow: bool,
) -> Result<ResultList, CliError> {
    let mut query = target.namespace_query();
    // What `--since` begins, the cursor goes on with: the time itself would move on.
    let which = if after.is_some() { TaskFilterArgs { since: None, ..which.clone() } } else { which.clone() };
    query.extend(which.query());
    query.push(("limit", PAGE.to_string()));
    query.extend(after.map(|cursor| ("after", cursor.to_owned())));
    if follow {
        query.push(("wait", WAIT_SECONDS.to_string()));
    }
    target.api.get(&["tasks", "results"], &query).await
}
