//! What probes, agents and declarations say of a server.

use crate::{
    api::{BackendState, ConditionStatus},
    store::Admission,
};

use super::{
    super::{
        facts::{Misdeclared, Pull},
        memory::RecoveryCause,
    },
    *,
};

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
fn a_declared_context_is_made_of_a_model_that_is_there() {
    let declared = spec("{engine: Ollama, url: 'http://h:1', models: [{name: a, alias: b, contextTokens: 4096}]}");
    let pulled =
        spec("{engine: Ollama, url: 'http://h:1', models: [{name: a, alias: b, contextTokens: 4096, pull: true}]}");
    let listed = |names: &[&str]| probed(&[models(names)], at(0));
    let current = listed(&["a:latest", "ostler/b:latest"]);
    let mut outdated = current.clone();
    outdated.outdated.insert("ostler/b".into());
    for (spec, seen, got, for_human, why) in [
        (&declared, &listed(&["a:latest"]), &["ostler/b"][..], false, "it is made"),
        (&declared, &outdated, &["ostler/b"], false, "it is made anew"),
        (&declared, &current, &[], false, "it is there"),
        (&declared, &listed(&["ostler/b:latest"]), &[], false, "it goes on without the model that it was made of"),
        (&declared, &listed(&["c"]), &[], true, "there is nothing to make it of"),
        (&pulled, &listed(&["c"]), &["a"], false, "the model first"),
    ] {
        let judged = judged(spec, seen, &BackendMemory::default());
        assert_eq!(
            (&judged.to_pull[..], judged.for_human),
            (&got.iter().map(ToString::to_string).collect::<Vec<_>>()[..], for_human),
            "{why}"
        );
    }
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
