//! Hours by a simulated clock: an engine that never comes back, one that is put right by hand, one at random.

use proptest::prelude::*;

use crate::api::LLMBackendSpec;

use super::{
    super::{
        memory::AttemptResult,
        plan::{PlanNote, RecoveryAct, RecoveryOutcome, decide, record},
    },
    *,
};

/// A backend and the world around it, one second a step.
struct BackendWorld {
    spec: LLMBackendSpec,
    seen: BackendFacts,
    memory: BackendMemory,
    now: i64,
    restarts: Vec<i64>,
    notes: Vec<(i64, PlanNote)>,
}

impl BackendWorld {
    fn new() -> Self {
        Self {
            spec: ollama(),
            seen: BackendFacts { generation: 1, ..BackendFacts::default() },
            memory: BackendMemory::default(),
            now: 0,
            restarts: vec![],
            notes: vec![],
        }
    }

    /// One second with a server that answers or not; an agent's restart is done at once.
    fn second(&mut self, up: bool) {
        self.now += 1;
        let now = at(self.now);
        let verdict = if up { listing() } else { ProbeVerdict::Refused };
        self.seen.probes.push(ProbeResult { at: now, verdict, millis: 1, not_before: None }, 3, 1);
        self.seen.agent = heard(service(if up { ServiceState::Running } else { ServiceState::Stopped }), now);
        if let AgentView::Heard(service) = &mut self.seen.agent {
            service.exited_at = (!up).then_some(now);
        }
        let (_, plan) = decide(&self.spec, &self.seen, &self.memory, &format!("e{}", self.now), now);
        self.memory = plan.memory;
        self.notes.extend(plan.notes.into_iter().map(|n| (self.now, n)));
        if let Some(RecoveryAct::Restart { .. }) = plan.act {
            self.restarts.push(self.now);
            self.notes.extend(record(&mut self.memory, &RecoveryOutcome::Done, now).map(|n| (self.now, n)));
        }
        if up && plan.prove {
            self.seen.evidence = served(self.now);
        }
    }

    fn deferred(&self) -> bool {
        self.memory.is_deferred()
    }
}

#[test]
fn an_engine_that_never_comes_back_is_deferred_and_tried_silently_once_an_hour() {
    let mut world = BackendWorld::new();
    (0..10).for_each(|_| world.second(true));
    (0..8 * 3600).for_each(|_| world.second(false));
    let deferrals: Vec<_> =
        world.notes.iter().filter(|(_, n)| matches!(n, PlanNote::Deferred { .. })).map(|(t, _)| *t).collect();
    assert_eq!(deferrals.len(), 1, "a human is told once");
    let (before, after): (Vec<i64>, Vec<i64>) = world.restarts.iter().partition(|t| **t <= deferrals[0]);
    assert_eq!(before.len(), 3, "maxAttempts restarts: {before:?}");
    assert!(before.windows(2).all(|w| w[1] - w[0] >= 10), "a wait that doubles between: {before:?}");
    assert!((6..=8).contains(&after.len()), "one an hour: {after:?}");
    assert!(after.windows(2).all(|w| w[1] - w[0] >= 3600), "{after:?}");
    assert_eq!(before[0] - 10, 1, "the first one as soon as the agent saw it end");
}

#[test]
fn a_second_death_soon_after_a_recovery_is_answered_at_once() {
    let mut world = BackendWorld::new();
    (0..10).for_each(|_| world.second(true));
    (0..3).for_each(|_| world.second(false));
    assert_eq!(world.restarts.len(), 1);
    (0..60).for_each(|_| world.second(true));
    (0..3).for_each(|_| world.second(false));
    assert_eq!(world.restarts.len(), 2, "it had served since: no wait for periodSeconds");
    (0..5).for_each(|_| world.second(false));
    assert_eq!(world.restarts.len(), 2, "the next one waits");
}

#[test]
fn put_right_by_hand_a_deferral_clears_by_itself() {
    let mut world = BackendWorld::new();
    (0..10).for_each(|_| world.second(true));
    (0..2 * 3600).for_each(|_| world.second(false));
    assert!(world.deferred());
    (0..5).for_each(|_| world.second(true));
    assert!(!world.deferred());
    assert!(world.notes.iter().any(|(_, n)| *n == PlanNote::Recovered { was_deferred: true }));
    (0..700).for_each(|_| world.second(true));
    assert_eq!(world.memory.episode, None, "well for minHealthySeconds: attempts count anew");
}

#[test]
fn attempts_count_on_until_it_was_well_for_long_enough() {
    let mut world = BackendWorld::new();
    (0..10).for_each(|_| world.second(true));
    for _ in 0..6 {
        (0..400).for_each(|_| world.second(false));
        (0..100).for_each(|_| world.second(true));
    }
    assert_eq!(world.restarts.len(), 3, "flapping does not buy more attempts: {:?}", world.restarts);
}

#[test]
fn a_persons_reconcile_begins_a_new_episode() {
    let mut world = BackendWorld::new();
    (0..10).for_each(|_| world.second(true));
    (0..2 * 3600).for_each(|_| world.second(false));
    let before = world.restarts.len();
    world.seen.will.reconcile_token = Some("2026-01-01T00:00:00Z".into());
    (0..5).for_each(|_| world.second(false));
    assert_eq!(world.restarts.len(), before + 1);
    assert!(!world.deferred());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server does, the bounds hold: never two restarts without a wait or a served call between, never more than maxPerDay that are not
    /// silent, never more than maxAttempts in a row of failures, and nothing while people want it left alone.
    #[test]
    fn the_bounds_hold_whatever_the_server_does(phases in prop::collection::vec((1_usize..1200, any::<bool>(), 0_u8..8), 1..40)) {
        let mut world = BackendWorld::new();
        for (seconds, up, will) in phases {
            world.seen.will.suspended = will == 0;
            world.seen.will.paused = will == 1;
            world.seen.will.observe = will == 2;
            let before = world.restarts.len();
            (0..seconds).for_each(|_| world.second(up));
            if will <= 2 {
                prop_assert_eq!(world.restarts.len(), before);
            }
        }
        let served_between = |a: i64, b: i64| {
            world.notes.iter().any(|(t, n)| (a..=b).contains(t) && matches!(n, PlanNote::Recovered { .. }))
        };
        let waited = |w: &[i64]| w[1] - w[0] >= 10 || served_between(w[0], w[1]);
        prop_assert!(world.restarts.windows(2).all(waited), "{:?}", world.restarts);
        let silent = world.notes.iter().filter(|(_, n)| matches!(n, PlanNote::Attempt { silent: true, .. })).count();
        for start in &world.restarts {
            let day = world.restarts.iter().filter(|t| (*start..start + 86_400).contains(t)).count();
            prop_assert!(day <= 12 + silent, "{day} in a day");
        }
        let running = world.memory.history.iter().filter(|a| a.result == AttemptResult::Running).count();
        prop_assert!(running <= 1);
        // What is remembered survives a restart as it was.
        let document = serde_json::to_value(&world.memory).unwrap();
        prop_assert_eq!(serde_json::from_value::<BackendMemory>(document).unwrap(), world.memory);
    }
}
