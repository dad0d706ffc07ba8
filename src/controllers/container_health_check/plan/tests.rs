//! Passes as a person would play them.

use serde_json::json;

use crate::host::ServiceDependency;

use super::{
    super::container::{ContainerEnd, ProbeHealth},
    *,
};

const MI: i64 = 1 << 20;

fn spec(extra: serde_json::Value) -> ContainerHealthCheckSpec {
    let mut spec = json!({"target": {"docker": {"hostAgentRef": {"name": "a"}, "names": ["c"]}}});
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn down(name: &str) -> Container {
    let end = ContainerEnd { exit_code: Some(1), at: Some(at(0)), ..ContainerEnd::default() };
    Container { instance: "i".into(), life: ContainerLife::Ended(end), ..Container::missing(name) }
}

fn up(name: &str) -> Container {
    Container { instance: "i".into(), life: ContainerLife::Running, ..Container::missing(name) }
}

fn facts<'a>(
    spec: &'a ContainerHealthCheckSpec,
    containers: &'a [Container],
    memory: &'a CheckMemory,
) -> CheckInput<'a> {
    CheckInput {
        spec,
        containers,
        hands_off: false,
        waits_for: None,
        resumed_at: None,
        starts_by_itself: false,
        contested: false,
        memory,
    }
}

fn todos(decision: &CheckPlan) -> Vec<(&str, ContainerStep)> {
    decision.acts.iter().map(|act| (act.container.as_str(), act.todo)).collect()
}

fn ended(mut memory: CheckMemory) -> CheckMemory {
    for one in memory.containers.values_mut() {
        if let Some(did) = &mut one.last_action {
            did.outcome = Some(ActionOutcome::Done);
        }
    }
    memory
}

#[test]
fn attempts_are_spread_by_a_doubling_backoff_and_forgotten_after_health() {
    let (spec, containers) = (spec(json!({})), [down("c")]);
    let (mut memory, mut starts) = (CheckMemory::default(), Vec::new());
    for second in 0..700 {
        let decision = decide(&facts(&spec, &containers, &memory), at(second));
        if !decision.acts.is_empty() {
            starts.push(second);
        }
        memory = ended(decision.memory);
    }
    assert_eq!(starts, [0, 10, 30, 70, 150, 310, 610], "10 s doubling to 300 s");
    let well = [up("c")];
    for second in [700, 1_299] {
        memory = decide(&facts(&spec, &well, &memory), at(second)).memory;
        assert_eq!(memory.containers["c"].attempts, 7);
    }
    memory = decide(&facts(&spec, &well, &memory), at(1_300)).memory;
    assert!(memory.containers.is_empty(), "after ten minutes of health: {memory:?}");
}

#[test]
fn one_action_at_a_time_and_none_while_hands_are_off_or_something_else_is_the_matter() {
    let containers = [down("c")];
    let memory = CheckMemory::default();
    let enforced = spec(json!({}));
    let first = decide(&facts(&enforced, &containers, &memory), at(0));
    assert_eq!(todos(&first), [("c", ContainerStep::Up)]);
    let open = decide(&facts(&enforced, &containers, &first.memory), at(60));
    assert!(open.acts.is_empty(), "the first has not ended");
    let lost = decide(&facts(&enforced, &containers, &first.memory), at(601));
    assert_eq!(todos(&lost), [("c", ContainerStep::Up)], "but is not waited for for ever");
    let waits = CheckInput { waits_for: Some("LLMBackend ollama"), ..facts(&enforced, &containers, &memory) };
    assert!(decide(&waits, at(0)).acts.is_empty());
    let paused = CheckInput { hands_off: true, ..facts(&enforced, &containers, &memory) };
    assert!(decide(&paused, at(0)).acts.is_empty());
    let observed = spec(json!({"mode": "Observe"}));
    assert!(decide(&facts(&observed, &containers, &memory), at(0)).acts.is_empty());
    let pods = CheckInput { starts_by_itself: true, ..facts(&enforced, &containers, &memory) };
    assert!(decide(&pods, at(0)).acts.is_empty(), "its kubelet starts it");
}

