//! What the API server does with a structural schema besides checking it: refuses unknown fields (`fieldValidation=Strict`),
//! drops nulls that are not nullable, fills in defaults.
//!
//! The semantics are those of apiextensions-apiserver 1.35 (`schema/pruning`, `schema/defaulting`).

use serde_json::{Map, Value};

use super::{SchemaFault, schema_of_field, walk};
use crate::base::closest;
use crate::platform::local::path::FieldPath;

/// Fields of the API machinery at the root, which a CRD's schema need not name.
const ROOT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Every field that the schema does not have.
pub fn unknown_fields(object: &Value, schema: &Value) -> Vec<SchemaFault> {
    let mut faults = Vec::new();
    walk(object, schema, &FieldPath::default(), &mut |value, schema, path| {
        let Value::Object(fields) = value else { return };
        if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) || knows_any_field(schema) {
            return;
        }
        let is_root = |key: &str| path.0.is_empty() && ROOT_FIELDS.contains(&key);
        for key in fields.keys().filter(|key| !is_root(key) && schema_of_field(schema, key).is_none()) {
            faults.push(SchemaFault::new(path.key(key), unknown(key, schema)));
        }
    });
    faults
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
    walk_mut(value, schema, &|fields, schema| {
        fields.retain(|key, field| {
            let known = schema_of_field(schema, key).filter(|_| field.is_null());
            known.is_none_or(|schema| schema.get("nullable") == Some(&Value::Bool(true)))
        });
    });
}

/// Fills in defaults, outermost first: a default that is an object is filled in itself.
pub fn fill_defaults(value: &mut Value, schema: &Value) {
    walk_mut(value, schema, &|fields, schema| {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, schema) in properties.into_iter().flatten() {
            if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
                fields.entry(key.clone()).or_insert_with(|| default.clone());
            }
        }
    });
}

/// Changes each map that the schema knows, outermost first.
fn walk_mut(value: &mut Value, schema: &Value, change: &dyn Fn(&mut Map<String, Value>, &Value)) {
    match value {
        Value::Object(fields) => {
            change(fields, schema);
            for (key, field) in fields.iter_mut() {
                if let Some(schema) = schema_of_field(schema, key) {
                    walk_mut(field, schema, change);
                }
            }
        }
        Value::Array(items) => {
            let schema = schema.get("items");
            items.iter_mut().for_each(|item| schema.into_iter().for_each(|schema| walk_mut(item, schema, change)));
        }
        _ => {}
    }
}
