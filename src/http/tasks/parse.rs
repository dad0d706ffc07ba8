//! What somebody sent as tasks, taken apart: one JSON object, an array of them, or one a line. Pure.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::types::TaskProblem;
use crate::json::{self, Flaw, JsonBounds, MAX_DEPTH, scan};

/// As many tasks as one request may bring.
pub const MOST_TASKS: usize = 10_000;
/// Problems beyond this many are counted, not told.
const MOST_PROBLEMS: usize = 100;

/// A longer name of a field is cut where it is told.
const MOST_FIELD_CHARS: usize = 200;

/// Where a task stood in what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskPlace {
    /// There was no other.
    Only,
    /// Line of the text, from 1.
    Line(usize),
    /// Element of the array, from 1.
    Item(usize),
}

impl TaskPlace {
    /// A problem at this place.
    pub fn problem(self, field: Option<&str>, message: impl Into<String>) -> TaskProblem {
        let (line, item) = match self {
            Self::Only => (None, None),
            Self::Line(line) => (Some(line), None),
            Self::Item(item) => (None, Some(item)),
        };
        let field = field.map(|field| field.chars().take(MOST_FIELD_CHARS).collect());
        TaskProblem { line, item, field, message: message.into() }
    }
}

/// One task as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct SentTask {
    pub place: TaskPlace,
    pub fields: Map<String, Value>,
}

/// Why nothing of a request can be taken.
#[derive(Clone, Debug, PartialEq)]
pub enum UnreadableTasks {
    /// Nothing was sent.
    Empty,
    /// More than [`MOST_TASKS`].
    TooMany(usize),
    Broken(Vec<TaskProblem>),
}

/// Takes a body apart. What begins with `[` is an array; what is one object as a whole is one task; anything else is read
/// line by line, empty lines skipped.
pub fn parse(body: &[u8]) -> Result<Vec<SentTask>, UnreadableTasks> {
    let text = json::text(body).map_err(|flaw| one(TaskPlace::Line(flaw.line), flaw))?;
    let trimmed = text.trim_start();
    if trimmed.is_empty() {
        return Err(UnreadableTasks::Empty);
    }
    if trimmed.starts_with('[') {
        return array(text);
    }
    if is_one(text) {
        scan(text, JsonBounds::default()).map_err(|flaw| one(TaskPlace::Only, flaw))?;
        let value = serde_json::from_str(text).map_err(|e| one(TaskPlace::Only, json::broken(&e)))?;
        return gathered([(TaskPlace::Only, object(value))].into_iter(), 1);
    }
    lines(text)
}

/// Whether it is one object and nothing else; nothing is built from it.
fn is_one(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Ok(_))) && text[values.byte_offset()..].trim().is_empty()
}

fn array(text: &str) -> Result<Vec<SentTask>, UnreadableTasks> {
    // The array is one level more.
    scan(text, JsonBounds { depth: MAX_DEPTH + 1, ..JsonBounds::default() }).map_err(|flaw| {
        // `[3].prompt`: the third element's, from 0.
        let place = flaw.field.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        match place.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest))) {
            Some((index, rest)) => {
                let field = rest.trim_start_matches('.').to_owned();
                one(TaskPlace::Item(index + 1), Flaw { field, ..flaw })
            }
            None => one(TaskPlace::Line(flaw.line), flaw),
        }
    })?;
    let items: Vec<Value> = serde_json::from_str(text).map_err(|e| one(TaskPlace::Line(e.line()), json::broken(&e)))?;
    let count = items.len();
    gathered(items.into_iter().enumerate().map(|(i, item)| (TaskPlace::Item(i + 1), object(item))), count)
}

fn lines(text: &str) -> Result<Vec<SentTask>, UnreadableTasks> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut left = JsonBounds::default();
    let mut read = |line: &str| {
        left.values -= scan(line, left)?;
        object(serde_json::from_str(line).map_err(|e| json::broken(&e))?)
    };
    let count = lines().count();
    gathered(lines().map(|(i, line)| (TaskPlace::Line(i + 1), read(line))), count)
}