#[test]
fn a_storm_stops_everything_until_it_has_cooled_down() {
    let containers: Vec<Container> = ["a", "b", "c", "d", "e"].map(down).into();
    for (most, storm) in [(json!(4), true), (json!(5), false), (json!("99%"), true), (json!("100%"), false)] {
        let spec = spec(json!({"maxUnhealthy": most, "stormCooldownSeconds": 60}));
        let decision = decide(&facts(&spec, &containers, &CheckMemory::default()), at(0));
        assert_eq!((decision.storm, decision.acts.is_empty(), decision.unhealthy), (storm, storm, 5), "{most}");
    }
    let spec = spec(json!({"maxUnhealthy": 4, "stormCooldownSeconds": 60}));
    let memory = decide(&facts(&spec, &containers, &CheckMemory::default()), at(0)).memory;
    let mut calmer = containers;
    calmer[0] = up("a");
    let cooling = decide(&facts(&spec, &calmer, &memory), at(59));
    assert!(cooling.storm && cooling.acts.is_empty());
    assert_eq!(cooling.again, Some(Duration::from_secs(1)));
    let over = decide(&facts(&spec, &calmer, &cooling.memory), at(60));
    assert_eq!(todos(&over).len(), 4);
}

#[test]
fn memory_is_raised_before_the_start_within_its_max_and_applied_again_to_a_new_container() {
    let spec = spec(json!({"outOfMemory": {"policy": "Resize", "minIncrease": "20Mi", "max": "50Mi"}}));
    let dead = |limit: i64, count: u64, instance: &str| {
        let end =
            ContainerEnd { exit_code: Some(137), out_of_memory: true, at: Some(at(0)), ..ContainerEnd::default() };
        Container {
            instance: instance.into(),
            life: ContainerLife::Ended(end),
            oom_count: count,
            memory_limit: Some(limit * MI),
            ..Container::missing("c")
        }
    };
    let pass = |container: Container, memory: &CheckMemory, second: i64| {
        let decision = decide(&facts(&spec, &[container], memory), at(second));
        (todos(&decision).first().map(|(_, todo)| *todo), decision.entries[0].at_max, ended(decision.memory))
    };
    let (todo, _, memory) = pass(dead(20, 1, "i"), &CheckMemory::default(), 0);
    assert_eq!(todo, Some(ContainerStep::Resize(40 * MI)));
    let (todo, _, memory) = pass(dead(40, 1, "i"), &memory, 1);
    assert_eq!(todo, Some(ContainerStep::Up), "then it is started");
    let (todo, _, memory) = pass(dead(40, 2, "i"), &memory, 100);
    assert_eq!(todo, Some(ContainerStep::Resize(50 * MI)), "never past its max");
    let (todo, at_max, memory) = pass(dead(50, 3, "i"), &memory, 200);
    assert_eq!((todo, at_max), (Some(ContainerStep::Up), true), "a person's turn, and started all the same");
    let fresh = Container { instance: "j".into(), memory_limit: Some(20 * MI), ..up("c") };
    let (todo, _, memory) = pass(fresh, &memory, 300);
    assert_eq!(todo, Some(ContainerStep::Resize(50 * MI)), "what `up -d` lost");
    assert_eq!((memory.containers["c"].oom_total, memory.limits["c"]), (3, 50 * MI));
}

#[test]
fn what_died_under_the_old_limit_does_not_raise_the_new_one() {
    let spec = spec(json!({"outOfMemory": {"policy": "Resize", "minIncrease": "200Mi", "max": "300Mi"}}));
    let hurt = |limit: i64, count: u64, second: i64| Container {
        oom_count: count,
        last_oom_at: Some(at(second)),
        memory_limit: Some(limit * MI),
        ..up("c")
    };
    let wanted = |seen: &[(Container, i64)]| {
        let pass = |memory: CheckMemory, (container, second): &(Container, i64)| {
            ended(decide(&facts(&spec, std::slice::from_ref(container), &memory), at(*second)).memory)
        };
        let memory = seen.iter().fold(CheckMemory::default(), pass);
        (memory.limits["c"] / MI, memory.containers["c"].oom_total)
    };
    let first = || (hurt(20, 1, 2), 3);
    let has = || (hurt(220, 1, 2), 6);
    // It died again before the kubelet had resized it, and that is told together with the new limit, or after it.
    assert_eq!(wanted(&[first(), (hurt(220, 2, 5), 6)]), (220, 2));
    assert_eq!(wanted(&[first(), has(), (hurt(220, 2, 5), 7)]), (220, 2));
    assert_eq!(wanted(&[first(), (hurt(220, 2, 5), 6), (hurt(220, 3, 9), 10)]), (300, 3));
    assert_eq!(wanted(&[first(), has(), (hurt(220, 2, 8), 9)]), (300, 2));
}

