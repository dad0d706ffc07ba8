use crate::{
    api::{BackendState, ConditionStatus, LLMBackendSpec},
    controllers::shared::Occupied,
    store::{Admission, SlotPurpose, SlotRow},
};

use super::{
    super::{
        facts::{BackendLoad, Misdeclared, Pull},
        judge::BackendAssessment,
        memory::RecoveryCause,
        plan::decide,
    },
    *,
};

/// As a pass does: the proof is noted first.
fn judged(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory) -> BackendAssessment {
    judged_at(spec, seen, memory, at(0))
}

fn judged_at(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory, now: Timestamp) -> BackendAssessment {
    decide(spec, seen, memory, "e", now).0
}

#[test]
fn a_probe_says_what_a_server_is() {
    use BackendState as S;
    use ProbeVerdict as V;
    let refused = || V::Refused;
    type Case = (&'static str, Vec<V>, S, &'static str, Option<RecoveryCause>);
    let cases: Vec<Case> = vec![
        ("nothing asked yet", vec![], S::Proving, "Proving", None),
        ("listed and proved", vec![listing()], S::Idle, "Idle", None),
        ("one refusal of a good one", vec![listing(), refused()], S::Idle, "Idle", None),
        ("two refusals of a good one", vec![listing(), refused(), refused()], S::Idle, "Idle", None),
        (
            "three refusals",
            vec![listing(), refused(), refused(), refused()],
            S::Down,
            "Refused",
            Some(RecoveryCause::Refused),
        ),
        ("never up", vec![refused()], S::Proving, "Proving", None),
        ("three time-outs demand a proof", vec![V::Timeout; 3], S::Unknown, "NotAnswering", None),
        ("three resets", vec![V::Reset, V::Reset, V::Reset], S::Down, "Reset", Some(RecoveryCause::Reset)),
        ("three errors demand a proof", vec![V::ServerError { status: 500 }; 3], S::Unknown, "NotAnswering", None),
        ("no route", vec![V::Unreachable("no route".into()); 3], S::Unreachable, "Unreachable", None),
        ("a certificate", vec![V::Misconfigured("self-signed".into()); 3], S::Misconfigured, "Misconfigured", None),
        ("503 while it loads", vec![listing(), V::Loading], S::Proving, "Loading", None),
        ("a good one between", vec![refused(), refused(), listing(), refused(), refused()], S::Idle, "Idle", None),
        ("401", vec![V::Unauthorized { status: 401 }], S::Unauthorized, "Unauthorized", None),
        ("429", vec![V::RateLimited { retry_after: None }], S::RateLimited, "RateLimited", None),
        ("503", vec![listing(), V::Busy], S::Busy, "Busy", None),
        ("no models at all", vec![models(&[])], S::ModelsMissing, "ModelsMissing", None),
        ("only others", vec![models(&["other:latest"])], S::ModelsMissing, "ModelsMissing", None),
    ];
    for (case, verdicts, state, reason, cause) in cases {
        let judged = judged(&ollama(), &probed(&verdicts, at(0)), &proved(at(-100)));
        assert_eq!((judged.state, judged.reason, judged.cause), (state, reason, cause), "{case}");
    }
}

#[test]
fn a_server_that_another_namespace_declared_first_is_shared_and_left_to_it() {
    let with =
        |ready| BackendFacts { misdeclared: Some(Misdeclared::SharedServer { ready }), ..BackendFacts::default() };
    for (ready, state) in
        [(Some(true), BackendState::Shared), (Some(false), BackendState::Down), (None, BackendState::Proving)]
    {
        let (judged, plan) = decide(&ollama(), &with(ready), &BackendMemory::default(), "e", at(0));
        assert_eq!((judged.state, judged.ready, judged.cause), (state, ready == Some(true), None));
        assert!(plan.act.is_none() && plan.pull.is_empty() && plan.preload.is_none() && !judged.for_human, "{plan:?}");
    }
}

#[test]
fn a_workload_that_does_not_exist_is_named() {
    let missing = Misdeclared::WorkloadMissing { workload: "Deployment engine".into() };
    let judged = judged(
        &ollama(),
        &BackendFacts { misdeclared: Some(missing), ..BackendFacts::default() },
        &BackendMemory::default(),
    );
    assert_eq!((judged.state, judged.for_human), (BackendState::WorkloadMissing, true));
    assert!(judged.message.contains("Deployment engine, which does not exist"), "{}", judged.message);
}

