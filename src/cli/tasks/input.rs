//! Tasks as files and standard input have them, made into chunks of JSON lines that remember where each came from. Pure.

use serde_json::{Map, Value, value::RawValue};

use crate::{
    http::{MOST_TASKS, TaskProblem},
    json,
};

/// A request stays well below what the server takes.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// One task and where it stood.
#[derive(Clone, Debug, PartialEq)]
pub struct InputTask {
    /// `line 7`, or `task 7` of an array; empty for the only one.
    pub place: String,
    pub json: String,
}

/// Takes a text apart: an array, one object, or one object a line. What is broken is left for the server to name.
pub fn entries(text: &str, defaults: &Map<String, Value>) -> Vec<InputTask> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text)
    {
        let entry = |(i, item): (usize, &&RawValue)| InputTask {
            place: format!("task {}", i + 1),
            json: with(&one_line(item), defaults),
        };
        return items.iter().enumerate().map(entry).collect();
    }
    if text.trim_start().starts_with('{')
        && let Ok(only) = serde_json::from_str::<&RawValue>(text)
    {
        return vec![InputTask { place: String::new(), json: with(&one_line(only), defaults) }];
    }
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| InputTask { place: format!("line {}", i + 1), json: with(line.trim(), defaults) })
        .collect()
}

/// As it was written, in one line: strings have no line breaks.
fn one_line(value: &RawValue) -> String {
    value.get().replace(['\n', '\r'], " ")
}

/// With the defaults for what the task leaves out.
fn with(line: &str, defaults: &Map<String, Value>) -> String {
    // What can't be kept would be lost here, and is for the server to name.
    if defaults.is_empty() || json::scan(line, json::JsonBounds::default()).is_err() {
        return line.to_owned();
    }
    match serde_json::from_str::<Map<String, Value>>(line) {
        Ok(task) => {
            let mut whole = defaults.clone();
            whole.extend(task);
            Value::Object(whole).to_string()
        }
        Err(_) => line.to_owned(),
    }
}

/// In requests: as many as one may bring, and not too large.
pub fn chunks(entries: &[InputTask]) -> Vec<&[InputTask]> {
    let (mut chunks, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, entry) in entries.iter().enumerate() {
        if i > start && (i - start == MOST_TASKS || bytes + entry.json.len() > MOST_BYTES) {
            chunks.push(&entries[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += entry.json.len() + 1;
    }
    if start < entries.len() {
        chunks.push(&entries[start..]);
    }
    chunks
}

/// The body of a request.
pub fn body(chunk: &[InputTask]) -> String {
    let mut body = String::with_capacity(chunk.iter().map(|e| e.json.len() + 1).sum());
    for entry in chunk {
        body.push_str(&entry.json);
        body.push('\n');
    }
    body
}

/// `tasks.jsonl: line 7: prompt: is empty`, with the place in the file instead of that in the request.
pub fn located(problem: &TaskProblem, chunk: &[InputTask], file: &str) -> String {
    // One object alone is told without a line.
    let at = problem.line.or(problem.item).or((chunk.len() == 1).then_some(1));
    let place = at.and_then(|line| chunk.get(line - 1)).map(|entry| entry.place.as_str()).unwrap_or_default();
    let parts = [file, place, problem.field.as_deref().unwrap_or_default(), &problem.message];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(text: &str) -> Vec<String> {
        entries(text, &Map::new()).into_iter().map(|e| e.place).collect()
    }

    #[test]
    fn a_task_remembers_where_it_stood() {
        assert_eq!(places("{}\n\n{}\r\nbroken"), ["line 1", "line 3", "line 4"]);
        assert_eq!(places("[{}, {\n}]"), ["task 1", "task 2"]);
        assert_eq!(places("{\n \"prompt\": \"a\"\n}"), [""]);
        assert_eq!(places("[{},"), ["line 1"], "a broken array is one broken line");
        assert!(places(" \n").is_empty());
        assert_eq!(entries("{\n \"prompt\": \"a\"\n}", &Map::new())[0].json, r#"{  "prompt": "a" }"#);
    }

    #[test]
    fn defaults_are_for_what_a_task_leaves_out() {
        let defaults = json!({"queue": "nightly", "priority": 5}).as_object().unwrap().clone();
        let all = entries("{\"prompt\": \"a\", \"priority\": 9}\nbroken", &defaults);
        let first: Value = serde_json::from_str(&all[0].json).unwrap();
        assert_eq!(first, json!({"queue": "nightly", "priority": 9, "prompt": "a"}));
        assert_eq!(all[1].json, "broken");
    }

    #[test]
    fn what_can_not_be_kept_is_sent_as_it_was_written() {
        let defaults = json!({"queue": "nightly"}).as_object().unwrap().clone();
        for task in [r#"{"prompt": "a", "prompt": "b"}"#, r#"{"data": 18446744073709551616}"#] {
            for text in [task.to_owned(), format!("[{task}]"), format!("{task}\n{{}}")] {
                assert_eq!(entries(&text, &defaults)[0].json, task, "{text}");
            }
        }
    }

    #[test]
    fn chunks_are_as_many_as_a_request_may_bring_and_lose_nothing() {
        let entry = |bytes: usize| InputTask { place: String::new(), json: "x".repeat(bytes) };
        for (sizes, expected) in [
            (vec![1; MOST_TASKS * 2 + 1], vec![MOST_TASKS, MOST_TASKS, 1]),
            (vec![MOST_BYTES / 2; 3], vec![1, 1, 1]),
            (vec![MOST_BYTES * 2, 1], vec![1, 1]),
            (vec![], vec![]),
        ] {
            let all: Vec<InputTask> = sizes.into_iter().map(entry).collect();
            assert_eq!(chunks(&all).iter().map(|c| c.len()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_problem_is_told_at_its_place_in_the_file() {
        let all = entries("{}\n\n{\"prompt\": \"\"}", &Map::new());
        let problem = |line: Option<usize>, field: Option<&str>| TaskProblem {
            line,
            item: None,
            field: field.map(str::to_owned),
            message: "is empty".into(),
        };
        assert_eq!(located(&problem(Some(2), Some("prompt")), &all, "a.jsonl"), "a.jsonl: line 3: prompt: is empty");
        assert_eq!(located(&problem(None, None), &all, "a.jsonl"), "a.jsonl: is empty");
        assert_eq!(located(&problem(None, Some("prompt")), &all[..1], ""), "line 1: prompt: is empty");
    }
}