#[test]
fn a_process_that_runs_out_of_memory_in_a_container_that_lives_on_raises_its_limit_once() {
    let spec =
        spec(json!({"outOfMemory": {"policy": "Resize", "minIncrease": "20Mi"}, "restart": {"backoffSeconds": 1}}));
    let alive = |limit: i64, count: u64, second: i64| Container {
        started_at: Some(at(0)),
        oom_count: count,
        last_oom_at: Some(at(second)),
        memory_limit: Some(limit * MI),
        ..up("c")
    };
    let (mut memory, mut limit, mut raises) = (CheckMemory::default(), 20, Vec::new());
    // Its first process starts what was killed again at once: an end every two seconds, each under the newest limit.
    for second in 1..=700 {
        let container = alive(limit, i64::unsigned_abs(second / 2), second - second % 2);
        let decision = decide(&facts(&spec, std::slice::from_ref(&container), &memory), at(second));
        for act in &decision.acts {
            let ContainerStep::Resize(bytes) = act.todo else { panic!("{act:?}: it runs") };
            assert_eq!(act.reason, "a process in it ran out of memory");
            (limit, raises) = (bytes / MI, [raises, vec![second]].concat());
        }
        assert_eq!(decision.unhealthy, 0);
        memory = ended(decision.memory);
    }
    assert_eq!(raises.len(), 3, "{raises:?}: once in five minutes, and only for an end under the raised limit");
    let (todo, mut quiet) = (alive(limit, 350, 700), Vec::new());
    for second in 701..1_500 {
        quiet.extend(
            todos(&decide(&facts(&spec, std::slice::from_ref(&todo), &memory), at(second))).iter().map(|t| t.1),
        );
    }
    assert_eq!(quiet, [], "nothing died since");
}

#[test]
fn a_service_is_started_after_those_that_it_depends_on() {
    use super::super::container::RestartsOn;
    use crate::host::DependencyCondition::{self as On, Completed, Healthy, Started};
    let spec = spec(json!({}));
    let ended = |exit_code: i64| {
        ContainerLife::Ended(ContainerEnd { exit_code: Some(exit_code), at: Some(at(0)), ..ContainerEnd::default() })
    };
    let on = |service: &str, condition: On| vec![ServiceDependency { service: service.into(), condition }];
    let other = |life: ContainerLife, health: ProbeHealth| Container {
        life,
        health,
        one_shot: true,
        restarts_on: RestartsOn::Nothing,
        started_at: Some(at(0)),
        ..up("other")
    };
    for (other, condition, starts) in [
        (other(ended(0), ProbeHealth::Unasked), Completed, true),
        (other(ended(0), ProbeHealth::Unasked), Started, true),
        (other(ended(0), ProbeHealth::Unasked), Healthy, false),
        (other(ended(3), ProbeHealth::Unasked), Completed, false),
        (other(ContainerLife::Running, ProbeHealth::Unasked), Completed, false),
        (other(ContainerLife::Running, ProbeHealth::Starting), Healthy, false),
        (other(ContainerLife::Running, ProbeHealth::Well), Healthy, true),
        (other(ContainerLife::Running, ProbeHealth::Failing("500".into())), Healthy, false),
        (other(ContainerLife::Running, ProbeHealth::Starting), Started, true),
        (Container::missing("other"), Started, false),
        (Container::missing("unrelated"), Completed, true),
    ] {
        let web = Container { depends_on: on("other", condition), ..down("web") };
        let shown = format!("{:?} {condition:?}", other.life);
        let decision = decide(&facts(&spec, &[web, other], &CheckMemory::default()), at(1));
        assert_eq!(todos(&decision).contains(&("web", ContainerStep::Up)), starts, "{shown}");
        assert_eq!(decision.entries[0].verdict.message.contains("it waits for other"), !starts, "{shown}");
    }
}

