//! A value that matches a schema: what a model says that is made to answer in a format.

use serde_json::{Map, Value, json};

/// The simplest value of a schema. What it can't read (references, patterns) it takes for anything.
pub(super) fn sample(schema: &Value) -> Value {
    let first = |key: &str| schema.get(key).and_then(Value::as_array).and_then(|all| all.first());
    if let Some(value) = schema.get("const").or_else(|| first("enum")) {
        return value.clone();
    }
    if let Some(inner) = ["anyOf", "oneOf", "allOf"].iter().find_map(|key| first(key)) {
        return sample(inner);
    }
    let kind = schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0).and_then(Value::as_str)));
    let number = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    match kind {
        Some("string") => "hay".repeat(number("minLength").unwrap_or(1).div_ceil(3).max(1)).into(),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some("boolean") => true.into(),
        Some("null") => Value::Null,
        Some("array") => {
            let item = schema.get("items").map_or(Value::Null, sample);
            vec![item; number("minItems").unwrap_or(1)].into()
        }
        _ => {
            let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
            fields.iter().map(|(name, schema)| (name.clone(), sample(schema))).collect::<Map<_, _>>().into()
        }
    }
}

/// Its text in pieces, as tokens come.
pub(super) fn pieces(schema: &Value) -> Vec<String> {
    let text: Vec<char> = sample(schema).to_string().chars().collect();
    text.chunks(4).map(|piece| piece.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_matches_its_schema() {
        let schemas = [
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 4}, "b": {"type": "array", "items": {"enum": ["x"]}, "minItems": 2}},
                "required": ["a", "b"], "additionalProperties": false}),
            json!({"type": ["string", "null"], "minLength": 7}),
            json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
            json!({"const": 5}),
            json!({"type": "number"}),
            json!({}),
        ];
        for schema in schemas {
            let value: Value = serde_json::from_str(&pieces(&schema).concat()).unwrap();
            assert!(jsonschema::is_valid(&schema, &value), "{value} of {schema}");
        }
    }
}
