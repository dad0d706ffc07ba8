use crate::{
    api::{BackendState, ConditionStatus, LLMBackendSpec},
    store::Admission,
};

use super::{
    super::{
        judge::{Judgement, judge},
        memory::Cause,
        seen::Pull,
    },
    *,
};

fn judged(spec: &LLMBackendSpec, seen: &Seen, memory: &Memory) -> Judgement {
    judge(spec, seen, memory, at(0))
}

#[test]
fn a_probe_says_what_a_server_is() {
    use BackendState as S;
    use ProbeVerdict as V;
    let refused = || V::Refused;
    type Case = (&'static str, Vec<V>, S, &'static str, Option<Cause>);
    let cases: Vec<Case> = vec![
        ("nothing asked yet", vec![], S::Proving, "Proving", None),
        ("listed and proved", vec![listing()], S::Idle, "Idle", None),
        ("one refusal of a good one", vec![listing(), refused()], S::Idle, "Idle", None),
        ("two refusals of a good one", vec![listing(), refused(), refused()], S::Idle, "Idle", None),
        ("three refusals", vec![listing(), refused(), refused(), refused()], S::Down, "Refused", Some(Cause::Refused)),
        ("never up", vec![refused()], S::Proving, "Proving", None),
        ("three time-outs", vec![V::Timeout, V::Timeout, V::Timeout], S::Down, "Timeout", Some(Cause::Timeout)),
        ("three resets", vec![V::Reset, V::Reset, V::Reset], S::Down, "Reset", Some(Cause::Reset)),
        ("three errors", vec![V::ServerError { status: 500 }; 3], S::Down, "ServerError", Some(Cause::ServerError)),
        ("a good one between", vec![refused(), refused(), listing(), refused(), refused()], S::Idle, "Idle", None),
        ("401", vec![V::Unauthorized { status: 401 }], S::Unauthorized, "Unauthorized", None),
        ("429", vec![V::RateLimited { retry_after: None }], S::RateLimited, "RateLimited", None),
        ("503", vec![listing(), V::Busy], S::Busy, "Busy", None),
        ("no models at all", vec![V::Models(Vec::new().into())], S::ModelsMissing, "ModelsMissing", None),
        (
            "only others",
            vec![V::Models(vec!["other:latest".to_owned()].into())],
            S::ModelsMissing,
            "ModelsMissing",
            None,
        ),
    ];
    for (case, verdicts, state, reason, cause) in cases {
        let judged = judged(&ollama(), &probed(&verdicts, at(0)), &proved(at(-100)));
        assert_eq!((judged.state, judged.reason, judged.cause), (state, reason, cause), "{case}");
    }
}

#[test]
fn a_new_backend_is_proved_once_by_an_inference() {
    let seen = probed(&[listing()], at(0));
    let new = judged(&ollama(), &seen, &Memory::default());
    assert_eq!(
        (new.state, new.ready, new.needs_proof, new.admission),
        (BackendState::Proving, false, true, Admission::Closed)
    );
    assert!(judged(&ollama(), &seen, &proved(at(-1))).ready);
    let changed = Seen { generation: 2, ..seen.clone() };
    assert!(judged(&ollama(), &changed, &proved(at(-1))).needs_proof, "a changed spec");
    let never = spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}], canary: {when: Never}}");
    assert!(judged(&never, &seen, &Memory::default()).ready, "with Never, a listing suffices");
    let none = spec("{engine: Ollama, url: 'http://h:1'}");
    assert!(
        judged(&none, &probed(&[ProbeVerdict::Models(Vec::new().into())], at(0)), &Memory::default()).ready,
        "nothing to ask"
    );
}

#[test]
fn what_came_back_or_was_started_anew_is_proved_again() {
    let refused = ProbeVerdict::Refused;
    let back = probed(&[refused.clone(), refused.clone(), refused, listing()], at(0));
    assert!(judged(&ollama(), &back, &proved(at(-100))).needs_proof, "it was down since");
    assert!(judged(&ollama(), &back, &proved(at(0))).ready, "and was proved since");
    let mut memory = proved(at(-100));
    memory.proof.as_mut().unwrap().instance = Some("1@1".into());
    let other = Seen { agent: heard(service(ServiceState::Running), at(0)), ..probed(&[listing()], at(0)) };
    assert!(judged(&ollama(), &other, &memory).needs_proof, "another process");
}

