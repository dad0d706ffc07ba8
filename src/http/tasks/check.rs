//! Whether what was sent are tasks that somebody could do: each problem by line and field. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{
    fields::Fields,
    parse::{SentTask, TaskProblems},
    types::TaskProblem,
};
use crate::{
    api::Kind,
    store::DeclaredRow,
    tasks::{self, Message, NewTask, Payload, schema::Unusable},
};

/// The largest payload, in bytes of JSON.
pub const MOST_PAYLOAD_BYTES: usize = 1024 * 1024;
/// Different schemas in one request.
const MOST_SCHEMAS: usize = 100;
const DEFAULT_QUEUE: &str = "default";
/// The fields of a task as it is sent.
pub const NAMES: [&str; 16] = [
    "queue",
    "domain",
    "role",
    "prompt",
    "messages",
    "input",
    "data",
    "schema",
    "maxTokens",
    "model",
    "priority",
    "runAfter",
    "deadline",
    "key",
    "labels",
    "expert",
];
const CONTENTS: [&str; 4] = ["prompt", "messages", "input", "data"];
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// What there is to refer to, in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownNames {
    pub namespace: String,
    pub queues: BTreeSet<String>,
    pub experts: BTreeSet<String>,
}

impl KnownNames {
    /// Of what is declared.
    pub fn of(namespace: &str, queues: &[DeclaredRow], experts: &[DeclaredRow]) -> Self {
        let names = |rows: &[DeclaredRow]| {
            rows.iter().filter(|row| row.namespace == namespace).map(|row| row.name.clone()).collect()
        };
        Self { namespace: namespace.to_owned(), queues: names(queues), experts: names(experts) }
    }
}

/// All of them as tasks, or everything that is wrong with them.
pub fn check(given: Vec<SentTask>, known: &KnownNames, now: Timestamp) -> Result<Vec<NewTask>, Vec<TaskProblem>> {
    let (mut tasks, mut problems) = (Vec::with_capacity(given.len()), TaskProblems::default());
    let mut good_schemas = Schemas::default();
    for SentTask { place, fields } in given {
        let mut fields = Fields::new(place, fields);
        let task = task(&mut fields, known, &mut good_schemas, now);
        match fields.finish(&NAMES) {
            wrong if wrong.is_empty() => tasks.push(task),
            wrong => wrong.into_iter().for_each(|problem| problems.add(problem)),
        }
    }
    problems.none_or(tasks)
}

fn task(fields: &mut Fields, known: &KnownNames, good_schemas: &mut Schemas, now: Timestamp) -> NewTask {
    let task = NewTask {
        namespace: known.namespace.clone(),
        queue: fields.text("queue", 63).unwrap_or_else(|| DEFAULT_QUEUE.to_owned()),
        domain: fields.text("domain", 100).unwrap_or_default(),
        role: fields.text("role", 100).unwrap_or_default(),
        model: fields.text("model", 200),
        priority: i32::try_from(fields.integer("priority", -100, 100).unwrap_or(0)).unwrap_or(0),
        run_after: fields.time("runAfter", now),
        deadline: fields.time("deadline", now),
        key: fields.text("key", 200),
        labels: labels(fields),
        expert: fields.text("expert", 63),
        payload: payload(fields, good_schemas),
    };
    refers(fields, "queue", Kind::TaskQueue, &task.queue, &known.queues, &known.namespace);
    if let Some(expert) = &task.expert {
        refers(fields, "expert", Kind::Expert, expert, &known.experts, &known.namespace);
    }
    if let Some(deadline) = task.deadline {
        if deadline <= now {
            fields.problem("deadline", format!("{deadline} is over"));
        } else if task.run_after.is_some_and(|after| after >= deadline) {
            fields.problem("deadline", "is not after runAfter: it would never run");
        }
    }
    task
}

fn refers(fields: &mut Fields, field: &str, kind: Kind, name: &str, known: &BTreeSet<String>, namespace: &str) {
    if name.trim().is_empty() || known.contains(name) {
        return;
    }
    let there = match known.iter().take(10).map(String::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => format!("none is declared there: `ostler get {}` lists them", kind.singular()),
        some => format!("there are {}", some.join(", ")),
    };
    fields.problem(field, format!("there is no {kind} {name:?} in namespace {namespace}; {there}"));
}

