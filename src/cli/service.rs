//! `ostler stop` and `start`: a person's hold on a service of a host agent.

use std::{io::IsTerminal, time::Duration};

use clap_complete::ArgValueCompleter;
use serde_json::Value;

use super::{
    CliError, Global, TargetSystem, complete,
    output::{self, print},
};
use crate::http::{Item, ItemList, OperationView, ReasonRequest};

const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Longer than an engine may take to load its model; `--wait` says otherwise.
const DEFAULT_WAIT: &str = "10m";

/// What is done to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceVerb {
    Stop,
    Start,
}

#[derive(Debug, clap::Args)]
pub struct ServiceArgs {
    /// A service of a host agent; AGENT is optional if the service name is unique
    #[arg(value_name = "[AGENT/]SERVICE", add = ArgValueCompleter::new(complete::services))]
    service: String,
    /// Reason, shown with the hold
    #[arg(long, default_value = "")]
    reason: String,
    /// How long to wait for the operation
    #[arg(long, value_name = "DURATION", default_value = DEFAULT_WAIT, value_parser = crate::base::duration)]
    wait: Duration,
}

pub async fn run(verb: ServiceVerb, args: ServiceArgs, global: &Global) -> Result<(), CliError> {
    let ServiceArgs { service, reason, wait } = args;
    let target = TargetSystem::of(global).await?;
    let found = locate(&service, &target).await?;
    let word = match verb {
        ServiceVerb::Stop => "stop",
        ServiceVerb::Start => "start",
    };
    let query = [("namespace", found.namespace.clone())];
    let path = ["services", &found.agent, &found.service, word];
    let begun: OperationView = target.api.post(&path, &query, Some(&ReasonRequest { reason })).await?;
    let done = tokio::time::timeout(wait, follow(&target, begun, &query)).await.map_err(|_| {
        CliError::failed(format!(
            "{word} of {} on {} is not over after {} s; `ostler status` shows how it goes on",
            found.service,
            found.agent,
            wait.as_secs()
        ))
    })??;
    if done.phase == "Failed" {
        return Err(CliError::failed(format!("{word} of {} on {} failed: {}", done.service, done.agent, done.message)));
    }
    let after = match verb {
        ServiceVerb::Stop => format!("; it stays stopped until `ostler start {service}`"),
        ServiceVerb::Start => String::new(),
    };
    let what = if done.message.is_empty() { format!("{word} of {} is done", done.service) } else { done.message };
    print(&format!("{what}{after} · agent {} · {}\n", done.agent, target.place))
}

/// Asks until the operation is over, with a sign of life on a terminal.
async fn follow(
    target: &TargetSystem,
    mut at: OperationView,
    query: &[(&str, String)],
) -> Result<OperationView, CliError> {
    let shows = std::io::stderr().is_terminal();
    while !at.finished {
        if shows {
            output::progress(&format!("{} {}: {} …", at.action, at.service, at.phase));
        }
        tokio::time::sleep(ASK_AGAIN).await;
        at = target.api.get(&["operations", &at.agent, &at.id], query).await?;
    }
    if shows {
        output::progress("");
    }
    Ok(at)
}

/// A service of a host agent.
#[derive(Debug, PartialEq, Eq)]
pub struct ServicePlace {
    pub namespace: String,
    pub agent: String,
    pub service: String,
}

/// The service that `[AGENT/]SERVICE` names.
pub async fn locate(text: &str, target: &TargetSystem) -> Result<ServicePlace, CliError> {
    let list: ItemList = target.api.get(&["hostagents"], &target.namespace_query()).await?;
    find(text, &list.items)
}

fn find(text: &str, agents: &[Item]) -> Result<ServicePlace, CliError> {
    let (wanted, service) = match text.split_once('/') {
        Some((agent, service)) => (Some(agent), service),
        None => (None, text),
    };
    let has = |item: &&Item| services(item).any(|name| name == service);
    let named = |item: &&Item| wanted.is_none_or(|agent| item.name() == agent);
    // An agent that is named is asked even when its status does not list the service: the agent knows best.
    let mut found: Vec<&Item> = agents.iter().filter(named).filter(|i| wanted.is_some() || has(i)).collect();
    match (found.pop(), found.is_empty()) {
        (Some(item), true) => Ok(ServicePlace {
            namespace: item.namespace().to_owned(),
            agent: item.name().to_owned(),
            service: service.to_owned(),
        }),
        (Some(item), false) => {
            found.push(item);
            let all: Vec<String> =
                found.iter().map(|i| format!("{}/{service} (namespace {})", i.name(), i.namespace())).collect();
            Err(CliError::misused(format!(
                "{text:?} is on several agents: {}; write which, or give -n",
                all.join(", ")
            )))
        }
        (None, _) => {
            let all: Vec<String> =
                agents.iter().flat_map(|i| services(i).map(|s| format!("{}/{s}", i.name()))).collect();
            let known =
                if all.is_empty() { "no agent lists any".to_owned() } else { format!("there are {}", all.join(", ")) };
            Err(CliError::failed(format!("no agent has the service {text:?}: {known}")))
        }
    }
}

/// The services that an agent lists.
pub fn services(item: &Item) -> impl Iterator<Item = &str> {
    let listed = item.status.as_ref().and_then(|s| s.get("services")).and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|s| s.get("name").and_then(Value::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent(name: &str, services: &[&str]) -> Item {
        let services: Vec<Value> = services.iter().map(|s| json!({"name": s, "state": "Running"})).collect();
        serde_json::from_value(json!({
            "apiVersion": "ostler.dev/v1alpha1", "kind": "HostAgent", "metadata": {"name": name, "namespace": "default"},
            "spec": {}, "status": {"services": services},
        }))
        .unwrap()
    }

    #[test]
    fn a_service_is_found_by_its_name_alone_where_one_agent_has_it() {
        let agents = [agent("mac", &["ollama", "mlx"]), agent("gpu", &["vllm", "mlx"])];
        let on = |text: &str| find(text, &agents).map(|f| f.agent).map_err(|e| e.to_string());
        assert_eq!(on("ollama"), Ok("mac".into()));
        assert_eq!(on("gpu/mlx"), Ok("gpu".into()));
        assert_eq!(on("mac/new"), Ok("mac".into()), "the agent knows best");
        assert!(on("mlx").unwrap_err().contains("gpu/mlx"));
        assert!(on("redis").unwrap_err().contains("mac/ollama"));
        assert!(on("nas/ollama").unwrap_err().contains("no agent"));
    }
}
