//! A whole pass, but for its I/O.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    container::{Container, ContainerLife},
    memory::{ActionOutcome, CheckMemory},
    plan::{self, decide},
    *,
};
use crate::{
    api::{ContainerHealthCheckSpec, ContainerHealthCheckState},
    host::ContainerList,
};

fn spec() -> ContainerHealthCheckSpec {
    let docker = json!({"hostAgentRef": {"name": "a"}, "labels": {"team": "t"}});
    serde_json::from_value(json!({"target": {"docker": docker}, "maxUnhealthy": "50%"})).unwrap()
}

fn report(number: usize, state: &str) -> Value {
    json!({
        "id": format!("{number:064}"), "name": format!("container-{number:05}"), "image": "local/busybox:1",
        "state": state, "createdAt": "2026-03-01T10:00:00Z", "startedAt": "2026-03-01T10:00:01Z",
        "memoryLimit": 1 << 28, "memoryPeak": (1 << 20) + number, "restartPolicy": "no",
    })
}

/// What the agent answers for so many, the first of them dead.
fn listed(count: usize, dead: usize) -> String {
    let of = |number| {
        let mut one = report(number, if number < dead { "Exited" } else { "Running" });
        if number < dead {
            one["exitCode"] = json!(1);
            one["finishedAt"] = json!("2026-03-01T11:00:00Z");
        }
        one
    };
    let all: Vec<Value> = (0..count).map(of).collect();
    json!({"revision": 1, "observedAt": "2026-03-01T12:00:00Z", "containers": all}).to_string()
}

fn pass(spec: &ContainerHealthCheckSpec, text: &str, memory: &CheckMemory, observes: bool) -> (CheckMemory, Value) {
    let list: ContainerList = serde_json::from_str(text).unwrap();
    let (containers, _) = container::agent_containers(spec.target.docker.as_ref().unwrap(), &list);
    let facts = plan::CheckInput {
        spec,
        containers: &containers,
        hands_off: observes,
        waits_for: None,
        resumed_at: None,
        starts_by_itself: false,
        contested: false,
        memory,
    };
    let decision = decide(&facts, "2026-03-01T12:00:00Z".parse().unwrap());
    let memory = decision.memory.clone();
    let mut judged = status::assessed(spec, decided(decision));
    judged.status.base.state = Some(judged.state);
    (memory, json!({"status": judged.status, "message": judged.message}))
}

#[test]
fn a_pass_over_two_thousand_containers_takes_a_small_part_of_a_second_and_says_the_same_again() {
    let spec = spec();
    for (dead, observes, state) in [(0, false, "Healthy"), (900, true, "Degraded"), (1_001, false, "TooManyUnhealthy")]
    {
        let text = listed(2_000, dead);
        let (memory, first) = pass(&spec, &text, &CheckMemory::default(), observes);
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let began = Instant::now();
            let (again, second) = pass(&spec, &text, &memory, observes);
            fastest = fastest.min(began.elapsed());
            assert_eq!((&again, &second), (&memory, &first), "{dead} dead: nothing to write");
        }
        println!("{dead} of 2000 dead: {fastest:?}");
        assert!(fastest < Duration::from_secs(1), "{dead} dead: {fastest:?}");
        assert_eq!(first["status"]["state"], state, "{}", first["message"]);
        assert!(memory.containers.is_empty() && first.to_string().len() < 30_000, "bounded");
    }
}

fn decided(decision: CheckPlan) -> CheckAssessment {
    let (logs, fetch, probe) = (BTreeMap::new(), Vec::new(), Vec::new());
    let looked = Looked { decision, logs, fetch, probe, planned_at: Timestamp::UNIX_EPOCH, relist: false };
    CheckAssessment { looked: Some(looked), ..CheckAssessment::default() }
}

fn looked(spec: &ContainerHealthCheckSpec, container: Container, memory: &CheckMemory) -> CheckAssessment {
    let containers = [container];
    let facts = plan::CheckInput {
        spec,
        containers: &containers,
        hands_off: false,
        waits_for: None,
        resumed_at: None,
        starts_by_itself: spec.target.kubernetes.is_some(),
        contested: false,
        memory,
    };
    decided(decide(&facts, "2026-03-01T12:00:00Z".parse().unwrap()))
}

fn hurt(alike: &str) -> Container {
    Container {
        name: format!("a-1/{alike}"),
        alike: alike.into(),
        instance: "i".into(),
        life: ContainerLife::Running,
        oom_count: 1,
        memory_limit: Some(20 << 20),
        ..Container::missing(alike)
    }
}

#[test]
fn a_proposal_is_a_patch_to_paste_where_the_limit_is_declared() {
    let docker = |more: Value| {
        let mut target = json!({"hostAgentRef": {"name": "a"}});
        target.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"docker": target})
    };
    for (target, proposal) in [
        (
            json!({"kubernetes": {"workloadRef": {"kind": "Deployment", "name": "d"}}}),
            "spec:\n  template:\n    spec:\n      containers:\n        - name: main\n          resources: {limits: {memory: 120Mi}}\n",
        ),
        (docker(json!({"compose": {"projectDirectory": "/p"}})), "services:\n  main:\n    mem_limit: 125829120\n"),
        (docker(json!({"names": ["main"]})), "docker update --memory 125829120 --memory-swap 125829120 main\n"),
    ] {
        let spec: ContainerHealthCheckSpec = serde_json::from_value(json!({"target": target})).unwrap();
        let judged = status::assessed(&spec, looked(&spec, hurt("main"), &CheckMemory::default()));
        assert_eq!(judged.status.proposal.as_deref(), Some(proposal));
        assert!(judged.ready && format!("{:?}", judged.state) == "OutOfMemory", "{}", judged.message);
    }
}

#[test]
fn a_limit_that_is_being_raised_is_nobodys_business_until_it_is_refused_or_at_its_max() {
    let spec = |max: &str| -> ContainerHealthCheckSpec {
        serde_json::from_value(json!({
            "target": {"kubernetes": {"selector": {"matchLabels": {"a": "b"}}}},
            "outOfMemory": {"policy": "Resize", "max": max},
        }))
        .unwrap()
    };
    let generous = spec("1Gi");
    let facts = looked(&generous, hurt("main"), &CheckMemory::default());
    let plan = status::assessed(&generous, facts);
    assert!(matches!(plan.state, ContainerHealthCheckState::Healthy));
    let mut memory = plan.action.looked.unwrap().decision.memory;
    memory.containers.get_mut("a-1/main").unwrap().last_action.as_mut().unwrap().outcome =
        Some(ActionOutcome::Failed("no room".into()));
    let refused = status::assessed(&generous, looked(&generous, hurt("main"), &memory));
    assert!(refused.message.contains("its limit was not raised: no room"), "{}", refused.message);
    let tight = spec("20Mi");
    let at_max = status::assessed(&tight, looked(&tight, hurt("main"), &CheckMemory::default()));
    assert!(at_max.message.contains("all that outOfMemory.max allows"), "{}", at_max.message);
}
