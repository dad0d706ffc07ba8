//! What somebody sent as tasks, taken apart: one JSON object, an array of them, or one a line. Pure.

use serde_json::{Map, Value};

use super::types::TaskProblem;

/// As many tasks as one request may bring.
pub const MOST_TASKS: usize = 10_000;
/// Problems beyond this many are counted, not told.
const MOST_PROBLEMS: usize = 100;

/// Where a task stood in what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There was no other.
    Only,
    /// Line of the text, from 1.
    Line(usize),
    /// Element of the array, from 1.
    Item(usize),
}

impl Place {
    /// A problem at this place.
    pub fn problem(self, field: Option<&str>, message: impl Into<String>) -> TaskProblem {
        let (line, item) = match self {
            Self::Only => (None, None),
            Self::Line(line) => (Some(line), None),
            Self::Item(item) => (None, Some(item)),
        };
        TaskProblem { line, item, field: field.map(str::to_owned), message: message.into() }
    }
}

/// One task as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    pub place: Place,
    pub fields: Map<String, Value>,
}

/// Why nothing of a request can be taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Unreadable {
    /// Nothing was sent.
    Empty,
    /// More than [`MOST_TASKS`].
    TooMany(usize),
    Broken(Vec<TaskProblem>),
}

/// Takes a body apart. What begins with `[` is an array; what is one object as a whole is one task; anything else is read
/// line by line, empty lines skipped.
pub fn parse(body: &[u8]) -> Result<Vec<Given>, Unreadable> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let line = 1 + body[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Unreadable::Broken(vec![Place::Line(line).problem(None, "is not UTF-8")])
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let trimmed = text.trim_start();
    if trimmed.is_empty() {
        return Err(Unreadable::Empty);
    }
    if trimmed.starts_with('[') {
        return array(text);
    }
    if let Ok(fields) = serde_json::from_str(text) {
        return Ok(vec![Given { place: Place::Only, fields }]);
    }
    lines(text)
}

fn array(text: &str) -> Result<Vec<Given>, Unreadable> {
    let items: Vec<Value> = serde_json::from_str(text)
        .map_err(|e| Unreadable::Broken(vec![Place::Line(e.line()).problem(None, broken(&e))]))?;
    let count = items.len();
    gathered(items.into_iter().enumerate().map(|(i, item)| (Place::Item(i + 1), object(item))), count)
}

fn lines(text: &str) -> Result<Vec<Given>, Unreadable> {
    let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |line: &str| serde_json::from_str::<Value>(line).map_err(|e| broken(&e)).and_then(object);
    gathered(lines().map(|(i, line)| (Place::Line(i + 1), read(line))), lines().count())
}

/// All of them, or what is wrong.
fn gathered(
    given: impl Iterator<Item = (Place, Result<Map<String, Value>, String>)>,
    count: usize,
) -> Result<Vec<Given>, Unreadable> {
    match count {
        0 => return Err(Unreadable::Empty),
        1..=MOST_TASKS => {}
        _ => return Err(Unreadable::TooMany(count)),
    }
    let (mut tasks, mut problems) = (Vec::with_capacity(count), Vec::new());
    for (place, fields) in given {
        match fields {
            Ok(fields) => tasks.push(Given { place, fields }),
            Err(message) => problems.push(place.problem(None, message)),
        }
    }
    if problems.is_empty() { Ok(tasks) } else { Err(Unreadable::Broken(at_most(problems))) }
}

fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(format!("is {}: write one JSON object for each task", kind(&other))),
    }
}

/// What is broken, with the column in place of serde's line, which is that of the text that it was given.
fn broken(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    format!("is no JSON: {what} at column {}", error.column())
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
pub fn at_most(mut problems: Vec<TaskProblem>) -> Vec<TaskProblem> {
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    if more > 0 {
        problems.truncate(MOST_PROBLEMS);
        problems.push(Place::Only.problem(None, format!("and {more} more problems")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(body: &str) -> Result<Vec<Place>, Unreadable> {
        parse(body.as_bytes()).map(|all| all.iter().map(|g| g.place).collect())
    }

    fn told(body: &[u8]) -> Vec<String> {
        match parse(body) {
            Err(Unreadable::Broken(problems)) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_object_an_array_and_lines_are_told_apart() {
        use Place::{Item, Line, Only};
        let cases: [(&str, &[Place]); 7] = [
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
            assert_eq!(places(empty), Err(Unreadable::Empty), "{empty:?}");
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
        assert_eq!(places(&"{}\n".repeat(MOST_TASKS + 1)), Err(Unreadable::TooMany(MOST_TASKS + 1)));
    }

    #[test]
    fn of_many_problems_the_first_are_told() {
        let problems = told("x\n".repeat(150).as_bytes());
        assert_eq!((problems.len(), problems.last().unwrap().as_str()), (101, "and 50 more problems"));
    }
}