#[test]
fn a_one_shot_is_left_alone_without_attempts_until_a_person_asks_for_it() {
    use super::super::container::RestartsOn;
    let spec = spec(json!({"restart": {"backoffSeconds": 1, "maxBackoffSeconds": 1}}));
    for exit_code in [0, 3] {
        let end = ContainerEnd { exit_code: Some(exit_code), at: Some(at(0)), ..ContainerEnd::default() };
        let container = Container {
            life: ContainerLife::Ended(end),
            one_shot: true,
            restarts_on: RestartsOn::Nothing,
            started_at: Some(at(0)),
            ..up("once")
        };
        let all = [container];
        let mut memory = CheckMemory::default();
        for second in 1..100 {
            let decision = decide(&facts(&spec, &all, &memory), at(second));
            assert_eq!((decision.acts.len(), decision.unhealthy), (0, usize::from(exit_code != 0)));
            memory = decision.memory;
        }
        assert!(memory.containers.is_empty(), "{memory:?}");
        let asked = CheckInput { resumed_at: Some(at(100)), ..facts(&spec, &all, &memory) };
        let expected: &[_] = if exit_code == 0 { &[] } else { &[("once", ContainerStep::Up)] };
        assert_eq!(todos(&decide(&asked, at(100))), expected, "what succeeded is not run twice");
    }
}

#[test]
fn a_pods_limit_is_raised_while_it_runs_unless_it_never_runs_long_enough() {
    let spec = spec(json!({"outOfMemory": {"policy": "Resize", "minIncrease": "20Mi"}}));
    let end = ContainerEnd { exit_code: Some(137), out_of_memory: true, at: Some(at(0)), ..ContainerEnd::default() };
    let hurt =
        |life: ContainerLife, count: u64| Container { life, oom_count: count, memory_limit: Some(20 * MI), ..up("c") };
    let waits = |count: u64| hurt(ContainerLife::Restarting(end.clone()), count);
    let pass = |container: Container, memory: &CheckMemory, second: i64, starts_by_itself: bool| {
        let facts = CheckInput { starts_by_itself, ..facts(&spec, std::slice::from_ref(&container), memory) };
        let decision = decide(&facts, at(second));
        let todo = todos(&decision).first().map(|(_, todo)| *todo);
        (todo, decision.entries[0].awaits_run, decision.again, ended(decision.memory))
    };
    let raise = Some(ContainerStep::Resize(40 * MI));
    assert_eq!(pass(waits(1), &CheckMemory::default(), 0, false).0, raise, "a host does both");
    let (todo, awaits_run, again, memory) = pass(waits(1), &CheckMemory::default(), 0, true);
    assert_eq!((todo, awaits_run, again), (None, true, Some(SOON)));
    let (todo, awaits_run, ..) = pass(hurt(ContainerLife::Running, 1), &memory, 1, true);
    assert_eq!((todo, awaits_run), (raise, false));
    let again = |memory: CheckMemory, count: u64| {
        let (todo, _, _, memory) = pass(waits(count), &memory, 10, true);
        assert_eq!(todo, None, "after {count}");
        memory
    };
    let memory = (2..=3).fold(memory, again);
    assert_eq!(pass(waits(4), &memory, 20, true).0, raise, "as well as it can be done");
}

#[test]
fn a_limit_that_was_refused_or_whose_pass_was_cut_short_is_tried_again_by_a_doubling_backoff() {
    let spec = spec(json!({"outOfMemory": {"policy": "Resize", "minIncrease": "20Mi"}}));
    let hurt = [Container { oom_count: 1, memory_limit: Some(20 * MI), ..up("c") }];
    let tries = |starts_by_itself: bool, outcome: Option<ActionOutcome>| {
        let (mut memory, mut tries) = (CheckMemory::default(), Vec::new());
        for second in 0..200 {
            let facts = CheckInput { starts_by_itself, ..facts(&spec, &hurt, &memory) };
            let mut decision = decide(&facts, at(second));
            if !decision.acts.is_empty() {
                tries.push(second);
                let one = decision.memory.containers.get_mut("c").unwrap();
                one.last_action.as_mut().unwrap().outcome = outcome.clone();
            }
            memory = decision.memory;
        }
        tries
    };
    assert_eq!(tries(true, Some(ActionOutcome::Failed("the API server is away".into()))), [0, 10, 30, 70, 150]);
    assert_eq!(tries(true, None), [0, 10, 30, 70, 150], "a pass that was cut short");
    assert_eq!(tries(true, Some(ActionOutcome::Done)), [0], "a kubelet takes its time");
    assert_eq!(tries(false, None), [0], "a host may still be at it");
}

