//! The reference of all fields as Markdown, from the schemas alone: what it says is what is enforced.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;

/// The longest CEL expression that the page shows, in bytes.
const LONGEST_RULE: usize = 400;

const INTRODUCTION: &str = "\
# Resources

Every kind with its fields, as the CustomResourceDefinitions in `crds/` have them. `ostler crds --docs` prints this page.

- Names end in the unit of their number: `periodSeconds`.
- A reference is `fooRef: {name}` to a resource in the same namespace.
- A field marked * is required.
- `status` is written by Ostler only. `kubectl wait --for=condition=Ready` works on every kind.
- The annotation `ostler.dev/reconcile-requested-at` forces a pass; `status.lastHandledReconcileAt` echoes its value.
";

/// One page about all kinds, and about the agent's file, which is no custom resource.
pub fn markdown(crds: &[CustomResourceDefinition], agent_file: &CustomResourceDefinition) -> String {
    let mut page = INTRODUCTION.to_owned();
    for crd in crds {
        for version in &crd.spec.versions {
            let names = &crd.spec.names;
            let short = names.short_names.iter().flatten().cloned().collect::<Vec<_>>().join("`, `");
            let get = format!("`kubectl get {}` (short: `{short}`)", names.plural);
            page.push_str(&kind(crd, version, &get));
        }
    }
    for version in &agent_file.spec.versions {
        page.push_str(&kind(agent_file, version, "`ostler agent --config FILE`; never applied to a cluster"));
    }
    page
}

/// `seen_by` says which command reads such a manifest.
fn kind(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion, seen_by: &str) -> String {
    let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let schema = with_whole_numbers(serde_json::to_value(schema).unwrap_or_default());
    let names = &crd.spec.names;
    let mut text = format!("\n## {}\n\n", names.kind);
    if let Some(about) = schema["description"].as_str() {
        let _ = writeln!(text, "{about}\n");
    }
    let _ = writeln!(text, "`apiVersion: {}/{}` · {seen_by}", crd.spec.group, version.name);
    for part in ["spec", "status"].into_iter().filter(|part| schema["properties"][part].is_object()) {
        let schema = &schema["properties"][part];
        let _ = write!(text, "\n### {}.{part}\n\n", names.kind);
        let mut rows = Vec::new();
        fields(schema, "", &mut rows);
        text.push_str("| field | type | default | about |\n|---|---|---|---|\n");
        rows.iter().for_each(|row| text.push_str(row));
        let mut rules = Vec::new();
        collect_rules(schema, part, &mut rules);
        if !rules.is_empty() {
            text.push_str("\nRefused unless these hold:\n\n");
            rules.iter().for_each(|rule| text.push_str(rule));
        }
    }
    text
}

/// Bounds are floats in Kubernetes' types; people write 1, not 1.0.
pub fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => Value::from(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, with_whole_numbers(value))).collect(),
        other => other,
    }
}

fn fields(schema: &Value, prefix: &str, rows: &mut Vec<String>) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        let star = if required.contains(&name.as_str()) { "*" } else { "" };
        let default = field.get("default").map(plain).unwrap_or_default();
        let about = field["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        // An object's default only says that its fields have defaults.
        let default = if field["type"] == "object" { String::new() } else { default };
        rows.push(format!("| `{path}`{star} | {} | {default} | {about} |\n", type_of(field)));
        if field["type"] == "object" {
            fields(field, &format!("{path}."), rows);
        } else if field["type"] == "array" && field["items"]["type"] == "object" {
            fields(&field["items"], &format!("{path}[]."), rows);
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `integer, 1 to 300`, `string, up to 253 characters`, `Ollama, MLX, OpenAI`.
fn type_of(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        return values.join(", ");
    }
    let bounds = |low: &str, high: &str| match (field.get(low), field.get(high)) {
        (Some(low), Some(high)) => format!(", {low} to {high}"),
        (Some(low), None) => format!(", at least {low}"),
        (None, Some(high)) => format!(", at most {high}"),
        (None, None) => String::new(),
    };
    match field["type"].as_str().unwrap_or("any") {
        "string" if field["format"] == "date-time" => "time".to_owned(),
        "string" => format!("string{}", bounds("minLength", "maxLength")) + length_unit(field),
        "integer" => format!("integer{}", bounds("minimum", "maximum")),
        "array" => {
            let most = field.get("maxItems").map(|most| format!(", at most {most}")).unwrap_or_default();
            format!("list of {}{most}", type_of(&field["items"]))
        }
        other => other.to_owned(),
    }
}

fn length_unit(field: &Value) -> &'static str {
    match field.get("maxLength").or_else(|| field.get("minLength")) {
        Some(_) => " characters",
        None => "",
    }
}

fn collect_rules(schema: &Value, path: &str, rules: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().unwrap_or_default();
        let expression = rule["rule"].as_str().unwrap_or_default();
        // A long pattern tells a reader nothing that the message does not.
        let expression = if expression.len() > LONGEST_RULE { String::new() } else { format!(" (`{expression}`)") };
        rules.push(format!("- `{path}`: {message}{expression}\n"));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        collect_rules(field, &format!("{path}.{name}"), rules);
    }
    if let Some(items) = schema.get("items") {
        collect_rules(items, &format!("{path}[]"), rules);
    }
}
