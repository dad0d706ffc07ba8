//! `ostler validate`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{
    CliError,
    output::{self, Format, print, problem_line},
    up::Derived,
};
use crate::{
    agent,
    api::{Kind, number_of},
    controllers::{check_schedule, server_url},
    http::Problem,
    platform::local::{Checked, check},
};

/// Check a folder of manifests as `up` would read it, without any server
///
/// Exits with 1 when something would not be in force, or a schedule can't be read. A reference that leads nowhere within the folder
/// is only noted: what it names may be declared elsewhere.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// Folder of manifests, one file, or `-` for standard input
    #[arg(short, value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// For programs: the problems
    #[arg(long, short, value_enum)]
    output: Option<Format>,
}

pub fn run(args: &ValidateArgs) -> Result<(), CliError> {
    let ValidateArgs { folder, output } = args;
    let piped = folder == Path::new("-");
    if !piped && !folder.exists() {
        return Err(CliError::misused(format!("-f {}: there is no such folder or file", folder.display())));
    }
    let base_dir = if folder.is_dir() { folder } else { folder.parent().unwrap_or(folder) };
    let shown = if piped { "standard input".to_owned() } else { folder.display().to_string() };
    let derived = Derived::new(base_dir);
    let derive: crate::platform::local::Derive = Arc::new(move |documents| derived.documents(documents));
    let Checked { files, objects, problems } =
        check(folder, &[agent::local_kind()], &derive).map_err(CliError::failed)?;
    let mut problems: Vec<Problem> = problems.into_iter().map(Problem::from).collect();
    if piped && objects.is_empty() && problems.is_empty() {
        return Err(CliError::failed("standard input declares nothing: see what should have written it"));
    }
    problems.extend(of_schedules(&objects));
    problems.extend(of_backends(&objects));
    problems.extend(of_queues(&objects));
    problems.extend(dangling(&objects));
    let bad = problems.iter().filter(|problem| problem.error).count();
    if !output::print_value(*output, &problems)? {
        for problem in &problems {
            print(&format!("{} {}\n", if problem.error { '✗' } else { '!' }, problem_line(problem)))?;
        }
        if bad == 0 {
            print(&format!("✓ {}: {}\n", number_of(files, "file"), counts(&objects)))?;
        }
    }
    if bad == 0 { Ok(()) } else { Err(CliError::failed(format!("{} in {}", number_of(bad, "error"), shown))) }
}