#[test]
fn a_proposal_is_only_told() {
    let spec = spec(json!({}));
    let hurt = Container { oom_count: 2, memory_limit: Some(100 * MI), memory_peak: Some(99 * MI), ..up("c") };
    let decision = decide(&facts(&spec, &[hurt], &CheckMemory::default()), at(0));
    assert_eq!((decision.acts.len(), decision.entries[0].proposed), (0, Some(200 * MI)));
    assert_eq!(decision.memory.containers["c"].peak, Some(99 * MI));
    let raised = Container { oom_count: 2, memory_limit: Some(250 * MI), ..up("c") };
    let decision = decide(&facts(&spec, &[raised], &decision.memory), at(1));
    assert_eq!(decision.entries[0].proposed, None, "somebody raised it");
}

#[test]
fn unhealthy_ones_are_restarted_and_a_persons_stop_is_held_until_resumed() {
    let spec = spec(json!({}));
    let sick = Container { health: ProbeHealth::Failing("500".into()), ..up("c") };
    let memory = CheckMemory::default();
    assert_eq!(todos(&decide(&facts(&spec, &[sick], &memory), at(0))), [("c", ContainerStep::Restart)]);
    let end = ContainerEnd {
        exit_code: Some(143),
        at: Some(at(0)),
        by: Some(crate::host::StoppedBy::Person),
        ..ContainerEnd::default()
    };
    let stopped = [Container { life: ContainerLife::Ended(end), ..up("c") }];
    let held = decide(&facts(&spec, &stopped, &memory), at(1));
    assert_eq!((held.acts.len(), held.unhealthy), (0, 0));
    let resumed = CheckInput { resumed_at: Some(at(5)), ..facts(&spec, &stopped, &held.memory) };
    assert_eq!(todos(&decide(&resumed, at(6))), [("c", ContainerStep::Up)]);
}

#[test]
fn a_pods_successor_inherits_its_attempts() {
    let spec = spec(json!({"probe": {"http": {"url": "http://HOST/"}}}));
    let sick = |name: &str, instance: &str| Container {
        instance: instance.into(),
        alike: "main".into(),
        health: ProbeHealth::Failing("500".into()),
        ..up(name)
    };
    let pass = |containers: &[Container], memory: &CheckMemory, second: i64| {
        let facts = CheckInput { starts_by_itself: true, ..facts(&spec, containers, memory) };
        let decision = decide(&facts, at(second));
        (decision.acts.len(), ended(decision.memory))
    };
    let (acts, memory) = pass(&[sick("a-1/main", "i")], &CheckMemory::default(), 0);
    assert_eq!(acts, 1);
    let (_, memory) = pass(&[], &memory, 1);
    let heir = [sick("a-2/main", "j"), sick("a-3/side", "k")];
    let side = [heir[0].clone()];
    assert_eq!(pass(&side, &memory, 9).0, 0, "its backoff goes on");
    let (acts, memory) = pass(&side, &memory, 10);
    assert_eq!((acts, memory.containers["a-2/main"].attempts, memory.containers.len()), (1, 2, 1));
    assert!(pass(&[], &memory, 1_000).1.containers.is_empty(), "no successor came");
}

#[test]
fn who_only_observes_says_what_it_would_do() {
    let spec = spec(json!({"mode": "Observe"}));
    let decision = decide(&facts(&spec, &[down("c")], &CheckMemory::default()), at(0));
    assert!(decision.acts.is_empty() && decision.memory.containers.is_empty());
    assert_eq!(decision.withheld.iter().map(|act| act.todo).collect::<Vec<_>>(), [ContainerStep::Up]);
}
