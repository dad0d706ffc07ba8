//! `ostler tasks add`.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap_complete::ArgValueCompleter;
use serde_json::{Map, Value, json};

use super::{
    input::{InputTask, body, chunks, entries, located},
    wait,
    which::label,
};
use crate::{
    base::duration,
    cli::{
        CliError, Global, TargetSystem, complete,
        output::{self, Format, print},
    },
    http::{InsertReply, TimeOrDuration},
    json,
    store::Inserted,
};

const SEND_WITHIN: Duration = Duration::from_secs(120);

/// Submit tasks: a prompt, or JSON lines of a file or of standard input
///
/// With -f the other options are defaults for each line. A line is an object: {"prompt": "…", "queue": "default", "domain": "…",
/// "role": "…", "priority": 0, "key": "…"}; messages, input or data may stand for prompt. All of a file are taken, or none.
#[derive(Debug, clap::Args)]
pub struct TasksAddArgs {
    /// The prompt
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    prompt: Option<String>,
    /// JSON lines, a JSON array or one object; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Queue [default: default]
    #[arg(long, short, add = ArgValueCompleter::new(complete::queues))]
    queue: Option<String>,
    #[arg(long)]
    domain: Option<String>,
    #[arg(long)]
    role: Option<String>,
    /// Assign it to this expert, instead of by domain and role
    #[arg(long, add = ArgValueCompleter::new(complete::experts))]
    expert: Option<String>,
    /// Alias of the model, instead of the expert's
    #[arg(long)]
    model: Option<String>,
    /// -100 to 100; higher goes first
    #[arg(long, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: Option<i32>,
    /// Unique in its queue: a task with the same key is not added again
    #[arg(long, conflicts_with = "file")]
    key: Option<String>,
    #[arg(long = "label", short = 'l', value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Start it not before then: a time (2026-03-01T12:00:00Z), or 2h from now by the server's clock
    #[arg(long, value_name = "TIME")]
    run_after: Option<TimeOrDuration>,
    /// Fail it if it is not done by then: a time, or 2h from now by the server's clock
    #[arg(long, value_name = "TIME")]
    deadline: Option<TimeOrDuration>,
    /// File with the JSON Schema that the answer must match
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Most tokens of the answer
    #[arg(long)]
    max_tokens: Option<i32>,
    /// Wait for the answers and print them; exits with 1 unless all are completed
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after 90s, 10m, ...
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "wait")]
    timeout: Option<Duration>,
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub async fn run(mut args: TasksAddArgs, global: &Global) -> Result<(), CliError> {
    let (wait, timeout, output) = (args.wait, args.timeout, args.output);
    let (file, prompt) = (args.file.take(), args.prompt.take());
    let mut fields = fields(args)?;
    let (name, entries) = match file {
        Some(file) => {
            let (name, text) = read(&file)?;
            let entries = entries(&text, &fields);
            if entries.is_empty() {
                return Err(CliError::failed(format!("{name}: is empty: write one JSON object a line")));
            }
            (name, entries)
        }
        None => {
            fields.insert("prompt".to_owned(), prompt.into());
            (String::new(), vec![InputTask { place: String::new(), json: Value::Object(fields).to_string() }])
        }
    };
    let target = TargetSystem::of(global).await?;
    let added = send(&target, &entries, &name).await?;
    let existed = added.iter().filter(|i| i.existed).count();
    let reply = InsertReply { inserted: added.len() - existed, existed, items: added };
    if wait {
        // Standard output is for the answers alone.
        output::tell(&format!("{} · {}\n", told(&reply), target.place));
        return wait::answers(&target, &reply.items, timeout, output).await;
    }
    if output::print_value(output, &reply)? {
        Ok(())
    } else {
        print(&format!("{} · {}\n", told(&reply), target.place))
    }
}

