//! What the API server does with a structural schema besides checking it: refuses unknown fields (`fieldValidation=Strict`),
//! drops nulls that are not nullable, fills in defaults.
//!
//! The semantics are those of apiextensions-apiserver 1.35 (`schema/pruning`, `schema/defaulting`).

use serde_json::Value;

use super::{SchemaFault, schema_of_field};
use crate::base::closest;
use crate::platform::local::path::FieldPath;

/// Fields of the API machinery at the root, which a CRD's schema need not name.
const ROOT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Every field that the schema does not have.
pub fn unknown_fields(object: &Value, schema: &Value) -> Vec<SchemaFault> {
    let mut faults = Vec::new();
    search(object, schema, &FieldPath::default(), &mut faults);
    faults
}

fn search(value: &Value, schema: &Value, path: &FieldPath, faults: &mut Vec<SchemaFault>) {
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return;
    }
    match value {
        Value::Object(fields) => {
            let at_root = path.0.is_empty();
            for (key, field) in fields {
                if at_root && ROOT_FIELDS.contains(&key.as_str()) {
                    continue;
                }
                match schema_of_field(schema, key) {
                    Some(schema) => search(field, schema, &path.key(key), faults),
                    None if knows_any_field(schema) => {}
                    None => faults.push(SchemaFault::new(path.key(key), unknown(key, schema))),
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    search(item, schema, &path.index(at), faults);
                }
            }
        }
        _ => {}
    }
}

/// A value of another type than object (that is told elsewhere), or a map of anything.
fn knows_any_field(schema: &Value) -> bool {
    schema.get("additionalProperties") == Some(&Value::Bool(true))
        || schema.get("type").is_some_and(|kind| kind != "object")
}

fn unknown(key: &str, schema: &Value) -> String {
    let known: Vec<&str> = schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default();
    match closest(key, known.iter().copied()) {
        Some(meant) => format!("unknown field; did you mean {meant}?"),
        None if known.is_empty() => "unknown field: remove it".to_owned(),
        None => format!("unknown field; known ones are {}", known.join(", ")),
    }
}

/// Drops each null whose field is not nullable: a default may take its place.
pub fn drop_nulls(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, field| {
                let Some(schema) = schema_of_field(schema, key) else {
                    return true;
                };
                if field.is_null() {
                    return schema.get("nullable") == Some(&Value::Bool(true));
                }
                drop_nulls(field, schema);
                true
            });
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    drop_nulls(item, schema);
                }
            }
        }
        _ => {}
    }
}

/// Fills in defaults, outermost first: a default that is an object is filled in itself.
pub fn fill_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            for (key, schema) in properties.into_iter().flatten() {
                if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
                    fields.entry(key.clone()).or_insert_with(|| default.clone());
                }
            }
            for (key, field) in fields.iter_mut() {
                if let Some(schema) = schema_of_field(schema, key) {
                    fill_defaults(field, schema);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for item in items {
                    fill_defaults(item, schema);
                }
            }
        }
        _ => {}
    }
}
