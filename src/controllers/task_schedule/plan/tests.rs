use super::*;
use serde_json::json;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn said(plan: &SchedulePlan) -> Vec<String> {
    let step = |step: &ScheduleStep| match &step.action {
        RunAction::Fire { run, tasks, replace } => format!("Fire {run} {} {replace}", tasks.len()),
        RunAction::LeaveOut { run, reason, .. } => format!("LeaveOut {run} {reason}"),
        RunAction::Refuse { .. } => "Refuse".to_owned(),
        RunAction::Acknowledge => "Acknowledge".to_owned(),
    };
    let waits = plan.waits.iter().map(|waits| format!("waits {}", waits.reason));
    plan.steps.iter().map(|of| format!("{:?} {}", of.origin, step(of))).chain(waits).collect()
}

#[test]
fn a_request_runs_beside_the_schedule_and_each_once() {
    let spec = json!({
        "queueRef": {"name": "q"}, "schedule": "0 3 * * *", "task": {"prompt": "x"}, "concurrencyPolicy": "Forbid",
    });
    let now = at("2026-01-02T03:00:05Z");
    let created = Some(at("2026-01-01T12:00:00Z"));
    let timer = ScheduleTimer::new(row("TaskSchedule", "nightly", &[], spec), created, None, now).unwrap();
    let asked = "2026-01-02T03:00:04Z";
    let (due, by_hand) = ("Schedule Fire 2026-01-02T03:00:00Z 1 false", "Request Fire 2026-01-02T03:00:04Z 1 false");
    let well = RunObserved::default;
    let against = || RunObserved { suspended: true, still_running: true, ..well() };
    let held = || RunObserved { held: Some("waits for x".into()), ..well() };
    for (what, run, request, last, expected) in [
        ("due alone", well(), None, None, vec![due]),
        ("both", well(), Some(asked), None, vec![due, by_hand]),
        (
            "a suspension and an earlier run hold only the schedule's",
            against(),
            Some(asked),
            Some("2026-01-01T00:00:00Z"),
            vec!["Schedule LeaveOut 2026-01-02T03:00:00Z Suspended", by_hand],
        ),
        ("a gate holds both", held(), Some(asked), None, vec!["waits Held"]),
        ("recorded before", well(), Some(asked), Some(asked), vec![due, "Request Acknowledge"]),
        ("no time", well(), Some("soon"), None, vec![due, "Request Refuse"]),
    ] {
        let request = request.map(str::to_owned);
        let observed = ScheduleObserved { run, experts: Vec::new(), request, last_requested: last.map(at) };
        assert_eq!(said(&plan(&timer, &observed, now)), expected, "{what}");
    }
    let nothing = ScheduleObserved { run: well(), experts: Vec::new(), request: None, last_requested: None };
    let late = at("2026-01-02T19:00:00Z");
    assert_eq!(said(&plan(&timer, &nothing, late)), ["Schedule LeaveOut 2026-01-02T03:00:00Z RunMissed"]);
}

#[test]
fn a_run_is_fired_unless_something_stands_against_it() {
    use ConcurrencyPolicy::{Allow, Forbid, Replace};
    let well = || RunObserved { tasks: 2, ..RunObserved::default() };
    let running = || RunObserved { still_running: true, ..well() };
    let run = at("2026-01-02T03:00:00Z");
    for (what, policy, seen, expected) in [
        ("all well", Allow, well(), "Fire false"),
        ("allowed beside", Allow, running(), "Fire false"),
        ("forbidden beside", Forbid, running(), "LeaveOut StillRunning"),
        ("forbidden, and alone", Forbid, well(), "Fire false"),
        ("replaced", Replace, running(), "Fire true"),
        ("replaced, as far as is known then", Replace, well(), "Fire true"),
        ("suspended", Allow, RunObserved { suspended: true, ..well() }, "LeaveOut Suspended"),
        ("held", Allow, RunObserved { held: Some("waits for x".into()), ..well() }, "Hold Held"),
        ("no queue", Allow, RunObserved { queue_missing: true, ..well() }, "Hold QueueMissing"),
        ("no expert", Allow, RunObserved { tasks: 0, ..well() }, "Hold ExpertMissing"),
        ("observing", Allow, RunObserved { observes: true, ..well() }, "LeaveOut WouldFire"),
    ] {
        let said = match decide(policy, run, &seen) {
            RunPlan::Fire { replace } => format!("Fire {replace}"),
            RunPlan::LeaveOut { reason, .. } => format!("LeaveOut {reason}"),
            RunPlan::Hold { reason, .. } => format!("Hold {reason}"),
        };
        assert_eq!(said, expected, "{what}");
    }
}

