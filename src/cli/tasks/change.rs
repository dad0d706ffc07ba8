//! `ostler tasks cancel`, `retry`, `resume`, `reassign`, `close` and `purge`: by number, or all that match.

use std::{
    io::{BufRead, IsTerminal},
    time::Duration,
};

use clap_complete::ArgValueCompleter;

use super::which::TaskFilterArgs;
use crate::{
    cli::{
        CliError, Global, TargetSystem, complete,
        output::{self, Format, print},
    },
    http::{CommandReply, CommandRequest, TaskList, TaskVerb},
    tasks::{Task, TaskId},
};

const WITHIN: Duration = Duration::from_secs(600);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeVerb {
    Command(TaskVerb),
    Purge,
}

impl ChangeVerb {
    /// `3 tasks cancelled`, and what that is for.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Command(TaskVerb::Cancel) => ("cancelled", "those that wait, run or need a human are cancelled"),
            Self::Command(TaskVerb::Retry) => ("reopened", "ended ones are reopened"),
            Self::Command(TaskVerb::Resume) => ("resumed", "those that need a human are resumed"),
            Self::Command(TaskVerb::Reassign) => ("reassigned", "those that wait or need a human are reassigned"),
            Self::Command(TaskVerb::Close) => ("closed", "those that need a human are closed"),
            Self::Purge => ("deleted", "ended ones are deleted"),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct TasksChangeArgs {
    /// Task IDs; without them, tasks are selected by filters
    #[arg(value_name = "ID")]
    ids: Vec<TaskId>,
    #[command(flatten)]
    which: TaskFilterArgs,
    /// All tasks of the namespace (without -n: of all namespaces) to which the command applies
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Only print how many
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Reason, stored with the tasks
    #[arg(long, default_value = "")]
    reason: String,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

#[derive(Debug, clap::Args)]
pub struct ReassignArgs {
    /// The new expert
    #[arg(long, value_name = "EXPERT", add = ArgValueCompleter::new(complete::experts))]
    to: String,
    #[command(flatten)]
    args: TasksChangeArgs,
}

pub async fn run(verb: ChangeVerb, args: TasksChangeArgs, global: &Global) -> Result<(), CliError> {
    carry_out(verb, args, None, global).await
}

pub async fn reassign(ReassignArgs { to, args }: ReassignArgs, global: &Global) -> Result<(), CliError> {
    carry_out(ChangeVerb::Command(TaskVerb::Reassign), args, Some(to), global).await
}

async fn carry_out(
    verb: ChangeVerb,
    mut args: TasksChangeArgs,
    to: Option<String>,
    global: &Global,
) -> Result<(), CliError> {
    check(verb, &args)?;
    args.ids.sort_unstable();
    args.ids.dedup();
    let target = TargetSystem::of(global).await?;
    let by_id = !args.ids.is_empty();
    if args.dry_run || !(by_id || args.yes) {
        let count = send(&target, verb, &args, to.as_deref(), true).await?.count;
        if args.dry_run {
            let reply = CommandReply { count, ids: Vec::new() };
            return if output::print_value(args.output, &reply)? {
                Ok(())
            } else {
                print(&format!("{count} {} would be {}\n", tasks(count), verb.words().0))
            };
        }
        if count == 0 {
            return Err(CliError::failed(format!("no task that matches is one for it: {}", verb.words().1)));
        }
        confirm(verb, count)?;
    }
    let reply = send(&target, verb, &args, to.as_deref(), false).await?;
    if !output::print_value(args.output, &reply)? {
        print(&format!("{} {} {} · {}\n", reply.count, tasks(reply.count), verb.words().0, target.place))?;
    }
    if by_id { unchanged(&target, verb, &args.ids, &reply.ids).await } else { Ok(()) }
}

fn tasks(count: i64) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

fn check(verb: ChangeVerb, args: &TasksChangeArgs) -> Result<(), CliError> {
    if verb == ChangeVerb::Purge && args.which.since.is_some() {
        return Err(CliError::misused(
            "--since names the newest, which would be deleted: write --older-than 24h to keep those of the last day",
        ));
    }
    let open = args.which.is_open();
    match (args.ids.is_empty(), open, args.all) {
        (true, true, false) => {
            Err(CliError::misused("no task is selected: write task IDs, filters (see --help), or --all"))
        }
        (false, false, _) => Err(CliError::misused("task IDs cannot be combined with filters: remove one of them")),
        (_, false, true) => Err(CliError::misused("--all cannot be combined with filters: remove one of them")),
        _ => Ok(()),
    }
}

/// Asks on a terminal; elsewhere `--yes` is needed.
fn confirm(verb: ChangeVerb, count: i64) -> Result<(), CliError> {
    let what = format!("{count} {} will be {}", tasks(count), verb.words().0);
    let no = || CliError::misused(format!("{what}: nothing was changed; add --yes to do it"));
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(no());
    }
    output::tell(&format!("{what}. Go on? [y/N] "));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| CliError::failed(format!("can't read the answer: {e}")))?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(no()) }
}