/// `2 LLMBackend, 1 Expert`
fn counts(objects: &[Value]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for object in objects {
        *counts.entry(text(object, "/kind")).or_default() += 1;
    }
    if counts.is_empty() {
        return "nothing is declared".to_owned();
    }
    counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn kind(object: &Value) -> Option<Kind> {
    text(object, "/kind").parse().ok()
}

fn problem(error: bool, object: &Value, field: &str, message: String) -> Problem {
    let about =
        format!("{} {}/{}", text(object, "/kind"), text(object, "/metadata/namespace"), text(object, "/metadata/name"));
    Problem { error, about: Some(about), field: Some(field.to_owned()), message, ..Problem::default() }
}

fn of_schedules(objects: &[Value]) -> Vec<Problem> {
    let schedules = objects.iter().filter(|object| kind(object) == Some(Kind::TaskSchedule));
    schedules
        .filter_map(|object| {
            let zone = Some(text(object, "/spec/timeZone")).filter(|zone| !zone.is_empty()).unwrap_or("UTC");
            let why = check_schedule(text(object, "/spec/schedule"), zone).err()?;
            Some(problem(true, object, "spec.schedule", why))
        })
        .collect()
}

/// A service that its agent here does not list, and a server that two declare.
fn of_backends(objects: &[Value]) -> Vec<Problem> {
    let of = |wanted: Kind| objects.iter().filter(move |object| kind(object) == Some(wanted));
    let same = |one: &Value, other: &Value| text(one, "/metadata/namespace") == text(other, "/metadata/namespace");
    let mut problems = Vec::new();
    let mut servers: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for backend in of(Kind::LLMBackend) {
        let (agent, service) =
            (text(backend, "/spec/recovery/hostAgentRef/name"), text(backend, "/spec/recovery/service"));
        let config = objects.iter().find(|object| {
            text(object, "/kind") == "AgentConfig" && text(object, "/metadata/name") == agent && same(object, backend)
        });
        if let Some(listed) = config.and_then(|config| config.pointer("/spec/services")?.as_array()) {
            let names: Vec<&str> = listed.iter().map(|listed| text(listed, "/name")).collect();
            if !service.is_empty() && !names.contains(&service) {
                let message = format!("agent {agent} lists no service {service}; it lists {}", names.join(", "));
                problems.push(problem(true, backend, "spec.recovery.service", message));
            }
        }
        let url = text(backend, "/spec/url");
        let Some(server) = server_url(url) else { continue };
        let name = text(backend, "/metadata/name");
        if let Some(other) = servers.insert((text(backend, "/metadata/namespace"), server), name) {
            let message = format!("{url} is the server of LLMBackend {other}, too: delete one of the two");
            problems.push(problem(true, backend, "spec.url", message));
        }
    }
    problems
}

/// Whoever is named to do the tasks of a queue, and does none of those.
fn of_queues(objects: &[Value]) -> Vec<Problem> {
    let find = |of: &Value, wanted: Kind, name: &str| {
        objects.iter().find(|object| {
            kind(object) == Some(wanted)
                && text(object, "/metadata/name") == name
                && text(object, "/metadata/namespace") == text(of, "/metadata/namespace")
        })
    };
    let is_for_clients = |queue: &Value| text(queue, "/spec/claimedBy") == "Clients";
    let mut problems = Vec::new();
    for object in objects {
        if kind(object) == Some(Kind::TaskQueue) {
            let name = text(object, "/spec/defaultExpertRef/name");
            let handler = find(object, Kind::Expert, name).map_or("", |expert| text(expert, "/spec/handler"));
            let why = match (handler, is_for_clients(object)) {
                ("Webhook", true) => "is a webhook, which workers send tasks to, and clients claim those of this queue",
                ("External", false) => "is External, and workers do the tasks of this queue: set claimedBy: Clients",
                _ => continue,
            };
            problems.push(problem(false, object, "spec.defaultExpertRef", format!("Expert {name} {why}")));
        }
        if kind(object) == Some(Kind::WorkerPool) {
            for queue in object.pointer("/spec/queueRefs").and_then(Value::as_array).into_iter().flatten() {
                let name = text(queue, "/name");
                if find(object, Kind::TaskQueue, name).is_some_and(is_for_clients) {
                    let message = format!("clients claim the tasks of TaskQueue {name}: this pool does none of them");
                    problems.push(problem(false, object, "spec.queueRefs", message));
                }
            }
        }
    }
    problems
}

/// References to what these manifests do not declare.
fn dangling(objects: &[Value]) -> Vec<Problem> {
    let is_there = |of: &Value, wanted: Kind, name: &str| {
        let namespace = text(of, "/metadata/namespace");
        objects.iter().any(|object| {
            kind(object) == Some(wanted)
                && text(object, "/metadata/name") == name
                && text(object, "/metadata/namespace") == namespace
        })
    };
    let is_served = |of: &Value, model: &str| {
        let namespace = text(of, "/metadata/namespace");
        let backends = objects.iter().filter(|o| kind(o) == Some(Kind::LLMBackend));
        backends.filter(|o| text(o, "/metadata/namespace") == namespace).any(|o| {
            let models = o.pointer("/spec/models").and_then(Value::as_array).into_iter().flatten();
            models.into_iter().any(|m| m["name"] == model || m["alias"] == model)
        })
    };
    let mut problems = Vec::new();
    for object in objects {
        let mut refer = |field: &str, kind: Kind, name: &str| {
            if !name.is_empty() && !is_there(object, kind, name) {
                problems.push(problem(false, object, field, format!("no {kind} {name} is declared here")));
            }
        };
        match kind(object) {
            Some(Kind::Expert) => {
                let model = text(object, "/spec/model");
                if !model.is_empty() && !is_served(object, model) {
                    let message = format!("no LLMBackend here serves {model:?}, as name or alias of a model");
                    problems.push(problem(false, object, "spec.model", message));
                }
            }
            Some(Kind::TaskQueue) => {
                refer("spec.defaultExpertRef", Kind::Expert, text(object, "/spec/defaultExpertRef/name"))
            }
            Some(Kind::WorkerPool) => {
                for queue in object.pointer("/spec/queueRefs").and_then(Value::as_array).into_iter().flatten() {
                    refer("spec.queueRefs", Kind::TaskQueue, text(queue, "/name"));
                }
            }
            Some(Kind::TaskSchedule) => {
                refer("spec.queueRef", Kind::TaskQueue, text(object, "/spec/queueRef/name"));
                refer("spec.task.expert", Kind::Expert, text(object, "/spec/task/expert"));
            }
            Some(Kind::LLMBackend) => {
                refer("spec.recovery.hostAgentRef", Kind::HostAgent, text(object, "/spec/recovery/hostAgentRef/name"));
            }
            _ => {}
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(kind: &str, name: &str, spec: Value) -> Value {
        json!({"kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    }

    #[test]
    fn what_leads_nowhere_is_noted_and_what_is_there_is_not() {
        let there = [
            object("LLMBackend", "mlx", json!({"models": [{"name": "long", "alias": "small"}]})),
            object("Expert", "igor", json!({"model": "small"})),
            object("Expert", "ada", json!({"model": "long"})),
            object("Expert", "hook", json!({"handler": "Webhook"})),
            object("TaskQueue", "q", json!({"defaultExpertRef": {"name": "igor"}})),
            object("WorkerPool", "p", json!({"queueRefs": [{"name": "q"}]})),
            object(
                "TaskSchedule",
                "s",
                json!({"queueRef": {"name": "q"}, "schedule": "0 3 * * *", "task": {"expert": "ada"}}),
            ),
        ];
        assert_eq!(dangling(&there), Vec::new());
        assert_eq!(of_schedules(&there), Vec::new());
        let lost = [
            object("Expert", "igor", json!({"model": "small"})),
            object("TaskQueue", "q", json!({"defaultExpertRef": {"name": "nobody"}})),
            object("WorkerPool", "p", json!({"queueRefs": [{"name": "q"}, {"name": "nowhere"}]})),
            object("TaskSchedule", "s", json!({"queueRef": {"name": "x"}, "schedule": "61 3 * * *"})),
            object("LLMBackend", "mlx", json!({"recovery": {"hostAgentRef": {"name": "mac"}, "service": "mlx"}})),
        ];
        let told: Vec<String> = dangling(&lost).iter().map(problem_line).collect();
        assert_eq!(told.len(), 5, "{told:?}");
        assert_eq!(told[1], "TaskQueue default/q: spec.defaultExpertRef: no Expert nobody is declared here");
        assert!(of_schedules(&lost)[0].error);
    }

    #[test]
    fn whoever_does_no_task_of_a_queue_is_noted() {
        let told = |claimed_by: &str, handler: &str| {
            let all = [
                object("Expert", "ada", json!({"handler": handler})),
                object("TaskQueue", "q", json!({"claimedBy": claimed_by, "defaultExpertRef": {"name": "ada"}})),
                object("WorkerPool", "p", json!({"queueRefs": [{"name": "q"}]})),
            ];
            of_queues(&all).iter().map(|problem| problem.field.clone().unwrap_or_default()).collect::<Vec<_>>()
        };
        for (claimed_by, handler, fields) in [
            ("Workers", "Chat", &[][..]),
            ("Workers", "Webhook", &[]),
            ("Workers", "External", &["spec.defaultExpertRef"]),
            ("Clients", "Chat", &["spec.queueRefs"]),
            ("Clients", "External", &["spec.queueRefs"]),
            ("Clients", "Webhook", &["spec.defaultExpertRef", "spec.queueRefs"]),
        ] {
            assert_eq!(told(claimed_by, handler), fields, "{claimed_by} {handler}");
        }
    }

    #[test]
    fn two_backends_of_one_server_and_a_service_that_no_agent_lists_are_errors() {
        let backend = |name: &str, url: &str, service: &str| {
            let recovery = json!({"hostAgentRef": {"name": "mac"}, "service": service});
            object("LLMBackend", name, json!({"url": url, "recovery": recovery}))
        };
        let agent = object("AgentConfig", "mac", json!({"services": [{"name": "ollama"}]}));
        let told = |backends: &[Value]| {
            let all: Vec<Value> = backends.iter().chain([&agent]).cloned().collect();
            of_backends(&all).iter().map(problem_line).collect::<Vec<_>>()
        };
        let ollama = backend("ollama", "http://127.0.0.1:11434", "ollama");
        assert_eq!(told(&[ollama.clone(), backend("mlx", "http://127.0.0.1:8080", "ollama")]), Vec::<String>::new());
        assert_eq!(
            told(&[ollama.clone(), backend("other", "http://localhost:11434/v1", "ollama")]),
            [
                "LLMBackend default/other: spec.url: http://localhost:11434/v1 is the server of LLMBackend ollama, too: delete one of the two"
            ]
        );
        assert_eq!(
            told(&[backend("mlx", "http://127.0.0.1:8080", "mlxx")]),
            ["LLMBackend default/mlx: spec.recovery.service: agent mac lists no service mlxx; it lists ollama"]
        );
    }
}
