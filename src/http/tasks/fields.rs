//! Takes an object apart field by field, and remembers everything that is wrong with it.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    parse::{TaskPlace, kind},
    types::TaskProblem,
};
use crate::{base::closest, http::TimeOrDuration};

/// Unknown fields of a task that are told one by one.
const MOST_UNKNOWN: usize = 5;

/// The fields of one task that nobody took yet.
pub struct Fields {
    place: TaskPlace,
    rest: Map<String, Value>,
    problems: Vec<TaskProblem>,
}

impl Fields {
    /// A field that is `null` is as good as absent.
    pub fn new(place: TaskPlace, mut fields: Map<String, Value>) -> Self {
        fields.retain(|_, value| !value.is_null());
        Self { place, rest: fields, problems: Vec::new() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.rest.contains_key(name)
    }

    pub fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push(self.place.problem(Some(field), message));
    }

    pub fn wrong_kind(&mut self, field: &str, found: &Value, expected: &str) {
        self.problem(field, format!("is {}: write {expected}", kind(found)));
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.remove(name)
    }

    pub fn string(&mut self, name: &str) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong_kind(name, &other, "a text");
                None
            }
        }
    }

    /// A short text on one line: a name.
    pub fn text(&mut self, name: &str, most: usize) -> Option<String> {
        let text = self.string(name)?;
        let count = text.chars().count();
        if text.trim().is_empty() {
            self.problem(name, "is empty: leave it out, or give it a value");
        } else if count > most {
            self.problem(name, format!("has {count} characters, {most} are allowed"));
        } else if text.chars().any(char::is_control) {
            self.problem(name, "has a line break or another control character");
        }
        Some(text)
    }

    pub fn integer(&mut self, name: &str, least: i64, most: i64) -> Option<i64> {
        let value = self.take(name)?;
        match value.as_i64() {
            Some(number) if (least..=most).contains(&number) => Some(number),
            _ if value.is_number() => {
                self.problem(name, format!("is {value}: write a whole number from {least} to {most}"));
                None
            }
            _ => {
                self.wrong_kind(name, &value, &format!("a whole number from {least} to {most}"));
                None
            }
        }
    }

    /// A time; a duration is one from now.
    pub fn time(&mut self, name: &str, now: Timestamp) -> Option<Timestamp> {
        let text = self.string(name)?;
        match text.parse::<TimeOrDuration>().map(|when| when.ahead(now)) {
            Ok(Some(at)) => return Some(at),
            Ok(None) => self.problem(name, format!("{text:?} is out of range: nothing lasts so long")),
            Err(why) => self.problem(name, why),
        }
        None
    }

    pub fn list(&mut self, name: &str) -> Option<Vec<Value>> {
        match self.take(name)? {
            Value::Array(items) => Some(items),
            other => {
                self.wrong_kind(name, &other, "a list");
                None
            }
        }
    }

    pub fn object(&mut self, name: &str) -> Option<Map<String, Value>> {
        match self.take(name)? {
            Value::Object(fields) => Some(fields),
            other => {
                self.wrong_kind(name, &other, "an object");
                None
            }
        }
    }

    /// What was wrong; what nobody took is unknown.
    pub fn finish(mut self, known: &[&str]) -> Vec<TaskProblem> {
        let unknown = std::mem::take(&mut self.rest);
        let more = unknown.len().saturating_sub(MOST_UNKNOWN);
        for (name, _) in unknown.into_iter().take(MOST_UNKNOWN) {
            let hint = match closest(&name, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("a task has {}", known.join(", ")),
            };
            self.problem(&name, format!("unknown field: {hint}"));
        }
        if more > 0 {
            self.problems.push(self.place.problem(None, format!("and {more} more fields that a task does not have")));
        }
        self.problems
    }
}
