//! Kubernetes' list types: keys of a list map, and members of a set, are there once.

use std::collections::{HashMap, hash_map::Entry};

use serde_json::Value;

use super::{SchemaFault, walk};
use crate::platform::local::path::FieldPath;

pub fn check(value: &Value, schema: &Value, path: &FieldPath, faults: &mut Vec<SchemaFault>) {
    walk(value, schema, path, &mut |value, schema, path| {
        let Value::Array(items) = value else { return };
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("map") => faults.extend(repeated_keys(items, schema, path)),
            Some("set") => faults.extend(repeated(path, items.iter().map(|item| (item, item.to_string())))),
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
    let identities = items.iter().map(|item| {
        let parts: Vec<_> = keys.iter().filter_map(|key| item.get(key).map(|value| format!("{key} {value}"))).collect();
        (item, parts.join(", "))
    });
    // An item that isn't a map, or lacks its key, is told by the schema.
    let identities: Vec<_> = identities.collect();
    if identities.iter().any(|(_, identity)| identity.is_empty()) {
        return Vec::new();
    }
    repeated(path, identities.into_iter())
}

fn repeated<'a>(path: &FieldPath, items: impl Iterator<Item = (&'a Value, String)>) -> Vec<SchemaFault> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut faults = Vec::new();
    for (at, (_, identity)) in items.enumerate() {
        match seen.entry(identity) {
            Entry::Occupied(first) => {
                let message = format!("{} is already at [{}]: remove one of them", first.key(), first.get());
                faults.push(SchemaFault::new(path.index(at), message));
            }
            Entry::Vacant(new) => {
                new.insert(at);
            }
        }
    }
    faults
}