#[test]
fn a_200_that_proves_no_models_is_decided_by_an_inference() {
    let bad_body = probed(&[ProbeVerdict::NeedsInference { bad_body: true }], at(0));
    let unproved = judged(&mlx(), &bad_body, &Memory::default());
    assert_eq!((unproved.state, unproved.needs_proof), (BackendState::Proving, true));
    assert_eq!(unproved.models_ready.status, ConditionStatus::Unknown);
    let ready = judged(&mlx(), &bad_body, &proved(at(-1)));
    assert!(ready.ready);
    assert_eq!(ready.models_ready.reason, "ProvedByInference");
}

#[test]
fn models_that_are_to_be_pulled_are_work_and_others_are_a_humans() {
    let pulls = spec("{engine: Ollama, url: 'http://h:1', models: [{name: a, pull: true}, {name: b, pull: true}]}");
    let some = probed(&[ProbeVerdict::Models(vec!["a:latest".to_owned()].into())], at(0));
    let pulling = judged(&pulls, &some, &Memory::default());
    assert_eq!((pulling.state, pulling.reason, pulling.for_human), (BackendState::Proving, "Pulling", false));
    assert_eq!(pulling.to_pull, ["b"]);
    let mut failed = some.clone();
    failed.pulls.insert("b".into(), Pull { error: Some("no space".into()), ..Pull::default() });
    assert!(judged(&pulls, &failed, &Memory::default()).message.contains("no space"));
    let mixed = spec("{engine: Ollama, url: 'http://h:1', models: [{name: b, pull: true}, {name: c}]}");
    let lacking = judged(&mixed, &some, &Memory::default());
    assert_eq!((lacking.state, lacking.for_human), (BackendState::ModelsMissing, true));
}

#[test]
fn a_wrong_user_is_named_and_never_healed() {
    let mut report = service(ServiceState::Running);
    report.wanted_user = Some("bob".into());
    let seen = Seen { agent: heard(report, at(0)), ..probed(&[ProbeVerdict::Models(Vec::new().into())], at(0)) };
    let judged = judged(&ollama(), &seen, &proved(at(-1)));
    assert_eq!((judged.state, judged.for_human, judged.cause), (BackendState::WrongUser, true, None));
    assert_eq!(judged.models_ready.status, ConditionStatus::False);
    assert!(judged.message.contains("runs as ada, not bob"), "{}", judged.message);
}

#[test]
fn a_canary_that_times_out_is_judged_by_who_works() {
    use BackendState as S;
    // (CPU advanced per canary, one after the other) → state
    let cases: Vec<(&str, Vec<Option<bool>>, S)> = vec![
        ("CPU stands still", vec![Some(false)], S::Hung),
        ("CPU advances", vec![Some(true)], S::Busy),
        ("CPU advances thrice", vec![Some(true); 3], S::Busy),
        ("nobody sees the CPU, once", vec![None], S::Unknown),
        ("nobody sees the CPU, twice", vec![None; 2], S::Unknown),
        ("nobody sees the CPU, thrice", vec![None; 3], S::Hung),
        ("it stopped working", vec![Some(true), Some(false)], S::Hung),
    ];
    for (case, advanced, state) in cases {
        let mut seen = probed(&[listing()], at(0));
        for cpu in advanced {
            seen.canary.push(canaried(Err(timeout()), cpu, at(-1)));
        }
        let judged = judged(&ollama(), &seen, &proved(at(-100)));
        assert_eq!(judged.state, state, "{case}");
        assert_eq!(judged.cause.is_some(), state == S::Hung, "{case}");
    }
}

#[test]
fn others_work_is_left_alone_for_busy_grace_and_no_longer() {
    let mut seen = probed(&[listing()], at(0));
    seen.canary.push(canaried(Err(timeout()), Some(true), at(-1700)));
    seen.canary.push(canaried(Err(timeout()), Some(true), at(-1)));
    assert_eq!(judged(&ollama(), &seen, &proved(at(-9000))).state, BackendState::Busy);
    let mut longer = probed(&[listing()], at(0));
    longer.canary.push(canaried(Err(timeout()), Some(true), at(-1900)));
    longer.canary.push(canaried(Err(timeout()), Some(true), at(-1)));
    assert_eq!(judged(&ollama(), &longer, &proved(at(-9000))).state, BackendState::Hung);
}