/// A body of which one thing is told.
fn one(place: TaskPlace, flaw: Flaw) -> UnreadableTasks {
    UnreadableTasks::Broken(vec![of_flaw(place, flaw)])
}

fn of_flaw(place: TaskPlace, Flaw { line, field, message }: Flaw) -> TaskProblem {
    let field = (!field.is_empty()).then_some(field);
    // One object may have many lines.
    let place = if place == TaskPlace::Only && field.is_none() { TaskPlace::Line(line) } else { place };
    place.problem(field.as_deref(), message)
}

/// All of them, or what is wrong.
fn gathered(
    given: impl Iterator<Item = (TaskPlace, Result<Map<String, Value>, Flaw>)>,
    count: usize,
) -> Result<Vec<SentTask>, UnreadableTasks> {
    match count {
        0 => return Err(UnreadableTasks::Empty),
        1..=MOST_TASKS => {}
        _ => return Err(UnreadableTasks::TooMany(count)),
    }
    let (mut tasks, mut problems) = (Vec::with_capacity(count), TaskProblems::default());
    for (place, fields) in given {
        match fields {
            Ok(fields) => tasks.push(SentTask { place, fields }),
            Err(flaw) => problems.add(of_flaw(place, flaw)),
        }
    }
    problems.none_or(tasks).map_err(UnreadableTasks::Broken)
}

fn object(value: Value) -> Result<Map<String, Value>, Flaw> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => {
            let message = format!("is {}: write one JSON object for each task", kind(&other));
            Err(Flaw { line: 1, field: String::new(), message })
        }
    }
}

/// `a string`, for "is a string".
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The first of many problems, and how many more there are.
#[derive(Debug, Default)]
pub struct TaskProblems {
    first: Vec<TaskProblem>,
    more: usize,
}

impl TaskProblems {
    pub fn add(&mut self, problem: TaskProblem) {
        if self.first.len() < MOST_PROBLEMS { self.first.push(problem) } else { self.more += 1 }
    }

