use serde_json::{Map, Value, json};

use super::*;
use crate::http::types::{Check, Live, SuspensionView};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn item(kind: &str, name: &str, status: Value) -> Item {
    Item {
        api_version: "ostler.dev/v1alpha1".into(),
        kind: kind.into(),
        metadata: map(json!({"name": name, "namespace": "default"})),
        spec: Map::new(),
        status: status.as_object().cloned(),
        live: Live::default(),
    }
}

fn ready(status: &str, reason: &str, message: &str, since: &str) -> Value {
    json!([{"type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since, "observedGeneration": 1}])
}

fn backend(name: &str, state: &str, ready: Value) -> Item {
    item("LLMBackend", name, json!({"observedGeneration": 1, "state": state, "conditions": ready}))
}

fn down(name: &str) -> Item {
    backend(name, "Down", ready("False", "Refused", "connection refused", "2026-03-01T11:59:48Z"))
}

fn serving(name: &str) -> Item {
    backend(name, "Serving", ready("True", "Serving", "", "2026-03-01T11:00:00Z"))
}

fn seen(backends: Vec<Item>) -> Seen<'static> {
    Seen {
        namespace: None,
        backends,
        experts: Vec::new(),
        pools: Vec::new(),
        schedules: Vec::new(),
        notifiers: Vec::new(),
        told: 1,
        causes: Vec::new(),
        checks: Vec::new(),
        agents: Vec::new(),
        queues: Vec::new(),
        leader: Some(LeaderView { holder: "a".into(), epoch: 1, expires_in_seconds: 12 }),
        pause: None,
        problems: Vec::new(),
    }
}

#[test]
fn the_worst_comes_first_then_the_name() {
    let proving = backend("mlx", "Proving", ready("False", "Proving", "", "2026-03-01T11:59:48Z"));
    let names = |o: &Overview| o.backends.iter().map(|b| b.name.clone()).collect::<Vec<_>>();
    let all = overview(seen(vec![serving("b"), serving("a"), proving, down("z")]), now());
    assert_eq!(names(&all), ["z", "mlx", "a", "b"]);
    assert!(!all.healthy);
}

#[test]
fn a_failing_backend_says_why_since_when_and_what_comes_next() {
    let mut failing = down("ollama");
    let status = failing.status.as_mut().unwrap();
    status.insert("recovery".into(), json!({"attempts": 1, "nextAttemptTime": "2026-03-01T12:00:48Z"}));
    let line = BackendLine::of(&failing, now());
    assert_eq!(line.level, Level::Bad);
    assert_eq!(line.detail, "connection refused (for 12s); next attempt in 48s");
}

#[test]
fn a_backend_that_was_given_up_says_what_to_type() {
    let conditions = ready("False", "DeferredToHuman", "3 of 3 attempts did not help", "2026-03-01T11:58:00Z");
    let mut deferred = backend("mlx", "Deferred", conditions);
    deferred.spec = map(json!({"recovery": {"agentRef": {"name": "mac"}, "service": "mlx"}}));
    assert_eq!(
        BackendLine::of(&deferred, now()).detail,
        "3 of 3 attempts did not help (for 2m); `ostler reconcile llm/mlx` tries again at once; `ostler logs mlx` shows its log"
    );
}

#[test]
fn a_serving_backend_says_when_it_last_answered() {
    let mut well = serving("mlx");
    well.status.as_mut().unwrap().insert("lastServedTime".into(), json!("2026-03-01T11:59:00Z"));
    well.live = Live {
        slots_in_use: Some(2),
        limit: Some(2),
        last_byte_at: Some("2026-03-01T11:59:57Z".parse().unwrap()),
        last_probe: Some(Check {
            at: "2026-03-01T11:59:55Z".parse().unwrap(),
            verdict: "Models".into(),
            millis: Some(3),
        }),
        ..Live::default()
    };
    let line = BackendLine::of(&well, now());
    assert_eq!((line.level, line.healthy), (Level::Ok, true));
    assert_eq!((line.slots_in_use, line.limit), (Some(2), Some(2)));
    assert_eq!(line.detail, "last answer 3s ago · probe 3 ms, 5s ago");
}

#[test]
fn a_resource_without_a_status_is_new_and_one_with_a_strange_status_does_not_break_the_screen() {
    for status in [Value::Null, json!({"conditions": 7, "state": "New"})] {
        let line = BackendLine::of(&item("LLMBackend", "x", status), now());
        assert_eq!((line.state.as_str(), line.level, line.healthy), ("New", Level::Warning, false));
        assert_eq!(line.detail, "not looked at yet");
    }
}

#[test]
fn what_a_person_suspended_is_not_unhealthy() {
    let mut suspended = down("mlx");
    suspended.live.suspension = Some(SuspensionView { suspended: true, by: "ada".into(), at: now() });
    let screen = overview(seen(vec![suspended.clone()]), now());
    assert!(screen.healthy);
    assert_eq!((screen.backends[0].state.as_str(), screen.backends[0].level), ("Suspended", Level::Warning));
    suspended.spec = map(json!({"suspend": true}));
    suspended.live.suspension.as_mut().unwrap().suspended = false;
    assert!(!overview(seen(vec![suspended]), now()).healthy, "resumed against its manifest");
}

#[test]
fn without_a_leader_or_with_a_refused_manifest_nothing_is_healthy() {
    assert!(overview(seen(vec![serving("a")]), now()).healthy);
    assert!(!overview(Seen { leader: None, ..seen(vec![serving("a")]) }, now()).healthy);
    let problem = |error| Problem { error, message: "x".into(), ..Problem::default() };
    assert!(!overview(Seen { problems: vec![problem(true)], ..seen(vec![]) }, now()).healthy);
    assert!(overview(Seen { problems: vec![problem(false)], ..seen(vec![]) }, now()).healthy);
}

#[test]
fn a_pause_that_ended_is_not_shown() {
    let pause = |until: &str| Some(Pause { since: now(), until: Some(until.parse().unwrap()), by: "ada".into() });
    let paused = |until| overview(Seen { pause: pause(until), ..seen(vec![]) }, now()).pause.is_some();
    assert!(paused("2026-03-01T12:00:01Z"));
    assert!(!paused("2026-03-01T12:00:00Z"));
}

#[test]
fn an_agent_shows_its_services_and_who_holds_them() {
    let agent = item(
        "HostAgent",
        "mac",
        json!({"observedGeneration": 1, "state": "Reachable",
            "conditions": ready("True", "Reachable", "", "2026-03-01T11:00:00Z"),
            "services": [{"name": "mlx", "state": "Running"}, {"name": "ollama", "state": "Stopped"}],
            "heldServices": [{"name": "ollama", "owner": "Person", "reason": "by ada", "since": "2026-03-01T11:00:00Z"}]}),
    );
    let line = ResourceLine::of_agent(&agent);
    assert_eq!((line.level, line.healthy), (Level::Warning, true));
    assert_eq!(line.detail, "mlx Running · ollama Stopped, held (Person: by ada)");
}

#[test]
fn a_check_says_what_is_wrong_and_since_when_and_a_persons_stop_is_no_fault() {
    let check = |state: &str, is_ready: &str, message: &str| {
        let conditions = ready(is_ready, state, message, "2026-03-01T11:00:00Z");
        item(
            "ContainerHealthCheck",
            "k",
            json!({"observedGeneration": 1, "state": state, "conditions": conditions, "total": 3}),
        )
    };
    for (item, level, healthy, detail) in [
        (check("Healthy", "True", "all run"), Level::Ok, true, "3 all run"),
        (
            check("Degraded", "False", "a: it ended with exit code 1"),
            Level::Bad,
            false,
            "a: it ended with exit code 1 (for 1h)",
        ),
        (check("HeldByPerson", "False", "a: stopped"), Level::Warning, true, "a: stopped (for 1h)"),
        (check("OutOfMemory", "True", "a: raise"), Level::Warning, true, "a: raise (for 1h)"),
    ] {
        let line = ResourceLine::of_check(&item, now());
        assert_eq!((line.level, line.healthy, line.detail.as_str()), (level, healthy, detail));
    }
}

#[test]
fn whatever_is_declared_and_not_ready_is_unhealthy_worst_first() {
    let declared = |kind: &str, name: &str, state: &str, is_ready: &str, message: &str| {
        let conditions = ready(is_ready, state, message, "2026-03-01T11:59:00Z");
        item(kind, name, json!({"observedGeneration": 1, "state": state, "conditions": conditions}))
    };
    let well = || declared("Expert", "igor", "Available", "True", "small is served by mlx");
    let missing = || declared("Expert", "olga", "ModelMissing", "False", "no LLMBackend serves \"x\"");
    let screen = overview(Seen { experts: vec![well(), missing()], ..seen(vec![serving("a")]) }, now());
    let told: Vec<_> = screen.experts.iter().map(|l| (l.name.as_str(), l.level, l.detail.as_str())).collect();
    assert_eq!(
        told,
        [("olga", Level::Bad, "no LLMBackend serves \"x\" (for 60s)"), ("igor", Level::Ok, "small is served by mlx"),]
    );
    assert!(!screen.healthy);
    assert!(overview(Seen { experts: vec![well()], ..seen(vec![serving("a")]) }, now()).healthy);
    let pool = || declared("WorkerPool", "p", "QueueMissing", "False", "there is no TaskQueue q");
    assert!(!overview(Seen { pools: vec![pool()], ..seen(vec![]) }, now()).healthy);
    let schedule = || declared("TaskSchedule", "s", "InvalidSchedule", "False", "minute 61");
    assert!(!overview(Seen { schedules: vec![schedule()], ..seen(vec![]) }, now()).healthy);
    let mut changed = well();
    changed.metadata.insert("generation".into(), json!(2));
    let screen = overview(Seen { experts: vec![changed], ..seen(vec![]) }, now());
    assert!(!screen.healthy, "its status is of an earlier spec");
    assert_eq!(screen.experts[0].detail, "changed; not looked at yet");
    let mut waiting = missing();
    waiting.spec = map(json!({"suspend": true}));
    assert!(overview(Seen { experts: vec![waiting], ..seen(vec![]) }, now()).healthy, "suspended on purpose");
}

#[test]
fn a_namespace_that_is_named_and_holds_nothing_is_told() {
    let named = |backends| overview(Seen { namespace: Some("typo"), ..seen(backends) }, now());
    let screen = named(vec![]);
    assert!(!screen.healthy);
    assert!(screen.problems[0].message.contains("\"typo\""), "{:?}", screen.problems);
    assert!(named(vec![serving("a")]).healthy);
    assert!(overview(seen(vec![]), now()).healthy, "nothing is declared, as nothing was asked for");
}
