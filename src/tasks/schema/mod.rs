//! JSON Schemas of tasks: which are taken, and whether an answer matches.
//!
//! Some kilobytes of schema can mean work without end: references that double at each level, patterns that backtrack. What a
//! schema can cost by itself is bounded when it comes in, what it costs on an answer before the answer is checked.

mod cost;
mod graph;

use std::time::Duration;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use cost::{BUDGET, steps};
use graph::Graph;

/// The largest schema, in bytes of JSON.
pub const MAX_BYTES: usize = 128 * 1024;
/// Compiled patterns take at most so many bytes each.
const PATTERN_BYTES: usize = 1 << 20;
/// Checking what is within the budget takes less than a second; on a machine that is very busy, more.
const WITHIN: Duration = Duration::from_secs(10);
/// Schemas refer and answers nest: a level takes some kilobytes of stack.
const STACK_BYTES: usize = 64 << 20;
/// A costly check tells only that something does not match: errors of all alternatives would fill the memory.
const EXPLAINED_STEPS: u64 = 20_000;
/// Errors repeat the answer.
const MESSAGE_CHARS: usize = 400;

/// Why a schema can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Within the schema: `.properties.name.pattern`; empty: as a whole.
    pub field: String,
    /// And how to mend it.
    pub why: String,
}

impl Unusable {
    fn new(field: &str, why: impl Into<String>) -> Self {
        Self { field: field.to_owned(), why: why.into() }
    }
}

/// Why an answer does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The schema can't be used, or to check this answer costs too much: another answer helps little.
    Schema(String),
    /// The answer is another than was asked for.
    Answer(String),
}

/// Whether a schema can be used. Blocks for some milliseconds.
pub fn check(schema: &Value) -> Result<(), Unusable> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(Unusable::new("", format!("has {bytes} bytes, {MAX_BYTES} are allowed")));
    }
    let graph = Graph::of(schema)?;
    on_large_stack(|| compile(schema, &graph).map(drop))
        .unwrap_or_else(|| Err(Unusable::new("", "could not be checked: this machine starts no more threads")))
}

/// Whether an answer matches a schema. It is checked on a thread of its own, within a budget.
pub async fn matches(schema: &Value, answer: Value) -> Result<Value, Mismatch> {
    let (done, ended) = tokio::sync::oneshot::channel();
    let schema = schema.clone();
    let checking = std::thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let _ = done.send(matching(&schema, &answer).map(|()| answer));
    });
    let too_long = || Mismatch::Schema(format!("to check the answer against the schema takes more than {WITHIN:?}"));
    match checking {
        Ok(_) => match tokio::time::timeout(WITHIN, ended).await {
            Ok(checked) => checked.unwrap_or_else(|_| Err(too_long())),
            Err(_) => Err(too_long()),
        },
        Err(error) => Err(Mismatch::Answer(format!("the answer could not be checked: {error}"))),
    }
}

fn matching(schema: &Value, answer: &Value) -> Result<(), Mismatch> {
    let unusable = |Unusable { field, why }: Unusable| Mismatch::Schema(format!("the task's schema{field} {why}"));
    let graph = Graph::of(schema).map_err(unusable)?;
    let validator = compile(schema, &graph).map_err(unusable)?;
    let steps = steps(&graph, answer);
    if steps > BUDGET {
        return Err(Mismatch::Schema(format!(
            "to check the answer against the task's schema takes more than {BUDGET} steps: let alternatives and references \
             meet less often"
        )));
    }
    if validator.is_valid(answer) {
        return Ok(());
    }
    if steps > EXPLAINED_STEPS {
        return Err(Mismatch::Answer("the answer does not match the schema".to_owned()));
    }
    Err(Mismatch::Answer(validator.validate(answer).err().map_or_else(String::new, |error| told(&error))))
}

fn told(error: &ValidationError<'_>) -> String {
    let place = error.instance_path().to_string();
    let place = if place.is_empty() { "its root" } else { &place };
    let text = format!("the answer does not match the schema at {place}: {error}");
    match text.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Patterns are matched in linear time; nothing is fetched.
fn compile(schema: &Value, graph: &Graph<'_>) -> Result<Validator, Unusable> {
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES);
    jsonschema::options().with_pattern_options(patterns).build(schema).map_err(|error| {
        let at = graph.patterns().find(|(_, pattern)| looks_around(pattern));
        match at {
            Some((field, pattern)) => Unusable::new(
                &field,
                format!(
                    "is {pattern:?}: patterns that look around or refer back can't be matched in linear time; write it without"
                ),
            ),
            None => Unusable::new(&path(&error), format!("is no JSON Schema that can be used: {}", short(&error))),
        }
    })
}

fn path(error: &ValidationError<'_>) -> String {
    error.instance_path().to_string().replace('/', ".")
}

fn short(error: &ValidationError<'_>) -> String {
    error.to_string().chars().take(MESSAGE_CHARS).collect()
}

/// Whether a pattern has what only a backtracking engine matches.
fn looks_around(pattern: &str) -> bool {
    let mut chars = pattern.chars().peekable();
    let mut rest = pattern;
    while let Some(c) = chars.next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => match chars.next() {
                Some('1'..='9' | 'k') => return true,
                Some(escaped) => rest = &rest[escaped.len_utf8()..],
                None => {}
            },
            '(' if ["?=", "?!", "?<=", "?<!"].iter().any(|begin| rest.starts_with(begin)) => return true,
            _ => {}
        }
    }
    false
}

/// Does something that may go deep. `None`: the system starts no thread.
fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let started = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        started.ok()?.join().ok()
    })
}

#[cfg(test)]
mod tests;
