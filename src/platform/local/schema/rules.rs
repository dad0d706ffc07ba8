//! CEL rules (`x-kubernetes-validations`) at any depth of a schema.
//!
//! Rules use standard CEL only: Kubernetes' own functions, and rules about changes (`oldSelf`), are not known here, and a
//! test keeps them out of the CRDs.

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use serde_json::Value;

use super::{SchemaFault, walk};
use crate::platform::local::path::FieldPath;

const KEYWORD: &str = "x-kubernetes-validations";

/// The programs of a schema, by their text.
pub struct Rules {
    structural: Value,
    programs: HashMap<String, Program>,
}

impl Rules {
    /// Compiles every rule of a schema.
    pub fn compile(structural: &Value) -> Result<Self, String> {
        let mut programs = HashMap::new();
        collect(structural, &mut programs)?;
        Ok(Self { structural: structural.clone(), programs })
    }

    /// Evaluates every rule whose value is there.
    pub fn check(&self, object: &Value, faults: &mut Vec<SchemaFault>) {
        if self.programs.is_empty() {
            return;
        }
        let mut context = Context::default();
        walk(object, &self.structural, &FieldPath::default(), &mut |value, schema, path| {
            for rule in rules_of(schema) {
                if let Some(message) = self.broken(rule, value, &mut context) {
                    let field = rule.get("fieldPath").and_then(Value::as_str).unwrap_or("");
                    faults.push(SchemaFault::new(path.join_dotted(field), message));
                }
            }
        });
    }

    /// The rule's message, when it does not hold.
    fn broken(&self, rule: &Value, value: &Value, context: &mut Context<'_, '_>) -> Option<String> {
        let text = rule.get("rule").and_then(Value::as_str)?;
        let program = self.programs.get(text)?;
        context.add_variable_from_value("self", to_cel(value));
        match program.execute(context) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => Some(
                rule.get("message")
                    .and_then(Value::as_str)
                    .map_or_else(|| format!("failed rule: {text}"), str::to_owned),
            ),
            Ok(other) => Some(format!("the rule {text} gave {other:?} instead of a bool")),
            Err(error) => Some(format!("the rule {text} can't be evaluated: {error}")),
        }
    }
}

fn rules_of(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get(KEYWORD).and_then(Value::as_array).into_iter().flatten()
}

fn collect(schema: &Value, programs: &mut HashMap<String, Program>) -> Result<(), String> {
    for rule in rules_of(schema) {
        let text =
            rule.get("rule").and_then(Value::as_str).ok_or_else(|| format!("{KEYWORD} without a rule: {rule}"))?;
        let program = Program::compile(text).map_err(|error| format!("rule {text}: {error}"))?;
        programs.insert(text.to_owned(), program);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let deeper = properties
        .into_iter()
        .flat_map(|properties| properties.values())
        .chain(schema.get("items"))
        .chain(schema.get("additionalProperties"));
    for schema in deeper {
        collect(schema, programs)?;
    }
    Ok(())
}

/// Whole numbers as int: cel's own conversion makes every positive one uint, which compares with no literal.
fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(yes) => Cel::Bool(*yes),
        Value::Number(number) => number
            .as_i64()
            .map(Cel::Int)
            .or_else(|| number.as_u64().map(Cel::UInt))
            .unwrap_or_else(|| Cel::Float(number.as_f64().unwrap_or(f64::NAN))),
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => Cel::from(items.iter().map(to_cel).collect::<Vec<_>>()),
        Value::Object(fields) => {
            Cel::from(fields.iter().map(|(key, value)| (key.clone(), to_cel(value))).collect::<HashMap<String, Cel>>())
        }
    }
}