fn row(kind: &str, name: &str, labels: &[(&str, &str)], spec: serde_json::Value) -> DeclaredRow {
    DeclaredRow {
        uid: name.into(),
        kind: kind.into(),
        namespace: "team".into(),
        name: name.into(),
        generation: 1,
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        spec,
        suspended: false,
        held: None,
    }
}

#[test]
fn each_selected_expert_gets_a_task_in_its_first_domain() {
    let expert =
        |name: &str, team: &str| row("Expert", name, &[("team", team)], json!({"model": "m", "domains": [name, "x"]}));
    let mut idle = expert("idle", "a");
    idle.suspended = true;
    let elsewhere = DeclaredRow { namespace: "others".into(), ..expert("elsewhere", "a") };
    let experts = [expert("zoe", "a"), expert("igor", "a"), expert("bob", "b"), idle, elsewhere];
    let made = |task: serde_json::Value, selector: serde_json::Value| {
        let mut spec = json!({"queueRef": {"name": "default"}, "schedule": "@daily", "task": task});
        if !selector.is_null() {
            spec["forEachExpert"] = selector;
        }
        let schedule = row("TaskSchedule", "nightly", &[], spec.clone());
        let spec: TaskScheduleSpec = serde_json::from_value(spec).unwrap();
        tasks(&schedule, &spec, &experts, at("2026-01-02T03:00:00Z"), at("2026-01-02T03:00:07Z"))
    };
    let names = |tasks: &[NewTask]| -> Vec<(Option<String>, String)> {
        tasks.iter().map(|t| (t.expert.clone(), t.domain.clone())).collect()
    };
    let who = |name: &str, domain: &str| (Some(name.to_owned()), domain.to_owned());
    let all = made(json!({"prompt": "Learn.", "deadlineSeconds": 60}), json!({}));
    assert_eq!(names(&all), [who("bob", "bob"), who("igor", "igor"), who("zoe", "zoe")]);
    assert_eq!(all[0].labels[SCHEDULE], "nightly");
    assert_eq!(all[0].labels[RUN], "2026-01-02T03:00:00Z");
    assert_eq!(all[0].deadline, Some(at("2026-01-02T03:01:07Z")));
    let team = made(json!({"prompt": "x", "domain": "news"}), json!({"matchLabels": {"team": "a"}}));
    assert_eq!(names(&team), [who("igor", "news"), who("zoe", "news")]);
    assert!(made(json!({"prompt": "x"}), json!({"matchLabels": {"team": "c"}})).is_empty());
    let single = made(json!({"prompt": "x", "role": "r"}), serde_json::Value::Null);
    assert_eq!(names(&single), [(None, String::new())]);
}

#[test]
fn a_wish_is_a_time_that_is_not_far_ahead() {
    let now = at("2026-01-02T03:00:00Z");
    assert_eq!(wanted("2026-01-02T02:59:59.5Z", now), Some(at("2026-01-02T02:59:59.5Z")));
    assert_eq!(wanted("1767322800", now), Some(at("2026-01-02T03:00:00Z")));
    for bad in ["", "now", "2026-01-02T03:06:00Z", "99999999999999999999"] {
        assert_eq!(wanted(bad, now), None, "{bad}");
    }
}
