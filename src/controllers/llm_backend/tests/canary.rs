use crate::{api::LLMBackendSpec, engines::KeepAlive};

use super::{
    super::{
        facts::Misdeclared,
        plan::{CanaryOrder, CanaryPlan, Skip, plan_canary},
    },
    *,
};

fn always() -> LLMBackendSpec {
    spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}], canary: {when: Always}}")
}

fn planned(spec: &LLMBackendSpec, seen: &BackendFacts, prove: bool) -> CanaryPlan {
    plan_canary(spec, seen, prove, None, |_| true, at(0))
}

#[test]
fn a_canary_is_skipped_for_every_reason_of_politeness() {
    let base = || {
        let mut seen = probed(&[listing()], at(0));
        seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
        seen.load.last_call_at = Some(at(-10));
        seen
    };
    let with = |change: fn(&mut BackendFacts)| {
        let mut seen = base();
        change(&mut seen);
        seen
    };
    let cases: Vec<(Skip, LLMBackendSpec, BackendFacts, bool)> = vec![
        (Skip::NotWanted, ollama(), with(|s| s.will.suspended = true), false),
        (Skip::NotWanted, ollama(), with(|s| s.misdeclared = Some(Misdeclared::LoopbackUrl)), false),
        (Skip::NotWanted, spec("{engine: Ollama, url: 'http://h:1', canary: {when: Never}}"), base(), true),
        (Skip::NotAnswering, ollama(), probed(&[ProbeVerdict::Refused], at(0)), true),
        (Skip::CallInFlight, ollama(), with(|s| (s.load.in_flight, s.load.open) = (1, vec![open(-9, None)])), true),
        (Skip::CallInFlight, ollama(), with(|s| s.load.in_flight = 1), false),
        (Skip::Running, ollama(), with(|s| s.canary.running_since = Some(at(-5))), true),
        (Skip::NoDemand, ollama(), with(|s| s.load.last_call_at = Some(at(-301))), false),
        (Skip::NotLoaded, always(), with(|s| s.loaded = Some(vec![])), false),
        (Skip::LeavesSoon, ollama(), with(|s| s.loaded = Some(vec![loaded("small:latest", Some(at(29)))])), false),
        (
            Skip::OthersSession,
            always(),
            with(|s| {
                s.load.last_call_at = None;
                s.used_by_others.insert("small:latest".into());
            }),
            false,
        ),
        (
            Skip::NoModel,
            spec("{engine: Ollama, url: 'http://h:1'}"),
            with(|s| {
                s.probes = probed(&[models(&[])], at(0)).probes;
                s.loaded = Some(vec![]);
            }),
            true,
        ),
        (
            Skip::NotWanted,
            spec(
                "{engine: OpenAI, url: 'http://h:1', authSecretRef: {name: s}, models: [{name: small}], canary: {when: Always}}",
            ),
            base(),
            false,
        ),
    ];
    for (skip, spec, seen, prove) in cases {
        assert_eq!(planned(&spec, &seen, prove), CanaryPlan::Skip(skip));
    }
}

