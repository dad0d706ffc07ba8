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

use super::{CliError, Global, output::Format};
use crate::tasks::TaskId;

/// Give tasks in, see why they wait, read their answers, change them
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(add::Args),
    #[command(visible_alias = "ls")]
    List(list::Args),
    Show(show::Args),
    Explain(explain::Args),
    Results(results::Args),
    Assign(assign::Args),
    /// End tasks that wait, run or need a human; a running one is aborted
    Cancel(change::Args),
    /// Open ended tasks anew
    Retry(change::Args),
    /// Give tasks that need a human all their attempts again
    Resume(change::Args),
    /// Give tasks that wait, or need a human, to another expert
    Reassign(change::ReassignArgs),
    /// End tasks that need a human as failed
    Close(change::Args),
    /// Delete ended tasks, with their keys
    Purge(change::Args),
}

/// What `ostler get tasks` shows.
pub async fn list(output: Option<Format>, global: &Global) -> Result<(), CliError> {
    list::run(list::Args::plain(output), global).await
}

/// What `ostler get tasks ID` shows.
pub async fn show(id: TaskId, output: Option<Format>, global: &Global) -> Result<(), CliError> {
    show::run(show::Args { id, output }, global).await
}

pub async fn run(args: Args, global: &Global) -> Result<(), CliError> {
    use change::Verb::{Cancel, Close, Purge, Resume, Retry};
    match args.command {
        Command::Add(args) => add::run(args, global).await,
        Command::List(args) => list::run(args, global).await,
        Command::Show(args) => show::run(args, global).await,
        Command::Explain(args) => explain::run(args, global).await,
        Command::Results(args) => results::run(args, global).await,
        Command::Assign(args) => assign::run(args, global).await,
        Command::Cancel(args) => change::run(Cancel, args, global).await,
        Command::Retry(args) => change::run(Retry, args, global).await,
        Command::Resume(args) => change::run(Resume, args, global).await,
        Command::Reassign(args) => change::reassign(args, global).await,
        Command::Close(args) => change::run(Close, args, global).await,
        Command::Purge(args) => change::run(Purge, args, global).await,
    }
}
