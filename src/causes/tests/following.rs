//! What becomes of causes in time, and what is written.

use super::*;

fn states(leader: &TestLeader) -> Vec<(String, bool, Option<String>)> {
    let mut all: Vec<_> =
        leader.causes.iter().map(|k| (k.cause.key.clone(), k.cause.is_open(), k.cause.folded_into.clone())).collect();
    all.sort();
    all
}

fn down(name: &str) -> CauseFact {
    fact(Kind::LLMBackend, name, unwell(WhoActs::Person, 0), &[])
}

fn well(name: &str) -> CauseFact {
    fact(Kind::LLMBackend, name, CauseHealth::Well, &[])
}

#[test]
fn an_idle_world_and_one_that_stays_as_it_is_are_not_written() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(3_600, &[well("mlx")]);
    assert_eq!(leader.writes, 0);
    leader.look_for(60, &[down("mlx")]);
    let writes = leader.writes;
    leader.look_for(3_600, &[down("mlx")]);
    assert_eq!(leader.writes, writes, "it opened, and was told");
}

#[test]
fn a_cause_is_resolved_after_five_minutes_of_health_and_is_the_same_within_an_hour() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(40, &[down("mlx")]);
    leader.look_for(300, &[well("mlx")]);
    assert!(leader.causes[0].cause.is_open(), "not yet");
    leader.look(&[well("mlx")]);
    assert!(!leader.causes[0].cause.is_open());
    leader.look_for(40, &[down("mlx")]);
    assert_eq!((leader.causes.len(), leader.causes[0].cause.times), (1, 2));
    leader.look_for(4_000, &[well("mlx")]);
    assert!(!leader.causes[0].cause.is_open());
    leader.look_for(3_700, &[well("mlx")]);
    leader.look(&[down("mlx")]);
    assert_eq!(leader.causes.len(), 2, "another one");
}

#[test]
fn what_nobody_knows_stays_as_it_was() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(40, &[down("mlx")]);
    leader.look_for(7_200, &[fact(Kind::LLMBackend, "mlx", CauseHealth::Unknown, &[])]);
    assert!(leader.causes[0].cause.is_open());
    leader.look(&[]);
    assert_eq!(leader.causes[0].cause.ended.as_deref(), Some("it is not declared any more"));
}

#[test]
fn a_silence_that_is_seen_later_takes_the_backends_of_its_host() {
    let mut leader = TestLeader::new(everybody());
    let names: Vec<String> = (0..50).map(|n| format!("b{n:02}")).collect();
    let agent = key(Kind::HostAgent, "mac");
    let backends = |health: CauseHealth| {
        let of =
            |name: &String| CauseFact { points_to: vec![agent.clone()], ..backend(name, "mac.lan", health.clone()) };
        names.iter().map(of).collect::<Vec<_>>()
    };
    let with_agent = |health: CauseHealth, backend: CauseHealth| {
        let mut objects = backends(backend);
        objects.push(fact(Kind::HostAgent, "mac", health, &[]));
        objects
    };
    leader.look_for(20, &with_agent(CauseHealth::Well, unwell(WhoActs::Healing, 0)));
    assert_eq!(states(&leader), [("host/mac.lan/Down".into(), true, None)]);
    leader.look_for(400, &with_agent(unwell(WhoActs::Nobody, 15), unwell(WhoActs::Nobody, 0)));
    let folded = Some("HostAgent/default/mac/Down".to_owned());
    assert_eq!(
        states(&leader),
        [("HostAgent/default/mac/Down".into(), true, None), ("host/mac.lan/Down".into(), true, folded)]
    );
    assert_eq!(leader.sent, ["Critical: HostAgent default/mac does not answer"]);
    let text = Letter {
        at: leader.now,
        items: vec![LetterItem {
            telling: super::super::Telling::Opened,
            due_at: leader.now,
            cause: leader.causes.iter().find(|k| k.cause.is_root()).unwrap().cause.clone(),
        }],
    };
    assert!(text.words().text.contains("affected (50): LLMBackend default/b00"), "{}", text.words().text);
    leader.look_for(700, &with_agent(CauseHealth::Well, CauseHealth::Well));
    assert_eq!(leader.sent[1..], ["Resolved: HostAgent default/mac does not answer"]);
    assert!(states(&leader).iter().all(|(_, is_open, _)| !is_open), "{:?}", states(&leader));
}

#[test]
fn what_was_told_of_a_host_is_not_told_again_when_its_agent_turns_out_to_be_silent() {
    let mut leader = TestLeader::new(everybody());
    let of = |name: &str| CauseFact {
        points_to: vec![key(Kind::HostAgent, "mac")],
        ..backend(name, "mac.lan", unwell(WhoActs::Person, 0))
    };
    let world = |agent| vec![of("a"), of("b"), fact(Kind::HostAgent, "mac", agent, &[])];
    leader.look_for(60, &world(CauseHealth::Well));
    assert_eq!(leader.sent, ["Critical: 2 backends of host mac.lan are down"]);
    leader.look_for(1_200, &world(unwell(WhoActs::Nobody, 60)));
    assert_eq!(leader.sent.len(), 1, "{:?}", leader.sent);
    let well = |name: &str| backend(name, "mac.lan", CauseHealth::Well);
    leader.look_for(900, &[well("a"), well("b"), fact(Kind::HostAgent, "mac", CauseHealth::Well, &[])]);
    assert_eq!(leader.sent.len(), 2, "{:?}", leader.sent);
    assert!(leader.sent[1].starts_with("Resolved: "));
}

#[test]
fn the_last_backend_of_a_host_is_no_second_message() {
    let mut leader = TestLeader::new(everybody());
    let down = |name: &str| backend(name, "h", unwell(WhoActs::Person, 0));
    let well = |name: &str| backend(name, "h", CauseHealth::Well);
    leader.look_for(60, &[down("a"), down("b")]);
    leader.look_for(3_600, &[down("a"), well("b")]);
    assert_eq!(leader.sent.len(), 1, "{:?}", leader.sent);
    leader.look_for(400, &[well("a"), well("b")]);
    assert_eq!(leader.sent[1..], ["Resolved: 2 backends of host h are down"], "what it was, not what was left of it");
}

#[test]
fn what_was_told_and_is_healed_afterwards_is_reported_as_it_was() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(60, &[down("mlx")]);
    leader.look_for(30, &[fact(Kind::LLMBackend, "mlx", unwell(WhoActs::Healing, 0), &[])]);
    assert_eq!(leader.causes[0].cause.severity, CauseSeverity::Info, "it is being healed");
    leader.look_for(400, &[well("mlx")]);
    let report = super::super::night(std::slice::from_ref(&leader.causes[0].cause), at(0), leader.now);
    assert_eq!((report.resolved.len(), report.healed.len()), (1, 0));
}
