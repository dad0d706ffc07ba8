//! Resources as `ostler get` prints them.

use jiff::Timestamp;
use serde_json::Value;

use super::Table;
use crate::{api::Kind, base::age, http::Item};

/// A table of resources of one kind; `wide` has more columns.
pub fn resource_table(kind: Kind, items: &[Item], now: Timestamp, wide: bool) -> Table {
    let namespaces = items.windows(2).any(|pair| pair[0].namespace() != pair[1].namespace());
    let columns = columns(kind, wide, namespaces);
    let mut table = Table::new(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
    for item in items {
        table.push(columns.iter().map(|(_, value)| value(item, now)));
    }
    table
}

type Column = (&'static str, fn(&Item, Timestamp) -> String);

fn columns(kind: Kind, wide: bool, namespaces: bool) -> Vec<Column> {
    let mut all: Vec<Column> = Vec::new();
    if namespaces {
        all.push(("NAMESPACE", |item, _| item.namespace().to_owned()));
    }
    all.extend::<[Column; 4]>([
        ("NAME", |item, _| item.name().to_owned()),
        ("READY", |item, _| ready(item, "status")),
        ("STATE", |item, _| status(item, "state")),
        ("REASON", |item, _| ready(item, "reason")),
    ]);
    all.push(match kind {
        Kind::LLMBackend => ("SLOTS", |item, _| match (item.live.slots_in_use, item.live.limit) {
            (Some(used), Some(limit)) => format!("{used}/{limit}"),
            _ => "-".to_owned(),
        }),
        Kind::Expert => ("PLACES", |item, _| text(item.spec.get("maxConcurrentTasks"))),
        Kind::TaskQueue => ("POOLS", |item, _| status(item, "pools")),
        Kind::WorkerPool => ("REPLICAS", |item, _| status(item, "replicas")),
        Kind::ContainerHealthCheck => {
            ("UNHEALTHY", |item, _| match (status(item, "unhealthy"), status(item, "total")) {
                (unhealthy, total) if total != "-" => format!("{unhealthy}/{total}"),
                _ => "-".to_owned(),
            })
        }
        Kind::TaskSchedule => ("NEXT", |item, _| status(item, "nextRunTime")),
        Kind::Caller => ("TOKENS TODAY", |item, _| item.live.tokens_today.map_or("-".to_owned(), |n| n.to_string())),
        Kind::Notifier => ("HELD BACK", |item, _| status(item, "heldBack")),
        Kind::HostAgent => ("VERSION", |item, _| status(item, "version")),
    });
    all.push(("AGE", created));
    if wide {
        if kind == Kind::LLMBackend {
            all.push(("ENGINE", |item, _| text(item.spec.get("engine"))));
        }
        if matches!(kind.as_str(), "LLMBackend" | "HostAgent") {
            all.push(("URL", |item, _| text(item.spec.get("url"))));
        }
        if kind == Kind::LLMBackend {
            all.push(("LIMITED BY", |item, _| status(item, "limitedBy")));
        }
        all.push(("MESSAGE", |item, _| ready(item, "message")));
    }
    all
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    }
}

fn status(item: &Item, field: &str) -> String {
    text(item.status.as_ref().and_then(|s| s.get(field)))
}

fn ready(item: &Item, field: &str) -> String {
    let conditions = item.status.as_ref().and_then(|s| s.get("conditions")).and_then(Value::as_array);
    let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
    text(ready.and_then(|c| c.get(field)))
}

fn created(item: &Item, now: Timestamp) -> String {
    let at = item.metadata.get("creationTimestamp").and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok());
    at.map_or_else(|| "-".to_owned(), |at| age(now.duration_since(at).as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Style;
    use serde_json::json;

    fn item(namespace: &str) -> Item {
        serde_json::from_value(json!({
            "apiVersion": "ostler.dev/v1alpha1", "kind": "LLMBackend",
            "metadata": {"name": "mlx", "namespace": namespace, "creationTimestamp": "2026-03-01T11:00:00Z"},
            "spec": {"engine": "MLX", "url": "http://127.0.0.1:11435"},
            "status": {"state": "Down", "limitedBy": "few slots", "conditions": [{"type": "Ready", "status": "False", "reason": "Refused", "message": "why"}]},
            "live": {"slotsInUse": 0, "limit": 2},
        }))
        .unwrap()
    }

    fn render(items: &[Item], wide: bool) -> String {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        resource_table(Kind::find("llm").unwrap(), items, now, wide).render(Style::default())
    }

    #[test]
    fn a_backend_is_told_on_one_line() {
        assert_eq!(
            render(&[item("default")], false),
            "NAME   READY   STATE   REASON    SLOTS   AGE\n\
             mlx    False   Down    Refused   0/2     1h\n"
        );
    }

    #[test]
    fn wide_tells_where_and_why_and_several_namespaces_are_named() {
        let wide = render(&[item("a"), item("b")], true);
        assert!(wide.starts_with("NAMESPACE"), "{wide}");
        assert!(wide.contains("MLX      http://127.0.0.1:11435   few slots    why"), "{wide}");
    }
}
