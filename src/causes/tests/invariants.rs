//! What holds in any world.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 4] = [Kind::HostAgent, Kind::LLMBackend, Kind::ContainerHealthCheck, Kind::TaskQueue];

fn any_health() -> impl Strategy<Value = CauseHealth> {
    let acts = prop_oneof![Just(WhoActs::Person), Just(WhoActs::Nobody), Just(WhoActs::Healing), Just(WhoActs::Wished)];
    prop_oneof![
        2 => Just(CauseHealth::Well),
        1 => Just(CauseHealth::Unknown),
        1 => Just(CauseHealth::Wished),
        2 => Just(CauseHealth::Waiting),
        6 => (acts, 0_i64..200, any::<bool>()).prop_map(|(acts, since, silent)| {
            let CauseHealth::Unwell(trouble) = unwell(acts, since) else { unreachable!() };
            CauseHealth::Unwell(CauseTrouble { silent, ..trouble })
        }),
    ]
}

/// An object's kind, health, what it points to, and its host.
type Drawn = (usize, CauseHealth, Vec<(usize, usize)>, usize);

/// Objects that point to each other in any way, rings included.
fn any_world() -> impl Strategy<Value = Vec<CauseFact>> {
    let object = (0..KINDS.len(), any_health(), prop::collection::vec((0..KINDS.len(), 0_usize..6), 0..3), 0_usize..3);
    prop::collection::vec(object, 0..24).prop_map(|objects| {
        let of = |(n, (kind, health, points, host)): (usize, Drawn)| {
            let points: Vec<_> = points.into_iter().map(|(kind, n)| key(KINDS[kind], &format!("o{n}"))).collect();
            let host = (KINDS[kind] == Kind::LLMBackend).then(|| format!("h{host}"));
            CauseFact { host, ..fact(KINDS[kind], &format!("o{}", n % 6), health, &points) }
        };
        let mut seen = BTreeSet::new();
        objects.into_iter().enumerate().map(of).filter(|fact| seen.insert(fact.key.clone())).collect()
    })
}

proptest! {
    #[test]
    fn each_unhealthy_object_is_in_exactly_one_cause_and_no_cause_in_another(objects in any_world()) {
        let causes = derive(&all(objects.clone()), at(300));
        for object in objects.iter().filter(|object| object.trouble().is_some()) {
            let within = causes.iter().filter(|c| c.root == object.key || c.members.contains(&object.key)).count();
            prop_assert_eq!(within, 1, "{} is in {} causes", &object.key, within);
        }
        for cause in &causes {
            let is_symptom = causes.iter().any(|other| other.key != cause.key && other.members.contains(&cause.root));
            prop_assert!(!is_symptom, "{} is the symptom of another one", &cause.key);
            prop_assert!(!cause.members.contains(&cause.root), "{}", &cause.key);
        }
        let keys: BTreeSet<_> = causes.iter().map(|cause| &cause.key).collect();
        prop_assert_eq!(keys.len(), causes.len(), "each once");
    }

    #[test]
    fn a_symptom_more_is_no_cause_more(objects in any_world(), which in any::<prop::sample::Index>(), acts in 0..3) {
        let roots: Vec<_> = objects.iter().filter(|object| object.trouble().is_some()).collect();
        prop_assume!(!roots.is_empty());
        let acts = [WhoActs::Person, WhoActs::Nobody, WhoActs::Healing][acts as usize];
        let symptom = fact(Kind::TaskSchedule, "more", unwell(acts, 0), &[which.get(&roots).key.clone()]);
        let before: Vec<_> = derive(&all(objects.clone()), at(300)).into_iter().map(|cause| cause.key).collect();
        let mut more = objects.clone();
        more.push(symptom);
        let after: Vec<_> = derive(&all(more), at(300)).into_iter().map(|cause| cause.key).collect();
        prop_assert_eq!(before, after);
    }
}

proptest! {
    // Hours of each world.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_each_word_has_its_turn(worlds in prop::collection::vec((any_world(), 5_i64..900), 1..8)) {
        let mut leader = TestLeader::new(Audience { min_severity: CauseSeverity::Warning, ..everybody() });
        leader.period = 60;
        for (world, seconds) in &worlds {
            leader.look_for(*seconds, world);
        }
        let last = &worlds[worlds.len() - 1].0;
        leader.look_for(2 * 3_600, &last.iter().map(|o| CauseFact { health: CauseHealth::Well, ..o.clone() }).collect::<Vec<_>>());
        prop_assert!(leader.causes.iter().all(|k| !k.cause.is_open()), "all is well");
        let writes = leader.writes;
        leader.look_for(60, &[]);
        prop_assert_eq!(leader.writes, writes, "and nothing more is written");
        prop_assert!(leader.deliveries.iter().all(|d| d.due.is_none()));
    }
}
