//! Kubernetes' list types: keys of a list map, and members of a set, are there once.

use std::collections::HashMap;

use serde_json::Value;

use super::{SchemaFault, walk};
use crate::platform::local::path::FieldPath;

pub fn check(value: &Value, schema: &Value, path: &FieldPath, faults: &mut Vec<SchemaFault>) {
    walk(value, schema, path, &mut |value, schema, path| {
        let Value::Array(items) = value else { return };
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("map") => faults.extend(repeated_keys(items, schema, path)),
            Some("set") => faults.extend(repeated(path, items.iter().map(Value::to_string))),
            _ => {}
        }
    });
}

fn repeated_keys(items: &[Value], schema: &Value, path: &FieldPath) -> Vec<SchemaFault> {
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .map(|keys| keys.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let identity = |item: &Value| {
        let parts: Vec<_> = keys.iter().filter_map(|key| item.get(key).map(|value| format!("{key} {value}"))).collect();
        parts.join(", ")
    };
    let identities: Vec<String> = items.iter().map(identity).collect();
    // An item that isn't a map, or lacks its key, is told by the schema.
    if identities.contains(&String::new()) { Vec::new() } else { repeated(path, identities) }
}

fn repeated(path: &FieldPath, identities: impl IntoIterator<Item = String>) -> Vec<SchemaFault> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut faults = Vec::new();
    for (at, identity) in identities.into_iter().enumerate() {
        if let Some(first) = seen.get(&identity) {
            let message = format!("{identity} is already at [{first}]: remove one of them");
            faults.push(SchemaFault::new(path.index(at), message));
        } else {
            seen.insert(identity, at);
        }
    }
    faults
}
