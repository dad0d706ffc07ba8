//! `ostler tasks explain`.

use jiff::Timestamp;

use crate::{
    base::age,
    cli::{
        CliError, Global, TargetSystem,
        output::{self, Format, print},
    },
    http::Explanation,
    tasks::TaskId,
};

/// Explain why a task waits, for what, and since when
#[derive(Debug, clap::Args)]
pub struct TasksExplainArgs {
    #[arg(required = true, value_name = "ID")]
    ids: Vec<TaskId>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(args: TasksExplainArgs, global: &Global) -> Result<(), CliError> {
    let target = TargetSystem::of(global).await?;
    let mut all: Vec<Explanation> = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        all.push(target.api.get(&["tasks", &id.to_string(), "explain"], &target.namespace_query()).await?);
    }
    match all.as_slice() {
        [one] if output::print_value(args.output, one)? => return Ok(()),
        [_] => {}
        _ if output::print_value(args.output, &all)? => return Ok(()),
        _ => {}
    }
    let now = target.api.now();
    print(&all.iter().map(|one| told(one, now)).collect::<String>())
}

fn told(one: &Explanation, now: Timestamp) -> String {
    let Explanation { id, state, why, since, expert, assignment_reason, candidates } = one;
    let how_long = age(now.duration_since(*since).as_secs());
    let mut text = match state {
        // That it lasts is no news.
        state if state.is_terminal() => {
            let why = why.strip_prefix("it failed: ").or(why.strip_prefix("it was cancelled: ")).unwrap_or(why);
            format!("task {id} {} {how_long} ago: {why}\n", state.as_str())
        }
        state => format!("task {id} is {} for {how_long}: {why}\n", state.as_str()),
    };
    if let (Some(expert), Some(reason)) = (expert, assignment_reason) {
        let others: Vec<&str> = candidates.iter().filter(|c| *c != expert).map(String::as_str).collect();
        let others = if others.is_empty() { String::new() } else { format!("; as good: {}", others.join(", ")) };
        text.push_str(&format!("  assigned to {expert}: {reason}{others}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::TaskState;

    #[test]
    fn it_is_told_why_since_when_and_whose_it_is() {
        let one = Explanation {
            id: 17,
            state: TaskState::Pending,
            why: "it waits for a slot of mlx (2 at once)".into(),
            since: "2026-03-01T11:58:00Z".parse().unwrap(),
            expert: Some("igor".into()),
            assignment_reason: Some("domain".into()),
            candidates: vec!["igor".into(), "olga".into()],
        };
        assert_eq!(
            told(&one, "2026-03-01T12:00:00Z".parse().unwrap()),
            "task 17 is pending for 2m: it waits for a slot of mlx (2 at once)\n  assigned to igor: domain; as good: olga\n"
        );
        let ended = |state, why: &str| {
            let one = Explanation { state, why: why.into(), assignment_reason: None, ..one.clone() };
            told(&one, "2026-03-01T12:00:00Z".parse().unwrap())
        };
        assert_eq!(
            ended(TaskState::Completed, "it was done by igor"),
            "task 17 completed 2m ago: it was done by igor\n"
        );
        assert_eq!(ended(TaskState::Failed, "it failed: no"), "task 17 failed 2m ago: no\n");
    }
}