#[test]
fn a_slow_listing_of_a_server_that_works_is_busy_not_down() {
    let mut seen = probed(&[listing(), ProbeVerdict::Timeout, ProbeVerdict::Timeout, ProbeVerdict::Timeout], at(0));
    assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, BackendState::Down);
    seen.canary.busy_since = Some(at(-10));
    assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, BackendState::Busy);
}

#[test]
fn tokens_are_the_canary_of_a_busy_server() {
    let with = |last_token: Option<i64>, oldest: i64| {
        let mut seen = probed(&[listing()], at(0));
        seen.load.in_flight = 2;
        seen.load.last_token_at = last_token.map(at);
        seen.load.oldest_call_at = Some(at(oldest));
        seen
    };
    let cases = [
        ("tokens flow", with(Some(-3), -900), BackendState::Serving),
        ("none for stallSeconds", with(Some(-61), -900), BackendState::Hung),
        ("a model loads", with(None, -300), BackendState::Serving),
        ("no first token in startupSeconds", with(None, -601), BackendState::Hung),
    ];
    for (case, seen, state) in cases {
        assert_eq!(judged(&ollama(), &seen, &proved(at(-1000))).state, state, "{case}");
    }
    let mut flowing = with(Some(-3), -900);
    flowing.canary.push(canaried(Err(timeout()), Some(false), at(-1)));
    assert_eq!(
        judged(&ollama(), &flowing, &proved(at(-1000))).state,
        BackendState::Serving,
        "a time-out while tokens flow is no verdict"
    );
}

#[test]
fn a_server_that_just_started_is_given_startup_seconds() {
    let starting = |since: i64| {
        let mut seen = probed(&[ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused], at(0));
        seen.agent = heard(service(ServiceState::Starting), at(0));
        if let AgentView::Heard(service) = &mut seen.agent {
            service.instance_since = Some(at(since));
        }
        seen
    };
    assert_eq!(judged(&ollama(), &starting(-599), &Memory::default()).reason, "Starting");
    assert_eq!(judged(&ollama(), &starting(-601), &Memory::default()).state, BackendState::Down);
}

#[test]
fn an_old_verdict_is_unknown_and_gives_one_slot_at_a_time() {
    let fresh = judge(&ollama(), &probed(&[listing()], at(-31)), &proved(at(-100)), at(0));
    assert_eq!(fresh.state, BackendState::Idle);
    let stale = judge(&ollama(), &probed(&[listing()], at(-33)), &proved(at(-100)), at(0));
    assert_eq!((stale.state, stale.admission), (BackendState::Unknown, Admission::One));
}

#[test]
fn a_service_that_a_person_stopped_is_not_down() {
    let mut seen = probed(&[ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused], at(0));
    seen.agent = heard(held(HoldOwner::Person, at(-9)), at(0));
    let judged = judged(&ollama(), &seen, &proved(at(-100)));
    assert_eq!((judged.state, judged.reason, judged.cause), (BackendState::Suspended, "StoppedByPerson", None));
}

#[test]
fn inferences_that_fail_while_listings_answer_are_down_at_the_threshold() {
    let mut seen = probed(&[listing()], at(0));
    let error = || Failure::ServerError { status: 500, detail: "x".into() };
    for (n, state) in [(1, BackendState::Idle), (2, BackendState::Idle), (3, BackendState::Down)] {
        seen.canary.push(canaried(Err(error()), None, at(-4 + n)));
        assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, state, "{n} failures");
    }
}

#[test]
fn the_first_pods_of_a_workload_are_given_startup_seconds() {
    let spec =
        spec("{engine: Ollama, url: 'http://engine:11434', recovery: {workloadRef: {kind: Deployment, name: engine}}}");
    let refused = |created: i64| {
        let seen = probed(&[ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused], at(0));
        Seen { created_at: Some(at(created)), ..seen }
    };
    assert_eq!(judged(&spec, &refused(-599), &Memory::default()).reason, "Starting");
    assert_eq!(judged(&spec, &refused(-601), &Memory::default()).state, BackendState::Down);
    assert_eq!(judged(&spec, &refused(-10), &proved(at(-5))).state, BackendState::Down, "it served already");
}
