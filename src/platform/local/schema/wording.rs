//! jsonschema's errors in words that tell the mend.

use jsonschema::{
    ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde_json::Value;

use super::{SchemaFault, path_of, schema_at};
use crate::base::closest;
use crate::{api::url_wording, host::mask::without_user, platform::local::path::FieldPath};

/// The fault of an error.
pub fn fault(error: &ValidationError<'_>, shows_values: bool, structural: &Value) -> SchemaFault {
    let field = path_of(error.instance_path());
    let value = error.instance().as_ref();
    let is = |value: &Value| {
        if shows_values { format!(", but is {}", shortened(value)) } else { String::new() }
    };
    let message = match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            return SchemaFault::new(field.key(name), "is required: set it");
        }
        Kind::Type { kind } => {
            let wanted = wanted(kind);
            let is = if shows_values {
                format!(", but is {}", shortened(value))
            } else {
                format!(", but is {}", type_name(value))
            };
            format!("must be {wanted}{is}{}", quotes_hint(value, kind))
        }
        Kind::Enum { options } => {
            let names: Vec<&str> = options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let meant = value
                .as_str()
                .and_then(|text| closest(text, names.iter().copied()))
                .map(|meant| format!("; did you mean {meant}?"))
                .unwrap_or_default();
            format!("must be one of {}{}{meant}", names.join(", "), is(value))
        }
        Kind::Minimum { limit } => format!("must be {limit} or more{}", is(value)),
        Kind::Maximum { limit } => format!("must be {limit} or less{}", is(value)),
        Kind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        Kind::MinLength { limit } => format!("must have {limit} characters or more{}", is(value)),
        Kind::MaxLength { limit } => format!("must have {limit} characters or fewer"),
        Kind::MinItems { limit } => format!("must have {limit} items or more"),
        Kind::MaxItems { limit } => format!("must have {limit} items or fewer"),
        Kind::MaxProperties { limit } => format!("must have {limit} entries or fewer"),
        Kind::MinProperties { limit } => format!("must have {limit} entries or more"),
        Kind::Pattern { pattern } => match url_wording(pattern) {
            Some(words) => format!("must be {words}{}", is(value)),
            None => format!("must match {pattern}{}{}", is(value), meaning(structural, &field)),
        },
        Kind::Format { format } => format!("must be a {format}{}", is(value)),
        _ if shows_values => error.to_string(),
        other => format!("breaks the schema's {}", other.keyword()),
    };
    SchemaFault::new(field, message)
}

/// What the field is for: a pattern alone tells few people what to write.
fn meaning(structural: &Value, field: &FieldPath) -> String {
    let own = schema_at(structural, field).and_then(|schema| schema.get("description"));
    own.and_then(Value::as_str).map(|about| format!(" ({about})")).unwrap_or_default()
}

fn wanted(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => with_article(&one.to_string()),
        TypeKind::Multiple(many) => {
            many.iter().map(|one| with_article(&one.to_string())).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn with_article(name: &str) -> String {
    match name {
        "object" => "a map".to_owned(),
        "array" => "a list".to_owned(),
        "integer" => "an integer".to_owned(),
        "boolean" => "true or false".to_owned(),
        other => format!("a {other}"),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// `"10"` where 10 was meant, and 10 or `yes` where text was meant.
fn quotes_hint(value: &Value, kind: &TypeKind) -> &'static str {
    let TypeKind::Single(wanted) = kind else {
        return "";
    };
    match (value, wanted.to_string().as_str()) {
        (Value::String(text), "integer" | "number") if text.parse::<f64>().is_ok() => ": remove the quotes",
        (Value::String(text), "boolean") if text == "true" || text == "false" => ": remove the quotes",
        (Value::Bool(_) | Value::Number(_), "string") => ": put it in quotes",
        _ => "",
    }
}

/// A value for people. A URL may have a password in it, also where it is refused for that.
fn shortened(value: &Value) -> String {
    let text = match value {
        Value::Array(_) | Value::Object(_) => return type_name(value).to_owned(),
        Value::String(text) => Value::from(without_user(text)).to_string(),
        other => other.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