#[test]
fn a_new_backend_is_proved_once_by_an_inference() {
    let seen = probed(&[listing()], at(0));
    let new = judged(&ollama(), &seen, &BackendMemory::default());
    assert_eq!(
        (new.state, new.ready, new.needs_proof, new.admission),
        (BackendState::Proving, false, true, Admission::Closed)
    );
    assert!(judged(&ollama(), &seen, &proved(at(-1))).ready);
    let changed = BackendFacts { generation: 2, ..seen.clone() };
    assert!(judged(&ollama(), &changed, &proved(at(-1))).needs_proof, "a changed spec");
    let never = spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}], canary: {when: Never}}");
    assert!(judged(&never, &seen, &BackendMemory::default()).ready, "with Never, a listing suffices");
    let none = spec("{engine: Ollama, url: 'http://h:1'}");
    assert!(judged(&none, &probed(&[models(&[])], at(0)), &BackendMemory::default()).ready, "nothing to ask");
}

#[test]
fn what_came_back_or_was_started_anew_is_proved_again() {
    let refused = ProbeVerdict::Refused;
    let back = probed(&[refused.clone(), refused.clone(), refused, listing()], at(0));
    assert!(judged(&ollama(), &back, &proved(at(-100))).needs_proof, "it was down since");
    assert!(judged(&ollama(), &back, &proved(at(0))).ready, "and was proved since");
    let mut memory = proved(at(-100));
    memory.proof.as_mut().unwrap().instance = Some("1@1".into());
    let mut other = BackendFacts { agent: heard(service(ServiceState::Running), at(0)), ..probed(&[listing()], at(0)) };
    assert!(judged(&ollama(), &other, &memory).needs_proof, "another process");
    if let AgentView::Heard(service) = &mut other.agent {
        service.instance_since = Some(at(-20));
    }
    other.evidence = served(-30);
    assert!(judged(&ollama(), &other, &memory).needs_proof, "a call that began in the process before");
    other.evidence = served(-10);
    assert!(judged(&ollama(), &other, &memory).ready, "a call that this process served");
}

#[test]
fn only_a_served_call_of_a_declared_model_proves() {
    let seen = |evidence: BackendEvidence| BackendFacts { evidence, ..probed(&[listing()], at(0)) };
    let of = |model: &str| {
        let served = vec![served_call(model, at(-1), "task 1")];
        let known = BackendMemory { generation: 1, generation_since: Some(at(-50)), ..BackendMemory::default() };
        let evidence = BackendEvidence::default().with(&CallEvidence { served, ..CallEvidence::default() });
        judged(&ollama(), &seen(evidence), &known).ready
    };
    assert!(of("small:latest"));
    assert!(!of("other:latest"), "another model in memory proves nothing");
    let mut moved = seen(BackendEvidence::default());
    moved.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
    moved.used_by_others.insert("small:latest".into());
    assert!(!judged(&ollama(), &moved, &BackendMemory::default()).ready, "an expiry that moved proves nothing");
    let busy = probed(&[ProbeVerdict::Busy], at(0));
    assert!(!judged(&ollama(), &busy, &BackendMemory::default()).ready, "a 503 proves nothing");
}

#[test]
fn a_200_that_proves_no_models_is_decided_by_an_inference() {
    let bad_body = probed(&[ProbeVerdict::NeedsInference { bad_body: true }], at(0));
    let unproved = judged(&mlx(), &bad_body, &BackendMemory::default());
    assert_eq!((unproved.state, unproved.needs_proof), (BackendState::Proving, true));
    assert_eq!(unproved.models_ready.status, ConditionStatus::Unknown);
    let ready = judged(&mlx(), &bad_body, &proved(at(-1)));
    assert!(ready.ready);
    assert_eq!(ready.models_ready.reason, "ProvedByInference");
}