#[test]
fn a_canary_waits_for_its_period_and_doubles_after_failures() {
    let base = || {
        let mut seen = probed(&[listing()], at(0));
        seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
        seen.load.last_call_at = Some(at(-10));
        seen
    };
    let later = |change: fn(&mut BackendFacts), prove: bool| {
        let mut seen = base();
        change(&mut seen);
        match planned(&ollama(), &seen, prove) {
            CanaryPlan::Later(at) => Some(at.as_second() - super::at(0).as_second()),
            CanaryPlan::Send(_) | CanaryPlan::Skip(_) => None,
        }
    };
    assert_eq!(later(|s| s.evidence = served(-50), false), Some(11), "a real call is as good");
    assert_eq!(later(|s| s.canary.push(canaried(Ok(()), at(-50))), false), Some(10));
    assert_eq!(
        later(|s| s.canary.push(canaried(Ok(()), at(-2))), true),
        Some(3),
        "also a proof is not asked for in a loop"
    );
    let failed = |n: i32| {
        let mut seen = base();
        (0..n).for_each(|_| seen.canary.push(canaried(Err(error()), at(0))));
        match planned(&ollama(), &seen, true) {
            CanaryPlan::Later(at) => at.as_second() - super::at(0).as_second(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([1, 2, 3, 7, 30].map(failed), [5, 10, 20, 300, 300]);
}

#[test]
fn our_own_workers_are_nobody_elses_session() {
    let mut seen = probed(&[listing()], at(0));
    seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
    seen.used_by_others.insert("small:latest".into());
    seen.load.last_call_at = Some(at(-100));
    assert!(matches!(planned(&ollama(), &seen, false), CanaryPlan::Send(_)));
}

#[test]
fn a_model_that_should_have_left_is_asked() {
    let mut seen = probed(&[listing()], at(0));
    seen.loaded = Some(vec![loaded("small:latest", Some(at(-40)))]);
    seen.load.last_call_at = Some(at(-100));
    assert!(matches!(planned(&ollama(), &seen, false), CanaryPlan::Send(_)));
}

fn sent(plan: CanaryPlan) -> (String, Option<KeepAlive>, bool) {
    match plan {
        CanaryPlan::Send(CanaryOrder { model, keep_alive, loads, .. }) => {
            (model.as_str().to_owned(), keep_alive, loads)
        }
        other => panic!("not sent: {other:?}"),
    }
}

#[test]
fn it_leaves_a_models_expiry_as_it_was() {
    let mut seen = probed(&[listing()], at(0));
    seen.load.last_call_at = Some(at(-10));
    let models = vec![loaded("small:latest", Some(at(200)))];
    seen.loaded = Some(models.clone());
    let (model, keep_alive, loads) = sent(planned(&ollama(), &seen, false));
    assert_eq!(
        (model.as_str(), keep_alive, loads),
        ("small:latest", Some(KeepAlive::For(Duration::from_secs(200))), false)
    );
    let pinned = vec![loaded("small:latest", Some(at(200 * 365 * 86_400)))];
    seen.loaded = Some(pinned.clone());
    assert_eq!(sent(planned(&ollama(), &seen, false)).1, Some(KeepAlive::Forever));
}

#[test]
fn a_proof_asks_a_declared_model_and_loads_it_where_it_must() {
    let two = spec("{engine: Ollama, url: 'http://h:1', models: [{name: big}, {name: small}]}");
    let mut seen = probed(&[models(&["big:latest", "small:latest"])], at(0));
    seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
    assert_eq!(sent(planned(&two, &seen, true)).0, "small:latest", "what is in memory needs no loading");
    seen.loaded = Some(vec![loaded("other:latest", Some(at(200)))]);
    let (model, keep_alive, loads) = sent(planned(&two, &seen, true));
    assert_eq!((model.as_str(), loads), ("big:latest", true), "another model proves nothing");
    assert_eq!(keep_alive, Some(KeepAlive::For(Duration::from_secs(300))));
}

#[test]
fn an_unlisted_name_never_reaches_mlx() {
    let unlisted = spec("{engine: MLX, url: 'http://h:1', models: [{name: org/unknown}]}");
    let seen = probed(&[listing()], at(0));
    assert_eq!(planned(&unlisted, &seen, true), CanaryPlan::Skip(Skip::NoModel));
    let unproved = probed(&[ProbeVerdict::NeedsInference { bad_body: true }], at(0));
    assert_eq!(sent(planned(&unlisted, &unproved, true)).0, "default_model");
}

#[test]
fn a_canary_of_the_process_before_delays_no_proof_of_the_next_one() {
    let mut seen = probed(&[listing()], at(0));
    seen.loaded = Some(vec![]);
    // It took 15 seconds, and ended a second ago.
    seen.canary.push(canaried(Ok(()), at(-1)));
    let plan = |fresh_after| plan_canary(&ollama(), &seen, true, fresh_after, |_| true, at(0));
    assert_eq!(plan(None), CanaryPlan::Later(at(4)), "it proved nothing, and is not asked again at once");
    assert!(matches!(plan(Some(at(-2))), CanaryPlan::Send(_)), "a step ended since that began");
}