    /// What was read, if nothing is wrong.
    pub fn none_or<T>(mut self, read: T) -> Result<T, Vec<TaskProblem>> {
        if self.first.is_empty() {
            return Ok(read);
        }
        if self.more > 0 {
            self.first.push(TaskPlace::Only.problem(None, format!("and {} more problems", self.more)));
        }
        Err(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::tasks::check::{KnownNames, check},
        tasks::Payload,
    };

    fn places(body: &str) -> Result<Vec<TaskPlace>, UnreadableTasks> {
        parse(body.as_bytes()).map(|all| all.iter().map(|g| g.place).collect())
    }

    fn told(body: &[u8]) -> Vec<String> {
        match parse(body) {
            Err(UnreadableTasks::Broken(problems)) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_an_array_and_lines_are_told_apart() {
        use TaskPlace::{Item, Line, Only};
        let cases: [(&str, &[TaskPlace]); 7] = [
            (r#"{"prompt": "a"}"#, &[Only]),
            ("{\n  \"prompt\": \"a\"\n}\n", &[Only]),
            ("\u{feff}{}", &[Only]),
            ("{}\n{}\n", &[Line(1), Line(2)]),
            ("\n{}\r\n\r\n{}", &[Line(2), Line(4)]),
            ("[{}, {}]", &[Item(1), Item(2)]),
            (" \n[{}]", &[Item(1)]),
        ];
        for (body, expected) in cases {
            assert_eq!(places(body).as_deref(), Ok(expected), "{body:?}");
        }
    }

    #[test]
    fn nothing_is_not_a_task_and_neither_is_what_is_no_object() {
        for empty in ["", " \n\n", "[]"] {
            assert_eq!(places(empty), Err(UnreadableTasks::Empty), "{empty:?}");
        }
        for (body, expected) in [
            (
                "{}\n{\"prompt\": \n{}\n7",
                vec![
                    "line 2: is no JSON: EOF while parsing a value at column 11",
                    "line 4: is a number: write one JSON object for each task",
                ],
            ),
            ("[{}, \"a\"]", vec!["task 2: is a string: write one JSON object for each task"]),
            ("[{},\n {]", vec!["line 2: is no JSON: key must be a string at column 3"]),
            ("what shall we do?", vec!["line 1: is no JSON: expected value at column 1"]),
        ] {
            assert_eq!(told(body.as_bytes()), expected, "{body:?}");
        }
        assert_eq!(told(b"{}\n\xff"), ["line 2: is not UTF-8"]);
    }

    #[test]
    fn ten_thousand_are_taken_and_one_more_is_not() {
        assert_eq!(places(&"{}\n".repeat(MOST_TASKS)).map(|all| all.len()), Ok(MOST_TASKS));
        assert_eq!(places(&"{}\n".repeat(MOST_TASKS + 1)), Err(UnreadableTasks::TooMany(MOST_TASKS + 1)));
    }

    #[test]
    fn what_can_not_be_kept_is_told_by_place_and_field() {
        for (body, expected) in [
            ("{\"prompt\": \"a\", \"prompt\": \"b\"}", "prompt: stands twice in this object"),
            ("{}\n{\"labels\": {\"a\": \"1\", \"a\": \"2\"}}", "line 2: labels.a: stands twice"),
            ("[{}, {\"data\": {\"id\": 18446744073709551616}}]", "task 2: data.id: is 18446744073709551616"),
            ("{\"data\": -0}", "data: is -0, which can't be kept exactly"),
            ("{\n\"data\": [0.12345678901234567890]\n}", "data[0]: is 0.12345678901234567890"),
        ] {
            let said = told(body.as_bytes());
            assert!(said.len() == 1 && said[0].starts_with(expected), "{body}: {said:?}");
        }
        let deep = format!("{{\"data\": {}1{}}}", "[".repeat(124), "]".repeat(124));
        for body in [deep.clone(), format!("{deep}\n{deep}"), format!("[{deep}]")] {
            assert!(told(body.as_bytes())[0].contains("nested more than 64 levels"), "{:?}", told(body.as_bytes()));
        }
    }

    #[test]
    fn what_is_large_is_refused_before_anything_is_built_from_it() {
        let name = "x".repeat(10_000_000);
        let said = told(format!("{{\"{name}\": 1, \"{name}\": 1}}").as_bytes());
        assert!(said[0].len() < 400, "{}", said[0].len());
        let fields: String = (0..300_000).map(|i| format!("\"f{i}\":1,")).collect();
        let line = format!("{{{fields}\"prompt\":\"a\"}}");
        assert!(
            told(format!("{line}\n{line}").as_bytes())[0].contains("500000 are allowed")
                || told(format!("{line}\n{line}").as_bytes())[0].starts_with("line 2")
        );
    }

    #[test]
    fn of_many_problems_the_first_are_told() {
        let problems = told("x\n".repeat(150).as_bytes());
        assert_eq!((problems.len(), problems.last().unwrap().as_str()), (101, "and 50 more problems"));
    }

    #[test]
    fn any_bytes_are_tasks_that_can_be_kept_or_are_told_in_short() {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        let known = KnownNames { namespace: "default".into(), queues: names(&["default"]), experts: names(&["ada"]) };
        crate::testing::any_bytes("tasks", |bytes| {
            let problems = match parse(bytes).map(|given| check(given, &known, now)) {
                Err(UnreadableTasks::Broken(problems)) | Ok(Err(problems)) => problems,
                Err(other) => return format!("{other:?}"),
                Ok(Ok(tasks)) => {
                    for task in &tasks {
                        let text = serde_json::to_vec(&task.payload).unwrap();
                        let back: Payload = crate::json::read(&text).unwrap();
                        assert_eq!(back, task.payload);
                    }
                    return format!("{} tasks", tasks.len().min(5));
                }
            };
            assert!((1..=MOST_PROBLEMS + 1).contains(&problems.len()), "{}", problems.len());
            let all = problems.iter().map(ToString::to_string).collect::<String>();
            let most = 4_096 * problems.len();
            assert!(all.len() <= most, "{} bytes of problems", all.len());
            all.chars().filter(|c| c.is_ascii_alphabetic()).take(60).collect()
        });
    }
}