#[test]
fn models_that_are_to_be_pulled_are_work_and_others_are_a_humans() {
    let pulls = spec("{engine: Ollama, url: 'http://h:1', models: [{name: a, pull: true}, {name: b, pull: true}]}");
    let some = probed(&[models(&["a:latest"])], at(0));
    let pulling = judged(&pulls, &some, &BackendMemory::default());
    assert_eq!((pulling.state, pulling.reason, pulling.for_human), (BackendState::Proving, "Pulling", false));
    assert_eq!(pulling.to_pull, ["b"]);
    let mut failed = some.clone();
    failed.pulls.insert("b".into(), Pull { error: Some("no space".into()), ..Pull::default() });
    assert!(judged(&pulls, &failed, &BackendMemory::default()).message.contains("no space"));
    let mixed = spec("{engine: Ollama, url: 'http://h:1', models: [{name: b, pull: true}, {name: c}]}");
    let lacking = judged(&mixed, &some, &BackendMemory::default());
    assert_eq!((lacking.state, lacking.for_human), (BackendState::ModelsMissing, true));
}

#[test]
fn a_wrong_user_is_named_and_never_healed() {
    let mut report = service(ServiceState::Running);
    report.wanted_user = Some("bob".into());
    let seen = BackendFacts { agent: heard(report, at(0)), ..probed(&[models(&[])], at(0)) };
    let judged = judged(&ollama(), &seen, &proved(at(-1)));
    assert_eq!((judged.state, judged.for_human, judged.cause), (BackendState::WrongUser, true, None));
    assert_eq!(judged.models_ready.status, ConditionStatus::False);
    assert!(judged.message.contains("runs as ada, not bob"), "{}", judged.message);
}

#[test]
fn a_canary_that_times_out_is_judged_by_who_works() {
    use BackendState as S;
    // Whether the CPU advanced, how many time-outs → state
    let cases = [
        ("CPU stands still, for 15 s", Some(false), 1, S::Unknown),
        ("CPU stands still, for 35 s", Some(false), 2, S::Hung),
        ("CPU advances", Some(true), 1, S::Busy),
        ("CPU advances thrice", Some(true), 3, S::Busy),
        ("nobody sees the CPU, once", None, 1, S::Unknown),
        ("nobody sees the CPU, twice", None, 2, S::Unknown),
        ("nobody sees the CPU, for two minutes", None, 8, S::Hung),
    ];
    for (case, advanced, timeouts, state) in cases {
        let mut seen = probed(&[listing()], at(0));
        seen.agent = heard(service(ServiceState::Running), at(0));
        seen.cpu = cpu(advanced, at(0));
        for n in (0..timeouts).rev() {
            seen.canary.push(canaried(Err(timeout()), at(-1 - 20 * n)));
        }
        let judged = judged(&ollama(), &seen, &proved(at(-900)));
        assert_eq!(judged.state, state, "{case}");
        assert_eq!(judged.cause.is_some(), state == S::Hung, "{case}");
    }
}

#[test]
fn others_work_is_left_alone_for_busy_grace_and_no_longer() {
    for (since, state) in [(-1_700, BackendState::Busy), (-1_900, BackendState::Hung)] {
        let mut seen = probed(&[listing()], at(0));
        seen.agent = heard(service(ServiceState::Running), at(0));
        seen.cpu = cpu(Some(true), at(0));
        seen.canary.push(canaried(Err(timeout()), at(since)));
        seen.canary.push(canaried(Err(timeout()), at(-1)));
        assert_eq!(judged(&ollama(), &seen, &proved(at(-9_000))).state, state, "since {since}");
    }
}

#[test]
fn a_slow_listing_of_a_server_that_works_is_busy_not_down() {
    let mut seen = probed(&[listing(), ProbeVerdict::Timeout, ProbeVerdict::Timeout, ProbeVerdict::Timeout], at(0));
    let doubtful = judged(&ollama(), &seen, &proved(at(-100)));
    assert_eq!((doubtful.state, doubtful.needs_proof, doubtful.cause), (BackendState::Unknown, true, None));
    seen.agent = heard(service(ServiceState::Running), at(0));
    seen.cpu = cpu(Some(true), at(0));
    assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, BackendState::Busy);
    seen.cpu = CpuHistory::default();
    seen.load.open = vec![open(-900, Some(-5))];
    assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, BackendState::Busy, "a call of ours gets bytes");
    seen.load.open.clear();
    seen.canary.push(canaried(Err(error()), at(14)));
    let failing = judged_at(&ollama(), &seen, &proved(at(-100)), at(15));
    assert_eq!(
        (failing.state, failing.cause),
        (BackendState::Down, Some(RecoveryCause::ServerError)),
        "an inference fails too"
    );
}

