//! Which objects have one cause.

use super::*;

fn keys(objects: Vec<CauseFact>) -> Vec<(String, Vec<String>)> {
    let causes = derive(&all(objects), at(100));
    causes.into_iter().map(|c| (c.key, c.members.into_iter().map(|m| m.name).collect())).collect()
}

fn one(key: &str, members: &[&str]) -> (String, Vec<String>) {
    (key.into(), members.iter().map(|m| (*m).to_owned()).collect())
}

#[test]
fn what_points_to_something_unhealthy_is_its_symptom() {
    let down = || unwell(WhoActs::Healing, 0);
    let agent = |health| fact(Kind::HostAgent, "mac", health, &[]);
    let of_agent = |name: &str| fact(Kind::LLMBackend, name, down(), &[key(Kind::HostAgent, "mac")]);
    let queue = |health| fact(Kind::TaskQueue, "night", health, &[key(Kind::LLMBackend, "mlx")]);
    let down_agent = || agent(unwell(WhoActs::Nobody, 0));
    for (what, objects, wanted) in [
        ("nothing", vec![agent(CauseHealth::Well)], vec![]),
        ("a backend", vec![agent(CauseHealth::Well), of_agent("mlx")], vec![one("LLMBackend/default/mlx/Down", &[])]),
        (
            "an agent with its backends and their queue",
            vec![down_agent(), of_agent("mlx"), of_agent("ollama"), queue(CauseHealth::Waiting)],
            vec![one("HostAgent/default/mac/Down", &["mlx", "ollama", "night"])],
        ),
        (
            "an agent of nobody knows what",
            vec![agent(CauseHealth::Unknown), of_agent("mlx")],
            vec![one("LLMBackend/default/mlx/Down", &[])],
        ),
        ("a queue that waits for what is well", vec![queue(CauseHealth::Waiting)], vec![]),
        (
            "a queue that waits for what a person suspended",
            vec![queue(CauseHealth::Waiting), fact(Kind::LLMBackend, "mlx", CauseHealth::Wished, &[])],
            vec![one("LLMBackend/default/mlx/Work", &["night"])],
        ),
        (
            "checks in a ring",
            vec![
                fact(Kind::ContainerHealthCheck, "b", down(), &[key(Kind::ContainerHealthCheck, "a")]),
                fact(Kind::ContainerHealthCheck, "a", down(), &[key(Kind::ContainerHealthCheck, "b")]),
                fact(Kind::ContainerHealthCheck, "c", down(), &[key(Kind::ContainerHealthCheck, "b")]),
            ],
            vec![one("ContainerHealthCheck/default/a/Down", &["b", "c"])],
        ),
    ] {
        assert_eq!(keys(objects), wanted, "{what}");
    }
}

#[test]
fn backends_of_a_host_that_fell_silent_together_have_one_cause_and_others_do_not() {
    let silent = |name: &str, host: &str, since| backend(name, host, unwell(WhoActs::Healing, since));
    for (what, objects, wanted) in [
        ("together", vec![silent("a", "h", 0), silent("b", "h", 60)], vec![one("host/h/Down", &["a", "b"])]),
        (
            "a minute and more apart",
            vec![silent("a", "h", 0), silent("b", "h", 61)],
            vec![one("LLMBackend/default/a/Down", &[]), one("LLMBackend/default/b/Down", &[])],
        ),
        (
            "two hosts",
            vec![silent("a", "h", 0), silent("b", "i", 0)],
            vec![one("LLMBackend/default/a/Down", &[]), one("LLMBackend/default/b/Down", &[])],
        ),
        (
            "one that was down for long beside two",
            vec![silent("a", "h", -900), silent("b", "h", 0), silent("c", "h", 1)],
            vec![one("LLMBackend/default/a/Down", &[]), one("host/h/Down", &["b", "c"])],
        ),
    ] {
        assert_eq!(keys(objects), wanted, "{what}");
    }
    let mut facts = all(vec![silent("b", "h", 0)]);
    facts.open.insert("host/h/Down".into());
    assert_eq!(derive(&facts, at(100))[0].key, "host/h/Down", "the last one is part of it still");
}

#[test]
fn all_agents_at_once_are_the_network_and_some_are_not() {
    let agent = |name: &str, health| fact(Kind::HostAgent, name, health, &[]);
    let silent = || unwell(WhoActs::Nobody, 0);
    assert_eq!(keys(vec![agent("a", silent()), agent("b", silent())]), [one("network/Down", &["a", "b"])]);
    let wished = vec![agent("a", silent()), agent("b", silent()), agent("c", CauseHealth::Wished)];
    assert_eq!(keys(wished), [one("network/Down", &["a", "b"])]);
    assert_eq!(keys(vec![agent("a", silent())]), [one("HostAgent/default/a/Down", &[])]);
    let some = vec![agent("a", silent()), agent("b", silent()), agent("c", CauseHealth::Well)];
    assert_eq!(keys(some).len(), 2);
}

#[test]
fn a_reason_that_changes_is_the_same_cause() {
    let of = |reason: &str| {
        let CauseHealth::Unwell(trouble) = unwell(WhoActs::Healing, 0) else { unreachable!() };
        let health = CauseHealth::Unwell(CauseTrouble { reason: reason.into(), ..trouble });
        keys(vec![fact(Kind::LLMBackend, "mlx", health, &[])])
    };
    assert_eq!(of("Refused"), of("Timeout"));
}
