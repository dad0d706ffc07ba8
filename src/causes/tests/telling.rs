//! Who is told what, and when.

use jiff::tz::TimeZone;

use super::{
    super::{Acknowledgment, QuietTime},
    *,
};

fn one(acts: WhoActs, since: i64) -> Vec<CauseFact> {
    vec![fact(Kind::LLMBackend, "mlx", unwell(acts, since), &[])]
}

fn well() -> Vec<CauseFact> {
    vec![fact(Kind::LLMBackend, "mlx", CauseHealth::Well, &[])]
}

fn warned() -> Audience {
    Audience { min_severity: CauseSeverity::Warning, ..everybody() }
}

/// After how many seconds the first message goes.
fn told_after(audience: Audience, objects: &[CauseFact]) -> Option<i64> {
    let mut leader = TestLeader::new(audience);
    (0..=1_200).step_by(5).find(|_| {
        leader.look(objects);
        !leader.sent.is_empty()
    })
}

#[test]
fn the_first_word_comes_when_healing_does_not() {
    for (what, acts, audience, after) in [
        ("a person must act", WhoActs::Person, everybody(), Some(30)),
        ("nobody acts and nothing hangs on it", WhoActs::Nobody, everybody(), None),
        ("nobody acts", WhoActs::Nobody, warned(), Some(300)),
        ("it is healed for long", WhoActs::Healing, warned(), Some(600)),
        ("that is no matter of life and death", WhoActs::Healing, everybody(), None),
        ("a person wished it", WhoActs::Wished, warned(), None),
    ] {
        assert_eq!(told_after(audience, &one(acts, 0)), after, "{what}");
    }
}

#[test]
fn it_is_repeated_until_somebody_takes_it_and_its_end_is_told_all_the_same() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(8 * 3_600 + 60, &one(WhoActs::Person, 0));
    assert_eq!(leader.sent.len(), 3, "{:?}", leader.sent);
    assert!(leader.sent[2].starts_with("Critical, still: "), "{:?}", leader.sent);
    leader.causes[0].acknowledged =
        Some(Acknowledgment { by: "ada".into(), until: leader.now + SignedDuration::from_hours(8) });
    leader.look_for(7 * 3_600, &one(WhoActs::Person, 0));
    assert_eq!(leader.sent.len(), 3, "acknowledged");
    leader.look_for(400, &well());
    assert_eq!(leader.sent[3..], ["Resolved: LLMBackend default/mlx is down"]);
    leader.look_for(60, &one(WhoActs::Person, 0));
    assert!(leader.sent[4].starts_with("Critical, again (2 times): "), "{:?}", leader.sent);
}

#[test]
fn what_flaps_is_told_once() {
    let mut leader = TestLeader::new(everybody());
    for _ in 0..10 {
        leader.look_for(60, &one(WhoActs::Person, 0));
        leader.look_for(240, &well());
    }
    assert_eq!(leader.sent.len(), 1, "{:?}", leader.sent);
}

#[test]
fn what_was_over_before_it_could_be_sent_is_one_message() {
    let mut leader = TestLeader::new(everybody());
    leader.deaf = true;
    leader.look_for(120, &one(WhoActs::Person, 0));
    let tried = leader.deliveries[0].attempts;
    assert!((2..=5).contains(&tried), "{tried} attempts in 90 s");
    leader.look_for(3_000, &well());
    leader.deaf = false;
    leader.look_for(1_000, &well());
    assert_eq!(leader.sent, ["Over: LLMBackend default/mlx is down"]);
}

#[test]
fn a_leader_that_dies_before_it_records_tells_twice_and_never_not_at_all() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(40, &one(WhoActs::Person, 0));
    assert_eq!(leader.sent.len(), 1);
    // It was sent, and the record of that is lost.
    let delivery = &mut leader.deliveries[0];
    (delivery.due, delivery.told, delivery.told_at) = (Some(super::super::Telling::Opened), None, None);
    leader.look_for(600, &one(WhoActs::Person, 0));
    assert_eq!(leader.sent.len(), 2, "{:?}", leader.sent);
}

#[test]
fn warnings_of_quiet_hours_come_as_one_message_at_their_end_and_what_is_critical_at_once() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let quiet = QuietTime { from: jiff::civil::time(22, 0, 0, 0), to: jiff::civil::time(7, 0, 0, 0), zone };
    let ends = |time: &str| quiet.until(time.parse().unwrap()).map(|at| at.to_string());
    assert_eq!(ends("2026-01-10T20:59:00Z"), None);
    assert_eq!(ends("2026-01-10T21:00:00Z").as_deref(), Some("2026-01-11T06:00:00Z"));
    assert_eq!(ends("2026-01-11T05:59:59Z").as_deref(), Some("2026-01-11T06:00:00Z"));
    assert_eq!(ends("2026-01-11T06:00:00Z"), None);
    let mut leader = TestLeader::new(Audience { quiet: Some(quiet), ..warned() });
    leader.now = "2026-01-10T22:00:00Z".parse().unwrap();
    let since = leader.now.as_second() - at(0).as_second();
    let named = |name: &str, acts| fact(Kind::LLMBackend, name, unwell(acts, since), &[]);
    leader.look_for(3_600, &[named("a", WhoActs::Healing), named("b", WhoActs::Healing), named("c", WhoActs::Person)]);
    assert_eq!(leader.sent, ["Critical: LLMBackend default/c is down"]);
    leader.now = "2026-01-11T05:59:00Z".parse().unwrap();
    leader.look_for(120, &[named("a", WhoActs::Healing), named("b", WhoActs::Healing), named("c", WhoActs::Person)]);
    assert!(leader.sent.last().unwrap().starts_with("2 causes, first: Warning: "), "{:?}", leader.sent);
}

#[test]
fn a_notifier_of_a_namespace_hears_of_its_own_only() {
    let mut theirs = backend("theirs", "h", unwell(WhoActs::Person, 0));
    theirs.key.namespace = "team".into();
    let objects = [backend("ours", "h", unwell(WhoActs::Person, 0)), theirs];
    let mut leader = TestLeader::new(Audience { namespace: Some("team".into()), ..everybody() });
    leader.look_for(60, &objects);
    assert_eq!(leader.sent.len(), 1);
    let seen = leader.causes[0].cause.within(Some("team"));
    assert_eq!((seen.title.as_str(), seen.members.len()), ("1 backend of host h is down", 1));
    let mut other = TestLeader::new(Audience { namespace: Some("elsewhere".into()), ..everybody() });
    other.look_for(60, &objects);
    assert!(other.sent.is_empty());
}

#[test]
fn attempts_have_waits_that_double_and_what_was_asked_for_is_obeyed() {
    let mut leader = TestLeader::new(everybody());
    leader.look_for(40, &one(WhoActs::Person, 0));
    let first = leader.deliveries[0].clone();
    let wait = |d: &Delivery| d.not_before.duration_since(at(0)).as_secs();
    let mut failing = first.clone();
    let waits: Vec<i64> = (0..9)
        .map(|_| {
            failing = failing.failed("HTTP 500", None, false, at(0));
            wait(&failing)
        })
        .collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
    let asked = |seconds| wait(&first.failed("HTTP 429", Some(SignedDuration::from_secs(seconds)), false, at(0)));
    assert_eq!([asked(1), asked(77), asked(999_999)], [10, 77, 3_600]);
    assert_eq!(wait(&first.failed("HTTP 410", None, true, at(0))), 3_600);
}
