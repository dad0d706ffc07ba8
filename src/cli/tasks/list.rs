//! `ostler tasks list`.

use jiff::Timestamp;

use super::which::TaskFilterArgs;
use crate::{
    base::age,
    cli::{
        CliError, Global, TargetSystem,
        output::{self, Format, Style, Table, print, print_ready},
    },
    http::TaskList,
    tasks::{Task, TaskId, TaskState},
};

/// Tasks of one request.
const PAGE: i64 = 1_000;

/// List tasks, newest first
#[derive(Debug, Default, clap::Args)]
pub struct TasksListArgs {
    #[command(flatten)]
    which: TaskFilterArgs,
    /// Number of tasks
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// Only tasks with an ID below this one
    #[arg(long, value_name = "ID")]
    before: Option<TaskId>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

impl TasksListArgs {
    /// What `ostler get tasks` lists.
    pub fn plain(output: Option<Format>) -> Self {
        Self { limit: 100, output, ..Self::default() }
    }
}

pub async fn run(args: TasksListArgs, global: &Global) -> Result<(), CliError> {
    let TasksListArgs { which, limit, before, output } = args;
    let target = TargetSystem::of(global).await?;
    let full = matches!(output, Some(Format::Json | Format::Yaml));
    let (tasks, now, more) = read(&target, &which, before, limit, full).await?;
    if output::print_value(output, &tasks)? {
        return Ok(());
    }
    if tasks.is_empty() {
        which.check_queue(&target).await?;
        return print(if which.is_open() { "no tasks\n" } else { "no task matches\n" });
    }
    print_ready(&table(&tasks, now, output == Some(Format::Wide)).render(Style::of_stdout()))?;
    match more {
        Some(before) => print(&format!("more: --before {before}, or --limit\n")),
        None => Ok(()),
    }
}

/// As many as asked for, page by page.
async fn read(
    target: &TargetSystem,
    which: &TaskFilterArgs,
    mut before: Option<TaskId>,
    limit: i64,
    full: bool,
) -> Result<(Vec<Task>, Timestamp, Option<TaskId>), CliError> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        let left = limit - i64::try_from(tasks.len()).unwrap_or(limit);
        let mut query = target.namespace_query();
        query.extend(which.query());
        query.push(("limit", left.min(PAGE).to_string()));
        query.extend(before.map(|id| ("before", id.to_string())));
        if full {
            query.push(("full", "true".to_owned()));
        }
        let list: TaskList = target.api.get(&["tasks"], &query).await?;
        let now = list.now;
        tasks.extend(list.items);
        before = list.next;
        if before.is_none() || i64::try_from(tasks.len()).is_ok_and(|count| count >= limit) {
            return Ok((tasks, now, before));
        }
    }
}

/// One line for each task.
pub fn table(tasks: &[Task], now: Timestamp, wide: bool) -> Table {
    let namespaces = tasks.windows(2).any(|pair| pair[0].namespace != pair[1].namespace);
    let mut heading = vec!["ID"];
    if namespaces {
        heading.push("NAMESPACE");
    }
    heading.extend(["STATE", "QUEUE", "DOMAIN/ROLE", "EXPERT", "TRIES", "SINCE"]);
    if wide {
        heading.extend(["MODEL", "PRIORITY", "KEY", "LABELS"]);
    }
    heading.push("DETAIL");
    let mut table = Table::new(&heading);
    for task in tasks {
        let or = |text: Option<&String>| text.filter(|t| !t.is_empty()).map_or_else(|| "-".to_owned(), Clone::clone);
        let mut cells = vec![task.id.to_string()];
        if namespaces {
            cells.push(task.namespace.clone());
        }
        cells.extend([
            task.state.as_str().to_owned(),
            task.queue.clone(),
            kind(task),
            or(task.expert.as_ref()),
            task.attempts_used.to_string(),
            age(now.duration_since(task.state_since).as_secs()),
        ]);
        if wide {
            let labels: Vec<String> = task.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            cells.extend([
                or(task.assigned_model.as_ref().or(task.model.as_ref())),
                task.priority.to_string(),
                or(task.key.as_ref()),
                or(Some(&labels.join(","))),
            ]);
        }
        cells.push(detail(task, now));
        table.push(cells);
        table.color_last(color(task.state));
    }
    table
}

fn kind(task: &Task) -> String {
    match (task.domain.as_str(), task.role.as_str()) {
        ("", "") => "-".to_owned(),
        (domain, "") => domain.to_owned(),
        (domain, role) => format!("{domain}/{role}"),
    }
}

fn detail(task: &Task, now: Timestamp) -> String {
    let later = task.run_after.filter(|at| task.state == TaskState::Pending && *at > now);
    let later = later.map(|at| format!("not before {}", at.strftime("%Y-%m-%dT%H:%M:%SZ")));
    let reason = task.reason.clone().filter(|reason| !reason.is_empty());
    [later, reason].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

pub fn color(state: TaskState) -> &'static str {
    match state {
        TaskState::Completed => "32",
        TaskState::Pending | TaskState::InProgress | TaskState::Cancelled => "0",
        TaskState::DeferredToHuman => "33",
        TaskState::Failed => "31",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tasks::wait::tests::task;
    use serde_json::json;

    fn render(tasks: &[Task], wide: bool) -> String {
        table(tasks, "2026-03-01T12:00:00Z".parse().unwrap(), wide).render(Style::default())
    }

    #[test]
    fn a_task_is_told_on_one_line() {
        let waits =
            task(json!({"id": 18, "state": "pending", "expert": null, "domain": "", "role": "", "attemptsUsed": 0,
            "runAfter": "2026-03-01T13:00:00Z", "reason": "connection refused", "result": null}));
        assert_eq!(
            render(&[waits, task(json!({}))], false),
            "ID   STATE       QUEUE     DOMAIN/ROLE        EXPERT   TRIES   SINCE   DETAIL\n\
             18   pending     default   -                  -        0       60s     not before 2026-03-01T13:00:00Z; connection refused\n\
             17   completed   default   backend/engineer   igor     1       60s\n"
        );
    }

    #[test]
    fn wide_tells_more_and_several_namespaces_are_named() {
        let other = task(json!({"namespace": "team", "key": "k", "labels": {"a": "b"}, "assignedModel": "small"}));
        let wide = render(&[task(json!({})), other], true);
        assert!(wide.starts_with("ID   NAMESPACE"), "{wide}");
        assert!(wide.contains("small   0          k     a=b"), "{wide}");
    }
}