#[test]
fn bytes_of_open_calls_are_the_canary_of_a_busy_server() {
    use BackendState as S;
    let with = |calls: &[(i64, Option<i64>)]| {
        let mut seen = probed(&[listing()], at(0));
        seen.load.open = calls.iter().map(|(began, last)| open(*began, *last)).collect();
        seen.load.in_flight = i64::try_from(calls.len()).unwrap();
        seen.loaded = Some(vec![loaded("small:latest", Some(at(200)))]);
        seen
    };
    let cases = [
        ("bytes flow", with(&[(-900, Some(-3))]), None, S::Serving),
        ("none for stallSeconds", with(&[(-900, Some(-61))]), None, S::Hung),
        ("none for stallSeconds, while the CPU works", with(&[(-900, Some(-61))]), Some(true), S::Busy),
        ("others get bytes", with(&[(-900, Some(-61)), (-500, Some(-2))]), None, S::Serving),
        ("it waits behind a call that gets bytes", with(&[(-900, None), (-500, Some(-2))]), None, S::Serving),
        ("no first byte, and nobody sees the CPU", with(&[(-700, None)]), None, S::Serving),
        ("no first byte for busyGraceSeconds", with(&[(-1_801, None)]), None, S::Hung),
        ("no first byte, and no CPU", with(&[(-61, None)]), Some(false), S::Hung),
        ("no first byte yet, and no CPU", with(&[(-29, None)]), Some(false), S::Serving),
    ];
    for (case, mut seen, advanced, state) in cases {
        seen.agent = heard(service(ServiceState::Running), at(0));
        seen.cpu = cpu(advanced, at(0));
        let memory = BackendMemory { served_at: Some(at(-70)), ..proved(at(-2_000)) };
        let mut ready = memory.clone();
        ready.proof.as_mut().unwrap().at = at(-100);
        assert_eq!(judged(&ollama(), &seen, &ready).state, state, "{case}");
    }
    let mut loads = with(&[(-300, None)]);
    loads.loaded = Some(vec![]);
    assert_eq!(judged(&ollama(), &loads, &proved(at(-100))).state, S::Serving, "a model loads");
    loads.load.open = vec![open(-601, None)];
    assert_eq!(judged(&ollama(), &loads, &proved(at(-100))).state, S::Hung, "for longer than startupSeconds");
    loads.absent.look(&[loaded("small:latest", None)], at(-700));
    loads.absent.look(&[], at(-10));
    assert_eq!(
        judged(&ollama(), &loads, &proved(at(-100))).state,
        S::Serving,
        "it waited while the model was in memory"
    );
    let mut flowing = with(&[(-900, Some(-3))]);
    flowing.canary.push(canaried(Err(timeout()), at(-1)));
    assert_eq!(
        judged(&ollama(), &flowing, &proved(at(-100))).state,
        S::Serving,
        "a time-out while bytes flow is no verdict"
    );
    let mut prompt = with(&[(-900, Some(-90)), (-95, None)]);
    for call in &mut prompt.load.open {
        call.model = Some("org/m".into());
    }
    prompt.loaded = None;
    assert_eq!(judged(&mlx(), &prompt, &proved(at(-100))).state, S::Serving, "MLX reads another call's prompt");
}

