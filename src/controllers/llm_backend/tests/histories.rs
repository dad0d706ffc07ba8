//! Random histories of a server: whatever happens, nothing is restarted that is not dead, hung or failing, nothing counts as
//! helped without a call that was served afterwards, and everything ends.

use proptest::prelude::*;

use super::{
    super::plan::PlanNote,
    script::{Behavior, Moment, Reply, Tamper},
    world::BackendWorld,
    *,
};

/// What a server does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Well,
    /// Long prompts and answers; others' work at times.
    Slow,
    /// Others' work only: it uses CPU, nothing of ours gets through, listings do not answer.
    Saturated,
    Dead,
    Silent,
    Fails,
}

impl Phase {
    fn behavior(self) -> Behavior {
        match self {
            Self::Well => Behavior::well(),
            Self::Slow => Behavior::replies(Reply::Served { first: 45, total: 80 }),
            Self::Saturated => {
                Behavior { probe: ProbeVerdict::Timeout, works: true, ..Behavior::replies(Reply::Silent) }
            }
            Self::Dead => Behavior::dead(),
            Self::Silent => Behavior::replies(Reply::Silent),
            Self::Fails => Behavior::replies(Reply::Fails(error())),
        }
    }

    fn is_sick(self) -> bool {
        matches!(self, Self::Dead | Self::Silent | Self::Fails)
    }
}

fn phases() -> impl Strategy<Value = Vec<(i64, Phase)>> {
    let phase = prop_oneof![
        3 => Just(Phase::Well), 2 => Just(Phase::Slow), 2 => Just(Phase::Saturated),
        1 => Just(Phase::Dead), 1 => Just(Phase::Silent), 1 => Just(Phase::Fails),
    ];
    prop::collection::vec((30_i64..900, phase), 1..8)
}

fn phase_at(phases: &[(i64, Phase)], second: i64) -> Phase {
    let mut ends = 0;
    let found = phases.iter().find(|(seconds, _)| {
        ends += seconds;
        second <= ends
    });
    found.map_or(Phase::Well, |(_, phase)| *phase)
}

/// A call that got no byte yet when a phase ended had begun so long before at most.
const BEGUN: i64 = 80;

/// For how many seconds before `second` nothing of ours was served.
fn served_nothing_for(phases: &[(i64, Phase)], second: i64) -> i64 {
    (1..=second).rev().take_while(|s| !matches!(phase_at(phases, *s), Phase::Well | Phase::Slow)).count() as i64
}

/// Plays phases, then health for an hour.
fn play(phases: &[(i64, Phase)], work: bool, tamper: Option<Tamper>) -> BackendWorld {
    let known = phases.to_vec();
    let script = move |moment: Moment| phase_at(&known, moment.second).behavior();
    let mut world = BackendWorld::new(ollama(), true, Box::new(script));
    world.work = work;
    if let Some(tamper) = tamper {
        world = world.tampered(tamper);
    }
    world.run(phases.iter().map(|(seconds, _)| seconds).sum::<i64>() + 3_700)
}

