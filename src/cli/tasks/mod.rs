//! `ostler tasks`: given in, seen, followed and changed.

mod add;
mod assign;
mod change;
mod explain;
mod input;
mod list;
mod results;
mod show;
mod wait;
mod which;

use clap::Subcommand;

use self::change::ChangeVerb;
use super::{CliError, Global, output::Format};
use crate::{http::TaskVerb, tasks::TaskId};

/// Submit tasks, see why they wait, read their answers, change them
#[derive(Debug, clap::Args)]
pub struct TasksArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(add::TasksAddArgs),
    #[command(visible_alias = "ls")]
    List(list::TasksListArgs),
    Show(show::TasksShowArgs),
    Explain(explain::TasksExplainArgs),
    Results(results::TasksResultsArgs),
    Assign(assign::TasksAssignArgs),
    /// Cancel tasks that are pending, running or deferred to a human; a running one is aborted
    Cancel(change::TasksChangeArgs),
    /// Make ended tasks pending again
    Retry(change::TasksChangeArgs),
    /// Make tasks that need a human pending again, with all their attempts
    Resume(change::TasksChangeArgs),
    /// Assign tasks that wait or need a human to another expert
    Reassign(change::ReassignArgs),
    /// Fail tasks that need a human
    Close(change::TasksChangeArgs),
    /// Delete ended tasks, with their keys
    Purge(change::TasksChangeArgs),
}

/// What `ostler get tasks` shows.
pub async fn list(output: Option<Format>, global: &Global) -> Result<(), CliError> {
    list::run(list::TasksListArgs::plain(output), global).await
}

/// What `ostler get tasks ID` shows.
pub async fn show(id: TaskId, output: Option<Format>, global: &Global) -> Result<(), CliError> {
    show::run(show::TasksShowArgs { id, output }, global).await
}

pub async fn run(args: TasksArgs, global: &Global) -> Result<(), CliError> {
    match args.command {
        Command::Add(args) => add::run(args, global).await,
        Command::List(args) => list::run(args, global).await,
        Command::Show(args) => show::run(args, global).await,
        Command::Explain(args) => explain::run(args, global).await,
        Command::Results(args) => results::run(args, global).await,
        Command::Assign(args) => assign::run(args, global).await,
        Command::Cancel(args) => change::run(ChangeVerb::Command(TaskVerb::Cancel), args, global).await,
        Command::Retry(args) => change::run(ChangeVerb::Command(TaskVerb::Retry), args, global).await,
        Command::Resume(args) => change::run(ChangeVerb::Command(TaskVerb::Resume), args, global).await,
        Command::Reassign(args) => change::reassign(args, global).await,
        Command::Close(args) => change::run(ChangeVerb::Command(TaskVerb::Close), args, global).await,
        Command::Purge(args) => change::run(ChangeVerb::Purge, args, global).await,
    }
}
