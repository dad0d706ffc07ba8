//! `ostler tasks show`.

use jiff::Timestamp;

use super::wait::text;
use crate::{
    api::number_of,
    base::{age, escape},
    cli::{
        CliError, Global, TargetSystem,
        output::{self, Format, Style, Table, print_ready},
    },
    tasks::{Task, TaskId},
};

/// Show a task with its attempts, payload and result
#[derive(Debug, clap::Args)]
pub struct TasksShowArgs {
    pub id: TaskId,
    #[arg(long, short, value_enum)]
    pub output: Option<Format>,
}

pub async fn run(args: TasksShowArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let task: Task = target.api.get(&["tasks", &args.id.to_string()], &target.namespace_query()).await?;
    if output::print_value(args.output, &task)? {
        return Ok(());
    }
    print_ready(&shown(&task, target.api.now(), Style::of_stdout()))
}

fn shown(task: &Task, now: Timestamp, style: Style) -> String {
    let ago = |at: Timestamp| age(now.duration_since(at).as_secs());
    let mut facts = Table::new(&["TASK", &task.id.to_string()]);
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            facts.push([name.to_owned(), value]);
        }
    };
    let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
    fact("state", format!("{} for {}", task.state.as_str(), ago(task.state_since)));
    fact("reason", or_empty(&task.reason));
    fact("queue", format!("{}/{}, priority {}", task.namespace, task.queue, task.priority));
    fact("domain", task.domain.clone());
    fact("role", task.role.clone());
    fact("expert", expert(task));
    fact("model", task.assigned_model.clone().or_else(|| task.model.clone()).unwrap_or_default());
    fact("key", or_empty(&task.key));
    fact("labels", task.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "));
    fact("given in", format!("{} ago", ago(task.created_at)));
    fact("not before", task.run_after.filter(|at| *at > now).map(|at| at.to_string()).unwrap_or_default());
    fact("deadline", task.deadline.map(|at| at.to_string()).unwrap_or_default());
    fact("attempts", counts(task));
    let mut parts = vec![facts.render(style)];
    if !task.attempts.is_empty() {
        parts.push(attempts(task, now).render(style));
    }
    parts.push(format!("ASKED\n{}\n", escape::for_terminal(&asked(task))));
    parts.extend(task.result.as_ref().map(|result| format!("ANSWER\n{}\n", escape::for_terminal(&text(result)))));
    parts.join("\n")
}

fn expert(task: &Task) -> String {
    let Some(expert) = &task.expert else { return "nobody yet".to_owned() };
    let others: Vec<&str> = task.candidates.iter().filter(|c| *c != expert).map(String::as_str).collect();
    let others = if others.is_empty() { String::new() } else { format!("; as good: {}", others.join(", ")) };
    match &task.assignment_reason {
        Some(reason) => format!("{expert} ({reason}{others})"),
        None => expert.clone(),
    }
}

fn counts(task: &Task) -> String {
    let mut text = format!("{} used", task.attempts_used);
    for (count, what) in
        [(task.free_requeues, "given back without using one"), (task.leases_lost, "lost with their worker")]
    {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if task.cycle > 1 {
        text.push_str(&format!(", reopened {}", number_of(task.cycle - 1, "time")));
    }
    text
}

fn attempts(task: &Task, now: Timestamp) -> Table {
    let mut table = Table::new(&["ATTEMPT", "AGO", "TOOK", "BACKEND", "TOKENS", "EXPERT", "ERROR"]);
    for attempt in &task.attempts {
        let took = attempt.ended_at.duration_since(attempt.started_at);
        let tokens = match (attempt.prompt_tokens, attempt.completion_tokens) {
            (None, None) => "-".to_owned(),
            (prompt, answer) => format!("{}+{}", prompt.unwrap_or(0), answer.unwrap_or(0)),
        };
        table.push([
            attempt.class.as_str().to_owned(),
            age(now.duration_since(attempt.ended_at).as_secs()),
            format!("{}.{}s", took.as_secs(), took.subsec_millis() / 100),
            attempt.backend.clone().unwrap_or_else(|| "-".to_owned()),
            tokens,
            attempt.expert.clone(),
            attempt.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn asked(task: &Task) -> String {
    let payload = &task.payload;
    if let Some(prompt) = &payload.prompt {
        return prompt.trim_end().to_owned();
    }
    if let Some(messages) = &payload.messages {
        let line = |m: &crate::tasks::Message| format!("{}: {}", m.role, m.content.trim_end());
        return messages.iter().map(line).collect::<Vec<_>>().join("\n");
    }
    if let Some(input) = &payload.input {
        return input.join("\n");
    }
    payload.data.as_ref().map(|data| serde_json::to_string_pretty(data).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tasks::wait::tests::task;
    use serde_json::json;

    #[test]
    fn a_task_is_shown_with_what_was_tried() {
        let task = task(json!({
            "assignmentReason": "domain and role", "candidates": ["igor", "olga"], "assignedModel": "small", "freeRequeues": 2,
            "attempts": [
                {"expert": "igor", "backend": "mlx", "holder": "w", "startedAt": "2026-03-01T11:58:00Z", "endedAt": "2026-03-01T11:58:02.5Z",
                 "class": "Retryable", "error": "reset"},
                {"expert": "igor", "backend": "ollama", "holder": "w", "startedAt": "2026-03-01T11:58:50Z", "endedAt": "2026-03-01T11:59:00Z",
                 "class": "Ok", "promptTokens": 20, "completionTokens": 7},
            ],
        }));
        assert_eq!(
            shown(&task, "2026-03-01T12:00:00Z".parse().unwrap(), Style::default()),
            "TASK       17\n\
             state      completed for 60s\n\
             queue      default/default, priority 0\n\
             domain     backend\n\
             role       engineer\n\
             expert     igor (domain and role; as good: olga)\n\
             model      small\n\
             given in   2m ago\n\
             attempts   1 used, 2 given back without using one\n\
             \n\
             ATTEMPT     AGO    TOOK    BACKEND   TOKENS   EXPERT   ERROR\n\
             Retryable   117s   2.5s    mlx       -        igor     reset\n\
             Ok          60s    10.0s   ollama    20+7     igor\n\
             \n\
             ASKED\np\n\
             \n\
             ANSWER\nHello.\n"
        );
    }
}