/// What the options say, as a line would.
fn fields(args: TasksAddArgs) -> Result<Map<String, Value>, CliError> {
    let TasksAddArgs {
        queue,
        domain,
        role,
        expert,
        model,
        priority,
        key,
        labels,
        run_after,
        deadline,
        schema,
        max_tokens,
        ..
    } = args;
    let schema = schema.map(|file| -> Result<Value, CliError> {
        let text = std::fs::read_to_string(&file).map_err(|e| CliError::failed(format!("{}: {e}", file.display())))?;
        json::read(text.as_bytes()).map_err(|flaw| CliError::failed(format!("{}: {flaw}", file.display())))
    });
    let labels: Map<String, Value> = labels.into_iter().map(|(name, value)| (name, value.into())).collect();
    let all = json!({
        "queue": queue, "domain": domain, "role": role, "expert": expert, "model": model, "priority": priority, "key": key,
        "runAfter": run_after, "deadline": deadline, "schema": schema.transpose()?, "maxTokens": max_tokens,
        "labels": (!labels.is_empty()).then_some(labels),
    });
    let given = all.as_object().cloned().unwrap_or_default();
    Ok(given.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

fn read(file: &Path) -> Result<(String, String), CliError> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let mut bytes = Vec::new();
    let got = if stdin {
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(file).map(|all| bytes = all)
    };
    got.map_err(|e| CliError::failed(format!("{name}: can't be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|e| CliError::failed(format!("{name}: is not UTF-8: {e}")))?;
    Ok((name, text))
}

/// All of them; what needs several requests is checked as a whole first, so that no bad line leaves the rest half in.
async fn send(target: &TargetSystem, entries: &[InputTask], file: &str) -> Result<Vec<Inserted>, CliError> {
    let chunks = chunks(entries);
    if chunks.len() > 1 {
        for chunk in &chunks {
            request(target, chunk, file, true).await?;
        }
    }
    let mut added: Vec<Inserted> = Vec::with_capacity(entries.len());
    for chunk in chunks {
        match request(target, chunk, file, false).await {
            Ok(reply) => added.extend(reply.items),
            Err(error) if added.is_empty() => return Err(error),
            Err(error) => {
                return Err(CliError::failed(format!(
                    "{error}\nthe first {} tasks are in already: give in the rest, from {} on (or all again, if they have keys)",
                    added.len(),
                    chunk.first().map_or("the end", |e| e.place.as_str())
                )));
            }
        }
    }
    Ok(added)
}

async fn request(
    target: &TargetSystem,
    chunk: &[InputTask],
    file: &str,
    dry_run: bool,
) -> Result<InsertReply, CliError> {
    let mut query: Vec<(&str, String)> = vec![("namespace", target.namespace_of_one().to_owned())];
    if dry_run {
        query.push(("dryRun", "true".to_owned()));
    }
    let answer = target.api.post_lines(&["tasks"], &query, body(chunk), SEND_WITHIN).await?;
    answer.map_err(|refused| {
        if refused.problems.is_empty() {
            return CliError::failed(format!("{}; {}", refused.error, refused.hint));
        }
        let count = refused.problems.len();
        let lines: Vec<String> = refused.problems.iter().map(|problem| located(problem, chunk, file)).collect();
        let end = if count == 1 && file.is_empty() { String::new() } else { "\nnothing was added".to_owned() };
        CliError::failed(format!("{}{end}", lines.join("\n")))
    })
}

fn told(reply: &InsertReply) -> String {
    let ids: Vec<i64> = reply.items.iter().map(|i| i.id).collect();
    let which = match ids.as_slice() {
        [one] => format!("task {one}"),
        _ => format!("{} tasks", ids.len()),
    };
    let range = match (ids.iter().min(), ids.iter().max()) {
        (Some(least), Some(most)) if ids.len() > 1 => format!(" ({least} to {most})"),
        _ => String::new(),
    };
    match (reply.inserted, reply.existed) {
        (_, 0) => format!("{which}{range} added"),
        (0, _) => format!("{which}{range} existed already"),
        (inserted, existed) => format!("{which}{range}: {inserted} added, {existed} existed already"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_sent_as_one_for_the_servers_clock_counts() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: TasksAddArgs,
        }
        let line = <Line as clap::Parser>::try_parse_from(["x", "p", "--deadline", "2h"]).unwrap();
        assert_eq!(fields(line.args).unwrap()["deadline"], "7200s");
    }

    #[test]
    fn what_was_added_is_told() {
        let reply = |items: &[(i64, bool)]| {
            let items: Vec<Inserted> =
                items.iter().map(|(id, existed)| Inserted { id: *id, existed: *existed }).collect();
            let existed = items.iter().filter(|i| i.existed).count();
            told(&InsertReply { inserted: items.len() - existed, existed, items })
        };
        assert_eq!(reply(&[(7, false)]), "task 7 added");
        assert_eq!(reply(&[(7, true)]), "task 7 existed already");
        assert_eq!(reply(&[(7, false), (9, false)]), "2 tasks (7 to 9) added");
        assert_eq!(reply(&[(7, true), (9, false)]), "2 tasks (7 to 9): 1 added, 1 existed already");
    }
}