fn payload(fields: &mut Fields, good_schemas: &mut Schemas) -> Payload {
    let given: Vec<&str> = CONTENTS.into_iter().filter(|name| fields.has(name)).collect();
    match given.as_slice() {
        [_] => {}
        [] => fields.problem("prompt", "is required: say what is to be done (or give messages, input or data)"),
        [_, second, ..] => fields.problem(second, format!("cannot be combined with {}: set one of them", given[0])),
    }
    let payload = Payload {
        prompt: prompt(fields),
        messages: messages(fields),
        input: input(fields),
        data: fields.take("data"),
        schema: schema(fields, good_schemas),
        max_tokens: fields.integer("maxTokens", 1, 1_000_000).and_then(|n| i32::try_from(n).ok()),
    };
    let bytes = serde_json::to_vec(&payload).map_or(0, |bytes| bytes.len());
    if bytes > MOST_PAYLOAD_BYTES {
        let field = given.first().copied().unwrap_or("schema");
        fields.problem(
            field,
            format!("has {bytes} bytes, {MOST_PAYLOAD_BYTES} are allowed: store it elsewhere and give its address"),
        );
    }
    payload
}

fn prompt(fields: &mut Fields) -> Option<String> {
    let prompt = fields.string("prompt")?;
    if prompt.trim().is_empty() {
        fields.problem("prompt", "is empty: say what is to be done");
    }
    Some(prompt)
}

fn messages(fields: &mut Fields) -> Option<Vec<Message>> {
    let list = fields.list("messages")?;
    if list.is_empty() {
        fields.problem("messages", "is empty: give at least one");
    }
    let mut messages = Vec::with_capacity(list.len());
    for (i, item) in list.into_iter().enumerate() {
        let field = format!("messages[{i}]");
        // A list would be taken for an object, field by field.
        let read = match item {
            Value::Object(_) => serde_json::from_value::<Message>(item).map_err(|error| error.to_string()),
            other => Err(super::parse::kind(&other).to_owned()),
        };
        match read {
            Err(error) => fields
                .problem(&field, format!("is no message: {error}; write {{\"role\": \"user\", \"content\": \"…\"}}")),
            Ok(message) => {
                if !ROLES.contains(&message.role.as_str()) {
                    fields.problem(
                        &format!("{field}.role"),
                        format!("is {:?}: write one of {}", message.role, ROLES.join(", ")),
                    );
                }
                if message.content.trim().is_empty() {
                    fields.problem(&format!("{field}.content"), "is empty");
                }
                messages.push(message);
            }
        }
    }
    Some(messages)
}

fn input(fields: &mut Fields) -> Option<Vec<String>> {
    let list = fields.list("input")?;
    if list.is_empty() {
        fields.problem("input", "is empty: give at least one text to embed");
    }
    let mut texts = Vec::with_capacity(list.len());
    for (i, item) in list.into_iter().enumerate() {
        match item {
            Value::String(text) if !text.trim().is_empty() => texts.push(text),
            Value::String(_) => fields.problem(&format!("input[{i}]"), "is empty"),
            other => fields.wrong_kind(&format!("input[{i}]"), &other, "a text"),
        }
    }
    Some(texts)
}

/// The same schema stands in many lines: it is looked at once.
#[derive(Default)]
struct Schemas(Vec<Value>);

fn schema(fields: &mut Fields, Schemas(good): &mut Schemas) -> Option<Value> {
    let schema = fields.take("schema")?;
    if good.contains(&schema) {
        return Some(schema);
    }
    if !schema.is_object() {
        fields.wrong_kind("schema", &schema, "a JSON Schema as an object");
    } else if good.len() == MOST_SCHEMAS {
        fields.problem(
            "schema",
            format!("is the {}th of this request, {MOST_SCHEMAS} are allowed: send several", MOST_SCHEMAS + 1),
        );
    } else if let Err(Unusable { field, why }) = tasks::schema::check(&schema) {
        fields.problem(&format!("schema{field}"), why);
    } else {
        good.push(schema.clone());
    }
    Some(schema)
}

fn labels(fields: &mut Fields) -> BTreeMap<String, String> {
    let given: Map<String, Value> = fields.object("labels").unwrap_or_default();
    if given.len() > 32 {
        fields.problem("labels", format!("has {}, 32 are allowed", given.len()));
    }
    let mut labels = BTreeMap::new();
    for (name, value) in given {
        let field = format!("labels.{name}");
        let odd =
            |text: &str| text.chars().count() > 63 || text.contains(['=', ',']) || text.chars().any(char::is_control);
        match value {
            _ if name.is_empty() || odd(&name) => {
                fields.problem(&field, "is no label's name: 1 to 63 characters, without `=` and `,`");
            }
            Value::String(text) if odd(&text) => {
                fields.problem(&field, "is no label's value: at most 63 characters, without `=` and `,`");
            }
            Value::String(text) => {
                labels.insert(name, text);
            }
            other => fields.wrong_kind(&field, &other, "a text"),
        }
    }
    labels
}

#[cfg(test)]
mod tests;
