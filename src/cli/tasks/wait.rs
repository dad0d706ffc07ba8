//! Waits for tasks and prints what came of them.

use std::{collections::HashMap, io::IsTerminal, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    api::number_of,
    base::age,
    cli::{
        CliError, TargetSystem,
        output::{self, Format, print, print_ready, until_unread},
    },
    http::TaskList,
    store::Inserted,
    tasks::{Task, TaskId, TaskState},
};

/// Ids that one request asks for.
const BATCH: usize = 500;
const FIRST_POLL: Duration = Duration::from_millis(100);
const SLOWEST_POLL: Duration = Duration::from_secs(1);
/// A server that is away for so long is not waited for.
const AWAY: Duration = Duration::from_secs(60);

/// What came of a task, for programs.
#[serde_with::skip_serializing_none]
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskAnswer<'a> {
    id: TaskId,
    queue: &'a str,
    key: Option<&'a str>,
    expert: Option<&'a str>,
    state: TaskState,
    result: Option<&'a Value>,
    reason: Option<&'a str>,
}

impl<'a> TaskAnswer<'a> {
    pub fn of(task: &'a Task) -> Self {
        Self {
            id: task.id,
            queue: &task.queue,
            key: task.key.as_deref(),
            expert: task.expert.as_deref(),
            state: task.state,
            result: task.result.as_ref(),
            reason: task.reason.as_deref(),
        }
    }

    /// One line of JSON, or one document of YAML.
    pub fn written(&self, format: Format) -> Result<String, CliError> {
        Ok(match format {
            Format::Yaml => format!("---\n{}", output::yaml(self)?),
            _ => output::json_line(self)?,
        })
    }
}

/// The answer as people read it.
pub fn text(result: &Value) -> String {
    match (result.get("text"), result.get("json")) {
        (Some(Value::String(text)), _) => text.trim_end().to_owned(),
        (_, Some(json)) => serde_json::to_string_pretty(json).unwrap_or_default(),
        _ => result.to_string(),
    }
}

/// An ended task, or one that needs a human, as people read it.
pub fn told(task: &Task) -> String {
    let name = match &task.key {
        Some(key) => format!("task {} ({key})", task.id),
        None => format!("task {}", task.id),
    };
    let why = task.reason.as_deref().unwrap_or("no reason is kept");
    match task.state {
        TaskState::Completed => {
            let by = task.expert.as_ref().map_or_else(String::new, |expert| format!(" by {expert}"));
            let answer = task.result.as_ref().map(text).unwrap_or_default();
            let gap = if answer.contains('\n') { "\n" } else { " " };
            format!("{name}{by}:{gap}{answer}")
        }
        TaskState::Failed => format!("{name} failed: {why}"),
        TaskState::Cancelled => format!("{name} was cancelled {why}"),
        TaskState::DeferredToHuman => {
            format!("{name} needs a human: {why} (`ostler tasks show {}`; then resume, reassign or close it)", task.id)
        }
        TaskState::Pending | TaskState::InProgress => format!("{name} is {}", task.state.as_str()),
    }
}

/// Waits until each has ended or needs a human, and prints the answers as they come. Unless all are completed it is a failure.
pub async fn answers(
    target: &TargetSystem,
    added: &[Inserted],
    timeout: Option<Duration>,
    format: Option<Format>,
) -> Result<(), CliError> {
    tokio::select! {
        ended = until_unread(waiting(target, added, timeout, format)) => ended,
        Ok(()) = tokio::signal::ctrl_c() => Err(CliError::Interrupted(interrupted(added))),
    }
}

/// What goes on without whoever waited, and how to look at it.
fn interrupted(added: &[Inserted]) -> String {
    match added {
        [one] => format!("task {} goes on: `ostler tasks show {}` shows it", one.id, one.id),
        _ => {
            "the tasks go on: `ostler tasks list` shows them, `ostler tasks results --since 1h --follow` their answers"
                .to_owned()
        }
    }
}