#[test]
fn two_failed_calls_demand_a_proof_and_a_canary_confirms_them() {
    use CallFault::{Failed, Full, OutOfMemory};
    let base = || BackendFacts { ..probed(&[listing()], at(0)) };
    let of = |evidence: BackendEvidence| BackendFacts { evidence, ..base() };
    let memory = proved(at(-100));
    let one = judged(&ollama(), &of(failed(&[("task 1", -5, Failed), ("task 1", -4, Failed)])), &memory);
    assert!(one.ready && !one.needs_proof, "one request may be to blame: {}", one.message);
    let two = of(failed(&[("task 1", -5, Failed), ("task 2", -4, Failed)]));
    let doubt = judged(&ollama(), &two, &memory);
    assert_eq!((doubt.state, doubt.reason, doubt.cause), (BackendState::Unknown, "CallsFail", None));
    assert!(doubt.needs_proof && doubt.admission == Admission::Closed);
    assert!(doubt.message.contains("2 calls failed since") && doubt.message.contains("task 2"), "{}", doubt.message);
    let mut beside = two.clone();
    beside.load.open = vec![open(-60, Some(-1))];
    beside.load.in_flight = 1;
    assert!(judged(&ollama(), &beside, &memory).ready, "another call goes on: nothing can be asked beside it");
    beside.load.open = vec![open(-60, Some(-4))];
    assert!(!judged(&ollama(), &beside, &memory).ready, "it got nothing since");
    let never = spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}], canary: {when: Never}}");
    assert!(judged(&never, &two, &memory).ready, "nobody may ask: a closed server would never be seen to fail more");
    let four = [("task 1", -7, Failed), ("task 2", -6, Failed), ("task 3", -5, Failed), ("task 4", -4, Failed)];
    assert_eq!(judged(&never, &of(failed(&four)), &memory).state, BackendState::Down);
    let mut confirmed = two.clone();
    let canary = CanaryResult { started_at: at(-3), ended_at: at(-2), ..canaried(Err(error()), at(-2)) };
    confirmed.canary.push(canary);
    let down = judged(&ollama(), &confirmed, &memory);
    assert_eq!((down.state, down.cause), (BackendState::Down, Some(RecoveryCause::ServerError)));
    let full = judged(&ollama(), &of(failed(&[("task 1", -5, Full), ("task 2", -4, Full)])), &memory);
    assert_eq!((full.state, full.ready), (BackendState::Busy, true));
    let mut memory_lack = of(failed(&[("task 1", -5, OutOfMemory), ("task 2", -4, OutOfMemory)]));
    memory_lack.canary = confirmed.canary.clone();
    assert_eq!(judged(&mlx(), &memory_lack, &memory).cause, Some(RecoveryCause::OutOfMemory));
    let served = served_call("small", at(-2), "task 3");
    let since = two.evidence.clone().with(&CallEvidence { served: vec![served], ..CallEvidence::default() });
    assert!(judged(&ollama(), &of(since), &memory).ready, "something was served since");
}

#[test]
fn a_model_that_fails_beside_one_that_is_served_is_told_and_takes_nothing_from_that() {
    let spec = spec("{engine: Ollama, url: 'http://h:1', models: [{name: small}, {name: org/m}]}");
    let broken = |n: usize| {
        let of = |n: usize| FailedCall {
            model: "org/m".into(),
            ..failed_call(&format!("task {n}"), -9 + i64::try_from(n).unwrap(), CallFault::Failed)
        };
        CallEvidence {
            served: vec![served_call("small", at(-2), "task 9")],
            failed: (0..n).map(of).collect(),
            ..CallEvidence::default()
        }
    };
    let with =
        |n| BackendFacts { evidence: BackendEvidence::default().with(&broken(n)), ..probed(&[listing()], at(0)) };
    let one = judged(&spec, &with(1), &proved(at(-100)));
    assert_eq!((one.ready, one.models_ready.status), (true, ConditionStatus::True));
    let two = judged(&spec, &with(2), &proved(at(-100)));
    assert_eq!((two.ready, two.cause, two.models_ready.reason), (true, None, "ModelFails"));
    assert!(two.message.contains("calls of org/m alone fail"), "{}", two.message);
    let mut again = with(2);
    again.evidence = again
        .evidence
        .with(&CallEvidence { served: vec![served_call("org/m", at(-3), "task 8")], ..CallEvidence::default() });
    assert_eq!(judged(&spec, &again, &proved(at(-100))).models_ready.status, ConditionStatus::True);
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
    assert_eq!(judged(&ollama(), &starting(-599), &BackendMemory::default()).reason, "Starting");
    assert_eq!(judged(&ollama(), &starting(-601), &BackendMemory::default()).state, BackendState::Down);
}

#[test]
fn what_the_agent_is_about_to_start_has_not_exited_whatever_ran_before() {
    let mut seen = probed(&vec![ProbeVerdict::Refused; 3], at(0));
    let mut report = service(ServiceState::Starting);
    (report.instance, report.last_failure) = (None, Some("exited with code 1".into()));
    seen.agent = heard(report, at(0));
    if let AgentView::Heard(service) = &mut seen.agent {
        (service.instance_since, service.exited_at) = (Some(at(-9_000)), Some(at(-30)));
    }
    let judged = judged(&ollama(), &seen, &BackendMemory::default());
    assert_eq!((judged.reason, judged.cause), ("Starting", None));
}

