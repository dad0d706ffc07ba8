use serde_json::json;

use super::*;
use crate::http::tasks::parse::{TaskPlace, parse};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn known() -> KnownNames {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    KnownNames { namespace: "team".into(), queues: names(&["default", "nightly"]), experts: names(&["igor"]) }
}

fn checked(task: Value) -> Result<NewTask, Vec<String>> {
    let fields = task.as_object().unwrap().clone();
    check(vec![SentTask { place: TaskPlace::Only, fields }], &known(), now())
        .map(|mut tasks| tasks.remove(0))
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_prompt_is_enough() {
    let task = checked(json!({"prompt": "Say hello."})).unwrap();
    assert_eq!((task.namespace.as_str(), task.queue.as_str(), task.priority), ("team", "default", 0));
    assert_eq!(task.payload, Payload { prompt: Some("Say hello.".into()), ..Payload::default() });
    assert_eq!(checked(json!({"prompt": "a", "model": null, "key": null})).unwrap().model, None);
}

#[test]
fn every_field_is_taken() {
    let task = checked(json!({
        "queue": "nightly", "domain": "backend", "role": "engineer", "prompt": "p", "schema": {"type": "object"},
        "maxTokens": 9, "model": "small", "priority": -100, "runAfter": "2026-03-02T00:00:00Z",
        "deadline": "2026-03-03T00:00:00Z", "key": "k", "labels": {"a": "b"}, "expert": "igor",
    }))
    .unwrap();
    let written = serde_json::to_value(&task).unwrap();
    assert_eq!(
        written,
        json!({
            "namespace": "team", "queue": "nightly", "domain": "backend", "role": "engineer",
            "payload": {"prompt": "p", "schema": {"type": "object"}, "maxTokens": 9},
            "model": "small", "priority": -100, "runAfter": "2026-03-02T00:00:00Z", "deadline": "2026-03-03T00:00:00Z",
            "key": "k", "labels": {"a": "b"}, "expert": "igor",
        })
    );
}

#[test]
fn a_duration_counts_by_the_servers_clock() {
    let task = checked(json!({"prompt": "p", "runAfter": "30m", "deadline": "2h"})).unwrap();
    let times = [task.run_after, task.deadline].map(|at| at.unwrap().to_string());
    assert_eq!(times, ["2026-03-01T12:30:00Z", "2026-03-01T14:00:00Z"]);
}

#[test]
fn each_way_to_say_what_is_to_be_done_is_taken() {
    let message = |role: &str| json!({"role": role, "content": "c"});
    for good in [
        json!({"messages": [message("system"), message("user"), message("assistant"), message("user")]}),
        json!({"input": ["a", "b"]}),
        json!({"data": {"any": ["thing"]}}),
        json!({"data": false}),
    ] {
        assert!(checked(good.clone()).is_ok(), "{good}");
    }
}

#[test]
fn what_is_wrong_is_told_by_field_with_the_mend() {
    let long = "x".repeat(MOST_PAYLOAD_BYTES);
    let cases = [
        (json!({}), "prompt: is required"),
        (json!({"prompt": ""}), "prompt: is empty"),
        (json!({"prompt": " \n"}), "prompt: is empty"),
        (json!({"prompt": 7}), "prompt: is a number: write a text"),
        (json!({"prompt": long}), "prompt: has 1048589 bytes, 1048576 are allowed"),
        (json!({"prompt": "a", "data": 1}), "data: cannot be combined with prompt"),
        (json!({"messages": []}), "messages: is empty"),
        (
            json!({"messages": [{"role": "robot", "content": "a"}]}),
            "messages[0].role: is \"robot\": write one of system",
        ),
        (json!({"messages": [{"role": "user"}]}), "messages[0]: is no message: missing field `content`"),
        (json!({"messages": [{"role": "user", "content": " "}]}), "messages[0].content: is empty"),
        (json!({"input": ["a", 1]}), "input[1]: is a number: write a text"),
        (json!({"input": "a"}), "input: is a string: write a list"),
        (
            json!({"prompt": "a", "queue": "nightli"}),
            "queue: there is no TaskQueue \"nightli\" in namespace team; there are default, nightly",
        ),
        (json!({"prompt": "a", "queue": ""}), "queue: is empty"),
        (
            json!({"prompt": "a", "expert": "boris"}),
            "expert: there is no Expert \"boris\" in namespace team; there are igor",
        ),
        (json!({"prompt": "a", "priority": 101}), "priority: is 101: write a whole number from -100 to 100"),
        (json!({"prompt": "a", "priority": 1.5}), "priority: is 1.5: write a whole number"),
        (json!({"prompt": "a", "priority": "high"}), "priority: is a string: write a whole number"),
        (json!({"prompt": "a", "promt": "b"}), "promt: unknown field: did you mean \"prompt\"?"),
        (
            json!({"prompt": "a", "run_after": "2027-01-01T00:00:00Z"}),
            "run_after: unknown field: did you mean \"runAfter\"?",
        ),
        (json!({"prompt": "a", "colour": "b"}), "colour: unknown field: a task has queue"),
        (json!({"prompt": "a", "runAfter": "soon"}), "runAfter: \"soon\" is neither a time, such as 2026"),
        (
            json!({"prompt": "a", "runAfter": "-009999-01-02T02:00:00Z"}),
            "runAfter: \"-009999-01-02T02:00:00Z\" is out of range",
        ),
        (
            json!({"prompt": "a", "deadline": "9999-12-30T00:00:00Z"}),
            "deadline: \"9999-12-30T00:00:00Z\" is out of range",
        ),
        (json!({"prompt": "a", "deadline": "3000000d"}), "deadline: \"3000000d\" is out of range"),
        (json!({"prompt": "a", "deadline": "2026-03-01T11:59:59Z"}), "deadline: 2026-03-01T11:59:59Z is over"),
        (
            json!({"prompt": "a", "deadline": "2026-03-02T00:00:00Z", "runAfter": "2026-03-02T00:00:00Z"}),
            "deadline: is not after runAfter",
        ),
        (json!({"prompt": "a", "schema": "text"}), "schema: is a string: write a JSON Schema"),
        (json!({"prompt": "a", "schema": {"type": "strin"}}), "schema.type: is no JSON Schema"),
        (json!({"prompt": "a", "maxTokens": 0}), "maxTokens: is 0: write a whole number from 1"),
        (json!({"prompt": "a", "key": "a\nb"}), "key: has a line break"),
        (json!({"prompt": "a", "key": "k".repeat(201)}), "key: has 201 characters, 200 are allowed"),
        (json!({"prompt": "a", "labels": {"a": 1}}), "labels.a: is a number: write a text"),
        (json!({"prompt": "a", "labels": {"a=b": "c"}}), "labels.a=b: is no label's name"),
        (json!({"prompt": "a", "labels": ["a"]}), "labels: is a list: write an object"),
    ];
    for (task, expected) in cases {
        let shown = task.to_string().chars().take(80).collect::<String>();
        let problems = checked(task).expect_err(&shown);
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{shown}: {problems:?}, not {expected}");
        assert_eq!(problems.len(), 1, "{shown}: {problems:?}");
    }
}

#[test]
fn every_line_is_told_and_nothing_is_taken_when_one_is_wrong() {
    let body = "{\"prompt\": \"a\"}\n{\"prompt\": \"\", \"priority\": 900}\n\n{\"promt\": \"c\"}\n";
    let problems = check(parse(body.as_bytes()).unwrap(), &known(), now()).unwrap_err();
    let told: Vec<String> = problems.iter().map(|p| format!("{:?} {}", p.line, p.field.as_deref().unwrap())).collect();
    assert_eq!(told, ["Some(2) priority", "Some(2) prompt", "Some(4) prompt", "Some(4) promt"]);
}

#[test]
fn without_a_queue_it_is_said_that_none_is_declared() {
    let given = parse(b"{\"prompt\": \"a\"}").unwrap();
    let problems = check(given, &KnownNames { namespace: "team".into(), ..KnownNames::default() }, now()).unwrap_err();
    assert!(problems[0].message.contains("none is declared there"), "{problems:?}");
}