async fn waiting(
    target: &TargetSystem,
    added: &[Inserted],
    timeout: Option<Duration>,
    format: Option<Format>,
) -> Result<(), CliError> {
    let mut open: Vec<TaskId> = added.iter().map(|i| i.id).collect();
    open.sort_unstable();
    open.dedup();
    let total = open.len();
    let until = timeout.map(|t| Instant::now() + t);
    let progress = std::io::stderr().is_terminal();
    let began = Instant::now();
    let (mut ended, mut bad, mut pause) = (0, 0, FIRST_POLL);
    let mut reached = Instant::now();
    while !open.is_empty() {
        match done(target, &open).await {
            Ok(tasks) => {
                reached = Instant::now();
                if progress && !tasks.is_empty() {
                    output::progress("");
                }
                for task in &tasks {
                    bad += usize::from(task.state != TaskState::Completed);
                    show(task, total, format)?;
                }
                let these: HashMap<TaskId, ()> = tasks.iter().map(|t| (t.id, ())).collect();
                open.retain(|id| !these.contains_key(id));
                ended += these.len();
                pause = if these.is_empty() { (pause * 2).min(SLOWEST_POLL) } else { FIRST_POLL };
            }
            // A restart of the server ends no wait: the tasks are in its database.
            Err(error) if reached.elapsed() > AWAY => return Err(error),
            Err(_) => pause = SLOWEST_POLL,
        }
        if progress {
            output::progress(&format!("{ended} of {total} ended, {}", age(began.elapsed().as_secs().cast_signed())));
        }
        if open.is_empty() {
            break;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(CliError::failed(format!(
                "{} of {} not ended in time; they go on: `ostler tasks explain {}` says what one waits for",
                open.len(),
                if total == 1 { "1 task has".to_owned() } else { format!("{total} tasks have") },
                open[0]
            )));
        }
        tokio::time::sleep(pause).await;
    }
    if progress {
        output::progress("");
    }
    match bad {
        0 => Ok(()),
        _ => Err(CliError::failed(format!("{bad} of {} did not end as completed", number_of(total, "task")))),
    }
}

/// Those that nothing happens to any more by itself.
async fn done(target: &TargetSystem, open: &[TaskId]) -> Result<Vec<Task>, CliError> {
    let mut all = Vec::new();
    for ids in open.chunks(BATCH) {
        let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut query = target.namespace_query();
        query.push(("ids", ids));
        query.push(("state", "completed,failed,cancelled,deferred_to_human".to_owned()));
        query.push(("full", "true".to_owned()));
        query.push(("limit", BATCH.to_string()));
        let list: TaskList = target.api.get(&["tasks"], &query).await?;
        all.extend(list.items.into_iter().rev());
    }
    all.sort_by_key(|task: &Task| (task.state_since, task.id));
    Ok(all)
}

fn show(task: &Task, total: usize, format: Option<Format>) -> Result<(), CliError> {
    if let Some(format @ (Format::Json | Format::Yaml)) = format {
        return print_ready(&TaskAnswer::of(task).written(format)?);
    }
    match (&task.result, task.state) {
        // The answer and nothing else, so that it can be used.
        (Some(result), TaskState::Completed) if total == 1 => print(&format!("{}\n", text(result))),
        (_, TaskState::Completed) => print(&format!("{}\n", told(task))),
        _ => {
            output::tell(&format!("{}\n", told(task)));
            Ok(())
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    pub fn task(more: Value) -> Task {
        let mut whole = json!({
            "id": 17, "namespace": "default", "queue": "default", "domain": "backend", "role": "engineer", "payload": {"prompt": "p"},
            "priority": 0, "labels": {}, "state": "completed", "createdAt": "2026-03-01T11:58:00Z", "stateSince": "2026-03-01T11:59:00Z",
            "expert": "igor", "candidates": [], "attemptsUsed": 1, "freeRequeues": 0, "leasesLost": 0, "cycle": 1, "epoch": 2, "attempts": [],
            "result": {"text": "Hello.\n"},
        });
        for (name, value) in more.as_object().unwrap() {
            whole[name] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn an_answer_is_told_by_its_kind() {
        for (more, expected) in [
            (json!({}), "task 17 by igor: Hello."),
            (json!({"key": "k", "result": {"text": "a\nb"}}), "task 17 (k) by igor:\na\nb"),
            (json!({"result": {"json": 7}}), "task 17 by igor: 7"),
            (json!({"result": {"vectors": [[1]]}}), "task 17 by igor: {\"vectors\":[[1]]}"),
            (json!({"state": "failed", "reason": "no"}), "task 17 failed: no"),
            (json!({"state": "cancelled", "reason": "by ada"}), "task 17 was cancelled by ada"),
        ] {
            assert_eq!(told(&task(more)), expected);
        }
        let deferred = told(&task(json!({"state": "deferred_to_human", "reason": "3 of 3 failed"})));
        assert!(deferred.starts_with("task 17 needs a human: 3 of 3 failed (`ostler tasks show 17`"), "{deferred}");
    }

    #[test]
    fn for_programs_an_answer_is_one_line() {
        let task = task(json!({"key": "k"}));
        let line = TaskAnswer::of(&task).written(Format::Json).unwrap();
        assert_eq!(
            line,
            "{\"id\":17,\"queue\":\"default\",\"key\":\"k\",\"expert\":\"igor\",\"state\":\"completed\",\"result\":{\"text\":\"Hello.\\n\"}}\n"
        );
    }
}
