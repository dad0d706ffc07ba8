//! `ostler describe`.

use clap_complete::ArgValueCompleter;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    CliError, Global, TargetSystem, complete, events, names,
    output::{self, Style, Table, print_ready},
};
use crate::{
    api::Kind,
    base::{age, escape},
    http::{EventList, Item},
};

const EVENTS: &str = "20";

/// Show all about one resource: conditions, recovery, spec, and what happened to it
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// KIND/NAME, such as llm/ollama, or NAME if it is unique
    #[arg(value_name = "[KIND/]NAME", add = ArgValueCompleter::new(complete::resources))]
    resource: String,
    /// The name, where the kind stands by itself
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub async fn run(args: DescribeArgs, global: &Global) -> Result<(), CliError> {
    let resource = match args.name {
        Some(name) => format!("{}/{name}", args.resource),
        None => args.resource,
    };
    names::whole(&resource)?;
    let target = TargetSystem::of(global).await?;
    let (kind, name) = names::resolve(&resource, &target).await?;
    let namespace = target.namespace_of_one();
    let item: Item = target.api.get(&[kind.plural(), namespace, &name], &[]).await?;
    let query = [("kind", kind.plural()), ("namespace", namespace), ("name", name.as_str()), ("limit", EVENTS)];
    let query = query.map(|(key, value)| (key, value.to_owned()));
    let happened: EventList = target.api.get(&["events"], &query).await?;
    print_ready(&described(kind, &item, &happened, Style::of_stdout())?)
}

fn described(kind: Kind, item: &Item, happened: &EventList, style: Style) -> Result<String, CliError> {
    let now = happened.now;
    let mut parts = vec![facts(kind, item, now).render(style)];
    let mut status: Map<String, Value> = item.status.clone().unwrap_or_default();
    let conditions = taken(&mut status, "conditions");
    if !conditions.is_empty() {
        let mut table = Table::new(&["CONDITION", "STATUS", "REASON", "FOR", "MESSAGE"]);
        for condition in &conditions {
            let since = ago(condition.get("lastTransitionTime"), now);
            let [type_, status, reason, message] =
                ["type", "status", "reason", "message"].map(|f| text(condition.get(f)));
            table.push([type_, status, reason, since, message]);
        }
        parts.push(table.render(style));
    }
    let history = match status.get_mut("recovery").and_then(Value::as_object_mut) {
        Some(recovery) => taken(recovery, "history"),
        None => Vec::new(),
    };
    if !history.is_empty() {
        let mut table = Table::new(&["AGO", "STEP", "CAUSE", "OUTCOME", "EVIDENCE"]);
        for record in &history {
            let [step, cause, outcome, evidence] =
                ["step", "cause", "outcome", "evidence"].map(|f| text(record.get(f)));
            table.push([ago(record.get("time"), now), step, cause, outcome, evidence]);
        }
        parts.push(table.render(style));
    }
    parts.push(section("SPEC", &Value::Object(item.spec.clone()))?);
    status.remove("observedGeneration");
    if !status.is_empty() {
        parts.push(section("STATUS", &Value::Object(status))?);
    }
    let live = serde_json::to_value(&item.live).map_err(CliError::failed)?;
    if live.as_object().is_some_and(|live| !live.is_empty()) {
        parts.push(section("LIVE", &live)?);
    }
    parts.push(match happened.items.as_slice() {
        [] => "EVENTS\nno events\n".to_owned(),
        items => format!("EVENTS\n{}", events::table(items, now).render(style)),
    });
    Ok(parts.join("\n"))
}

fn facts(kind: Kind, item: &Item, now: Timestamp) -> Table {
    let mut table = Table::new(&[kind.as_str(), &format!("{}/{}", item.namespace(), item.name())]);
    let labels = item.metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", text(Some(value)))).collect::<Vec<_>>().join(", ");
    let created = ago(item.metadata.get("creationTimestamp"), now);
    let state = item.status.as_ref().map_or_else(|| "New".to_owned(), |status| text(status.get("state")));
    for (name, value) in [("state", state), ("labels", labels), ("age", created)] {
        if !value.is_empty() {
            table.push([name.to_owned(), value]);
        }
    }
    table
}

fn taken(object: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match object.remove(field) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

fn ago(at: Option<&Value>, now: Timestamp) -> String {
    let at = at.and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    at.map(|at| age(now.duration_since(at).as_secs())).unwrap_or_default()
}

fn section(heading: &str, value: &Value) -> Result<String, CliError> {
    let text = output::yaml(value)?;
    Ok(format!("{heading}\n{}", escape::for_terminal(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_about_a_resource_is_in_one_place() {
        let item: Item = serde_json::from_value(json!({
            "apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackend",
            "metadata": {"name": "mlx", "namespace": "default", "labels": {"team": "a"}, "creationTimestamp": "2026-03-01T11:00:00Z"},
            "spec": {"engine": "MLX"},
            "status": {"state": "Down", "observedGeneration": 1, "effectiveLimit": 2,
                "conditions": [{"type": "Ready", "status": "False", "reason": "Refused", "message": "why",
                    "lastTransitionTime": "2026-03-01T11:58:00Z"}],
                "recovery": {"attempts": 1, "history": [{"time": "2026-03-01T11:59:00Z", "step": "Restart", "cause": "Refused",
                    "outcome": "DidNotHelp", "evidence": "it ended"}]}},
        }))
        .unwrap();
        let happened: EventList = serde_json::from_value(json!({"now": "2026-03-01T12:00:00Z", "items": [
            {"at": "2026-03-01T11:59:00Z", "kind": "LLMBackend", "namespace": "default", "name": "mlx", "warning": true,
                "reason": "RecoveryDidNotHelp", "message": "m"}]}))
        .unwrap();
        let told = described(Kind::find("llm").unwrap(), &item, &happened, Style::default()).unwrap();
        for words in [
            "LLMBackend   default/mlx\n",
            "labels       team=a\n",
            "Ready       False    Refused   2m    why\n",
            "60s   Restart   Refused   DidNotHelp   it ended\n",
            "SPEC\nengine: MLX\n",
            "effectiveLimit: 2\n",
            "RecoveryDidNotHelp",
        ] {
            assert!(told.contains(words), "{words:?}: {told}");
        }
        assert!(!told.contains("observedGeneration"), "{told}");
    }
}