async fn send(
    target: &TargetSystem,
    verb: ChangeVerb,
    args: &TasksChangeArgs,
    to: Option<&str>,
    dry_run: bool,
) -> Result<CommandReply, CliError> {
    let TasksChangeArgs { ids, which, all, reason, .. } = args;
    let mut query = target.namespace_query();
    let ChangeVerb::Command(command) = verb else {
        query.extend(which.query());
        if !ids.is_empty() {
            query.push(("ids", ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
        }
        query.push(("all", all.to_string()));
        query.push(("dryRun", dry_run.to_string()));
        return target.api.delete_within(&["tasks"], &query, WITHIN).await;
    };
    let request = CommandRequest {
        command,
        ids: ids.clone(),
        queue: which.queue.clone(),
        states: which.state.iter().map(|s| s.0).collect(),
        domain: which.domain.clone(),
        role: which.role.clone(),
        expert: which.expert.clone(),
        unassigned: which.unassigned.then_some(true),
        key: which.key.clone(),
        labels: which.label_map(),
        since: which.from(),
        until: which.until(),
        all: *all,
        to: to.map(str::to_owned),
        reason: reason.clone(),
        dry_run,
    };
    target.api.post_within(&["tasks", "commands"], &query, Some(&request), WITHIN).await
}

/// Says why those that were named were left as they are.
async fn unchanged(
    target: &TargetSystem,
    verb: ChangeVerb,
    asked: &[TaskId],
    changed: &[TaskId],
) -> Result<(), CliError> {
    let left: Vec<TaskId> = asked.iter().copied().filter(|id| !changed.contains(id)).take(1_000).collect();
    if left.is_empty() {
        return Ok(());
    }
    let mut query = target.namespace_query();
    query.push(("ids", left.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")));
    query.push(("limit", "1000".to_owned()));
    let list: TaskList = target.api.get(&["tasks"], &query).await?;
    let lines = left.iter().map(|id| left_as_it_is(*id, list.items.iter().find(|t| t.id == *id))).collect::<Vec<_>>();
    Err(CliError::failed(format!("{}\n{}", lines.join("\n"), verb.words().1)))
}

fn left_as_it_is(id: TaskId, task: Option<&Task>) -> String {
    match task {
        Some(task) => format!("task {id} is {}: not changed", task.state.as_str()),
        None => format!("task {id} does not exist"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TasksChangeArgs,
    }

    #[test]
    fn it_must_be_said_which_tasks_in_one_way() {
        for (args, good) in [
            (&["7", "8"] as &[&str], true),
            (&["-s", "failed"], true),
            (&["--all"], true),
            (&[], false),
            (&["7", "-s", "failed"], false),
            (&["--all", "-q", "default"], false),
        ] {
            let line = Line::try_parse_from([&["x"], args].concat()).unwrap();
            assert_eq!(check(ChangeVerb::Command(TaskVerb::Cancel), &line.args).is_ok(), good, "{args:?}");
        }
        let purge =
            |args: &[&str]| check(ChangeVerb::Purge, &Line::try_parse_from([&["x"], args].concat()).unwrap().args);
        assert!(purge(&["--older-than", "24h"]).is_ok());
        assert!(
            purge(&["--since", "24h"]).unwrap_err().to_string().contains("--older-than"),
            "it would delete the newest"
        );
        assert!(Line::try_parse_from(["x", "7", "--all"]).is_err());
    }
}
