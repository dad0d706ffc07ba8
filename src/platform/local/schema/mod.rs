//! What the API server does with a custom resource before it stores it, for a folder: unknown fields refused, nulls
//! dropped, defaults filled in, the CRD's own schema and CEL rules checked.
//!
//! jsonschema checks what JSON Schema has (types, bounds, patterns, enums, required); [`structural`] does what it has not
//! (unknown fields, nulls, defaults), [`lists`] Kubernetes' list types, [`rules`] the CEL rules. tests/it/validation.rs
//! holds all of it against a real API server.

mod lists;
mod rules;
mod structural;
mod wording;

use serde_json::{Map, Value, json};

use super::{
    metadata::qualified_name,
    path::{FieldPath, Segment},
};
use rules::Rules;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFault {
    pub field: FieldPath,
    /// What is wrong, and what to do about it.
    pub message: String,
}

impl SchemaFault {
    pub fn new(field: FieldPath, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// A schema that can't be used: a defect of the program, which tests find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schema of {kind} can't be used: {message}")]
pub struct SchemaError {
    pub kind: String,
    pub message: String,
}

/// A kind's schema, ready to admit documents.
pub struct Schema {
    /// OpenAPI v3 as the CRD has it.
    structural: Value,
    validator: jsonschema::Validator,
    rules: Rules,
    /// Whether messages may show values: not those of a Secret.
    shows_values: bool,
}

impl Schema {
    /// `structural` is the `openAPIV3Schema` of a CRD's version.
    pub fn compile(kind: &str, structural: Value) -> Result<Self, SchemaError> {
        let failed = |message: String| SchemaError { kind: kind.to_owned(), message };
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft4)
            .should_validate_formats(true)
            .offline()
            .build(&as_json_schema(&structural))
            .map_err(|error| failed(error.to_string()))?;
        let rules = Rules::compile(&structural).map_err(failed)?;
        Ok(Self { structural, validator, rules, shows_values: true })
    }

    /// Keeps values out of messages.
    pub fn hiding_values(mut self) -> Self {
        self.shows_values = false;
        self
    }

    /// Drops nulls, fills in defaults, and tells everything that the API server would refuse with
    /// `fieldValidation=Strict`. Metadata is not looked at.
    pub fn admit(&self, object: &mut Value) -> Vec<SchemaFault> {
        let mut faults = structural::unknown_fields(object, &self.structural);
        structural::drop_nulls(object, &self.structural);
        structural::fill_defaults(object, &self.structural);
        let errors = self.validator.iter_errors(object);
        faults.extend(errors.map(|error| wording::fault(&error, self.shows_values, &self.structural)));
        lists::check(object, &self.structural, &FieldPath::default(), &mut faults);
        self.check_selectors(object, &mut faults);
        // As the API server: rules expect values of the right types.
        if faults.is_empty() {
            self.rules.check(object, &mut faults);
        }
        faults
    }

    /// Keys of `matchLabels` must be labels, or nothing is ever selected. A CRD can't say so: keys have no schema there, and no bound
    /// for which the API server would take a rule.
    fn check_selectors(&self, object: &Value, faults: &mut Vec<SchemaFault>) {
        walk(object, &self.structural, &FieldPath::default(), &mut |value, _, path| {
            if path.0.last() != Some(&Segment::Key("matchLabels".to_owned())) {
                return;
            }
            for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                faults.extend(qualified_name(key).err().map(|why| SchemaFault::new(path.key(key), why)));
            }
        });
    }

    /// Every field that the schema does not have, of a part whose values nobody looks at.
    pub fn unknown_fields_of(&self, part: &str, object: &Value) -> Vec<SchemaFault> {
        let mut faults = structural::unknown_fields(object, &self.structural);
        faults.retain(|fault| fault.field.0.first() == Some(&Segment::Key(part.to_owned())));
        faults
    }

    /// Fills in defaults only: of an object that was admitted before.
    pub fn fill_defaults(&self, object: &mut Value) {
        structural::fill_defaults(object, &self.structural);
    }
}

/// OpenAPI's dialect as JSON Schema: Kubernetes' int-or-string said in its words, and nothing that only others read.
fn as_json_schema(structural: &Value) -> Value {
    let Value::Object(from) = structural else {
        return structural.clone();
    };
    let mut to = Map::new();
    for (key, value) in from {
        let value = match (key.as_str(), value) {
            ("default" | "description" | "example", _) => continue,
            (key, _) if key.starts_with("x-kubernetes-") => continue,
            ("properties", Value::Object(properties)) => properties
                .iter()
                .map(|(name, schema)| (name.clone(), as_json_schema(schema)))
                .collect::<Map<_, _>>()
                .into(),
            ("items" | "additionalProperties" | "not", schema) => as_json_schema(schema),
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => {
                all.iter().map(as_json_schema).collect::<Vec<_>>().into()
            }
            (_, value) => value.clone(),
        };
        to.insert(key.clone(), value);
    }
    if from.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
        to.insert("type".to_owned(), json!(["integer", "string"]));
    }
    Value::Object(to)
}

/// Calls `visit` with each value that the schema knows, its schema and its path: outermost first.
fn walk<'a>(
    value: &'a Value,
    schema: &'a Value,
    path: &FieldPath,
    visit: &mut dyn FnMut(&'a Value, &'a Value, &FieldPath),
) {
    visit(value, schema, path);
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                if let Some(schema) = schema_of_field(schema, key) {
                    walk(field, schema, &path.key(key), visit);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    walk(item, schema, &path.index(at), visit);
                }
            }
        }
        _ => {}
    }
}

/// The schema of the field at a path.
fn schema_at<'a>(schema: &'a Value, path: &FieldPath) -> Option<&'a Value> {
    path.0.iter().try_fold(schema, |schema, segment| match segment {
        Segment::Key(key) => schema_of_field(schema, key),
        Segment::Index(_) => schema.get("items"),
    })
}

fn schema_of_field<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema
        .get("properties")
        .and_then(|properties| properties.get(key))
        .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()))
}

fn path_of(pointer: &jsonschema::paths::Location) -> FieldPath {
    use jsonschema::paths::LocationSegment;
    FieldPath(
        pointer
            .segments()
            .map(|segment| match segment {
                LocationSegment::Property(key) => Segment::Key(key.into_owned()),
                LocationSegment::Index(index) => Segment::Index(index),
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests;