#[test]
fn an_old_verdict_is_unknown_and_gives_one_slot_at_a_time() {
    let fresh = judged_at(&ollama(), &probed(&[listing()], at(-31)), &proved(at(-100)), at(0));
    assert_eq!(fresh.state, BackendState::Idle);
    let stale = judged_at(&ollama(), &probed(&[listing()], at(-33)), &proved(at(-100)), at(0));
    assert_eq!((stale.state, stale.admission), (BackendState::Unknown, Admission::One));
    let mut limited = probed(&[ProbeVerdict::RateLimited { retry_after: Some(Duration::from_secs(600)) }], at(-500));
    limited.probes.last.as_mut().unwrap().not_before = Some(at(100));
    assert_eq!(
        judged(&ollama(), &limited, &proved(at(-900))).state,
        BackendState::RateLimited,
        "it asked not to be probed"
    );
}

#[test]
fn a_service_that_a_person_stopped_is_not_down() {
    let mut seen = probed(&[ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused], at(0));
    seen.agent = heard(held(HoldOwner::Person, at(-9)), at(0));
    let judged = judged(&ollama(), &seen, &proved(at(-100)));
    assert_eq!((judged.state, judged.reason, judged.cause), (BackendState::Suspended, "StoppedByPerson", None));
}

#[test]
fn canaries_that_fail_while_listings_answer_are_down_at_the_third() {
    let mut seen = probed(&[listing()], at(0));
    let mut failures = Vec::new();
    for (n, state) in [(1, BackendState::Idle), (2, BackendState::Unknown), (3, BackendState::Down)] {
        let canary =
            CanaryResult { started_at: at(-40 + 10 * n), ended_at: at(-39 + 10 * n), ..canaried(Err(error()), at(0)) };
        failures.push(FailedCall {
            began_at: canary.started_at,
            ..failed_call(&format!("canary {n}"), -39 + 10 * n, CallFault::Failed)
        });
        seen.canary.push(canary);
        seen.evidence =
            BackendEvidence::default().with(&CallEvidence { failed: failures.clone(), ..CallEvidence::default() });
        assert_eq!(judged(&ollama(), &seen, &proved(at(-100))).state, state, "{n} failures");
    }
}

#[test]
fn death_that_the_agent_saw_is_death_at_once() {
    let mut seen = probed(&[listing()], at(-1));
    seen.agent = heard(service(ServiceState::Stopped), at(0));
    if let AgentView::Heard(service) = &mut seen.agent {
        service.exited_at = Some(at(0));
    }
    let down = judged(&ollama(), &seen, &proved(at(-100)));
    assert_eq!((down.state, down.reason, down.cause), (BackendState::Down, "Exited", Some(RecoveryCause::Exited)));
    seen.probes.push(ProbeResult { at: at(1), verdict: listing(), millis: 1, not_before: None }, 3, 1);
    assert_ne!(judged(&ollama(), &seen, &proved(at(-100))).reason, "Exited", "something answers there since");
}

#[test]
fn every_grace_ends() {
    let unreachable = |ago: i64| {
        let mut seen = probed(&vec![ProbeVerdict::Unreachable("no route".into()); 3], at(0));
        seen.probes.failing_since = Some(at(-ago));
        judged(&ollama(), &seen, &proved(at(-900))).for_human
    };
    assert_eq!((unreachable(299), unreachable(300)), (false, true));
    let unproved = |since: i64| {
        let memory = BackendMemory { generation: 1, generation_since: Some(at(-since)), ..BackendMemory::default() };
        let mut seen = probed(&[listing()], at(0));
        seen.probes.answering_since = Some(at(-since));
        judged(&ollama(), &seen, &memory)
    };
    assert!(!unproved(599).for_human);
    assert_eq!((unproved(600).reason, unproved(600).for_human), ("NotProved", true));
    let busy = |since: i64| {
        let mut seen = probed(&[ProbeVerdict::Busy], at(0));
        seen.probes.full_since = Some(at(-since));
        judged(&ollama(), &seen, &proved(at(-9_000))).state
    };
    assert_eq!((busy(1_799), busy(1_800)), (BackendState::Busy, BackendState::Hung));
}