/// What must hold of a history; the error says what does not.
fn check(phases: &[(i64, Phase)], world: &BackendWorld) -> Result<(), String> {
    // A judgement comes at most so long after its evidence: graces, retries and the steps before a restart.
    const LATE: i64 = 700;
    // A server that is busy for busyGraceSeconds counts as hung.
    let grace = i64::from(world.spec.busy_grace_seconds);
    let is_due = |s: i64| s > 0 && (phase_at(phases, s).is_sick() || served_nothing_for(phases, s) >= grace - BEGUN);
    if let Some(second) =
        world.restarts.iter().chain(&world.unloads).find(|second| !(**second - LATE..=**second).any(is_due))
    {
        return Err(format!("acted at {second} on a server that was neither dead nor hung nor failing"));
    }
    let acted = |until: i64| world.restarts.iter().chain(&world.unloads).filter(|s| **s <= until).max().copied();
    for (second, note) in &world.notes {
        if let PlanNote::Helped { evidence, .. } = note {
            let after = acted(*second).unwrap_or(0);
            let served = (after..=*second).any(|s| matches!(phase_at(phases, s), Phase::Well | Phase::Slow));
            if !served || evidence.is_empty() {
                return Err(format!("helped at {second} without a call that was served: {evidence:?}"));
            }
        }
    }
    if !world.ready() {
        return Err(format!("an hour of health ends in {:?}: {:?}", world.state(), world.states.last()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_restarted_without_evidence_and_everything_ends(phases in phases(), work in any::<bool>()) {
        let world = play(&phases, work, None);
        prop_assert_eq!(check(&phases, &world), Ok(()), "{:?}", world.states);
    }
}

/// Others' work is a reason to wait for `busyGraceSeconds`, and then counts as a hang, whether or not the server was ever well.
#[test]
fn a_saturated_server_is_left_alone_for_its_grace_and_no_longer() {
    use Phase::{Saturated, Slow, Well};
    for (phases, grace_ends) in [
        (vec![(600, Saturated), (600, Saturated), (590, Saturated)], None),
        (vec![(900, Saturated), (901, Saturated)], Some(1_800)),
        (vec![(30, Well), (900, Saturated), (900, Saturated), (60, Saturated)], Some(1_830)),
        (vec![(100, Slow), (899, Saturated), (880, Saturated)], None),
        (vec![(900, Saturated), (60, Well), (900, Saturated), (890, Saturated)], None),
    ] {
        for work in [false, true] {
            let world = play(&phases, work, None);
            assert_eq!(check(&phases, &world), Ok(()), "{phases:?} {work}: {:?}", world.states);
            let acted: Vec<i64> = world.restarts.iter().chain(&world.unloads).copied().collect();
            match grace_ends {
                None => assert!(acted.is_empty(), "{phases:?} {work}: {acted:?}"),
                Some(ends) => {
                    assert!(acted.iter().all(|second| *second >= ends - BEGUN), "{phases:?} {work}: {acted:?}")
                }
            }
        }
    }
}

/// Each rule is broken once: the check must notice.
#[test]
fn a_broken_rule_is_noticed() {
    let saturated = [(120, Phase::Well), (2_000, Phase::Saturated)];
    let deaf: Tamper = |seen, _| seen.cpu = CpuHistory::default();
    let world = play(&saturated, false, Some(deaf));
    check(&saturated, &world).expect_err("silence is taken for death");

    let hung = [(120, Phase::Well), (1_500, Phase::Silent)];
    let credulous: Tamper = |seen, now| {
        // A canary counts as served whatever came of it.
        if seen.canary.last.as_ref().is_some_and(|last| last.result.is_err()) {
            let served = vec![served_call("small", now - SignedDuration::from_secs(1), "canary")];
            seen.evidence = BackendEvidence::default().with(&CallEvidence { served, ..CallEvidence::default() });
        }
    };
    let world = play(&hung, true, Some(credulous));
    check(&hung, &world).expect_err("helped without a served call");

    let patient: Tamper = |seen, now| {
        // It seems to work for ever.
        seen.cpu.push("7@70".into(), true, now - SignedDuration::from_secs(1), now);
        seen.probes.full_since = None;
    };
    let world = play(&hung, true, Some(patient));
    assert!(world.unloads.is_empty(), "a false sign of life hides the hang: {:?}", world.unloads);
    let world = play(&hung, true, None);
    assert_eq!(check(&hung, &world), Ok(()));
    assert!(!world.unloads.is_empty());
}

/// 24 hours of a server that is slow and well: arrivals and lengths with heavy tails, prompts of five minutes without a byte.
#[test]
fn a_day_of_slow_but_healthy_servers_restarts_nothing() {
    for (agent, seed) in [(true, 1_u64), (false, 2), (true, 3), (false, 4)] {
        let script = move |moment: Moment| {
            // A Pareto-like draw for each ten minutes, from a hash of the seed.
            let slot = u64::try_from(moment.second / 600).unwrap();
            let draw = (slot ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
            let part = (draw % 1_000) as f64 / 1_000.0;
            let first = (2.0 / (1.0 - part).max(0.006)).min(300.0) as i64;
            let total = first + (5.0 / (1.0 - part).max(0.02)).min(200.0) as i64;
            let probe = if part > 0.8 { ProbeVerdict::Timeout } else { listing() };
            Behavior { probe, ..Behavior::replies(Reply::Served { first, total }) }
        };
        let world = BackendWorld::new(ollama(), agent, Box::new(script)).with_work().run(86_400);
        assert_eq!((&world.restarts[..], &world.unloads[..]), (&[][..], &[][..]), "agent {agent}: {:?}", world.states);
        assert!(world.served > 500, "{} served", world.served);
    }
}