#[test]
fn the_first_pods_of_a_workload_are_given_startup_seconds() {
    let spec =
        spec("{engine: Ollama, url: 'http://engine:11434', recovery: {workloadRef: {kind: Deployment, name: engine}}}");
    let refused = |created: i64| {
        let seen = probed(&[ProbeVerdict::Refused, ProbeVerdict::Refused, ProbeVerdict::Refused], at(0));
        BackendFacts { created_at: Some(at(created)), ..seen }
    };
    assert_eq!(judged(&spec, &refused(-599), &BackendMemory::default()).reason, "Starting");
    assert_eq!(judged(&spec, &refused(-601), &BackendMemory::default()).state, BackendState::Down);
    assert_eq!(judged(&spec, &refused(-10), &proved(at(-5))).state, BackendState::Down, "it served already");
}

#[test]
fn a_model_that_the_server_hands_on_is_there_too() {
    let cloud = spec("{engine: Ollama, url: 'http://h:1', models: [{name: gpt-oss}], canary: {when: Never}}");
    let listing = Listing { models: vec!["small:latest".into()], remote: vec!["gpt-oss:latest".into()] };
    let judged_of =
        |listing| judged(&cloud, &probed(&[ProbeVerdict::Models(listing)], at(0)), &BackendMemory::default());
    assert!(judged_of(listing.clone()).ready);
    assert_eq!(judged_of(Listing { remote: Vec::new(), ..listing }).state, BackendState::ModelsMissing);
}

#[test]
fn slots_that_nobody_renews_are_freed_once_the_server_computes_nothing() {
    let mut seen = probed(&[listing()], at(0));
    seen.agent = heard(service(ServiceState::Running), at(0));
    seen.load.in_flight = 2;
    let frees = |seen: &BackendFacts, now: i64| {
        let plan = decide(&ollama(), seen, &proved(at(-100)), "e", at(now)).1;
        (plan.sample_cpu, plan.free_lapsed)
    };
    let idle_from = |from: i64, to: i64, used: bool| {
        let mut cpu = CpuHistory::default();
        cpu.push("7@70".into(), used, at(from), at(to));
        cpu
    };
    assert_eq!(frees(&seen, 0), (false, false), "somebody renews them");
    seen.load.lapsed_at = Some(at(-20));
    assert_eq!(frees(&seen, 0), (true, false), "nobody knows what the server does");
    seen.cpu = idle_from(-5, 0, false);
    assert_eq!(frees(&seen, 0), (true, false), "idle for too short");
    seen.cpu = idle_from(-12, 0, false);
    assert_eq!(frees(&seen, 0), (true, true));
    seen.load.lapsed_at = Some(at(-3));
    assert_eq!(frees(&seen, 0), (true, false), "lapsed for too short");
    seen.load.lapsed_at = Some(at(-20));
    seen.cpu = idle_from(-12, 0, true);
    assert_eq!(frees(&seen, 0), (true, false), "it works");
    seen.cpu = idle_from(-12, 0, false);
    seen.agent = heard(
        ServiceReport { instance: Some(Instance { pid: 8, start_time: 80 }), ..service(ServiceState::Running) },
        at(0),
    );
    assert_eq!(frees(&seen, 0), (true, false), "of another process");
}

#[test]
fn an_open_call_has_the_servers_own_name_of_its_model() {
    let asked = |model: &str| SlotRow {
        number: 1,
        holder: "worker".into(),
        epoch: 1,
        purpose: SlotPurpose::Call,
        model: Some(model.into()),
        taken_at: at(0),
        lease_expires_at: at(60),
        call_ends_at: at(600),
        call_began_at: Some(at(0)),
        last_byte_at: None,
        instance: None,
        aborted: false,
    };
    let spec = spec("{engine: Ollama, url: 'http://h:1', models: [{name: qwen, alias: small}, {name: other}]}");
    let occupied = Occupied { calls: ["small", "other", "strange"].map(asked).into(), ..Occupied::default() };
    let names: Vec<_> =
        BackendLoad::of(&spec, &occupied, at(1)).open.into_iter().filter_map(|call| call.model).collect();
    assert_eq!(names, ["qwen", "other", "strange"]);
}
