//! What calls and canaries say of a server.

use crate::{
    api::{BackendState, ConditionStatus},
    controllers::shared::Occupied,
    store::{Admission, SlotPurpose, SlotRow},
};

use super::{
    super::{facts::BackendLoad, memory::RecoveryCause},
    *,
};

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
    let mut more = with(2);
    let later = |n| FailedCall { model: "org/m".into(), ..failed_call(&format!("task 1{n}"), -1, CallFault::Failed) };
    more.evidence = more.evidence.with(&CallEvidence { failed: vec![later(1), later(2)], ..CallEvidence::default() });
    assert!(judged(&spec, &more, &proved(at(-100))).ready, "however often it fails between two of the others");
    let mut again = with(2);
    again.evidence = again
        .evidence
        .with(&CallEvidence { served: vec![served_call("org/m", at(-3), "task 8")], ..CallEvidence::default() });
    assert_eq!(judged(&spec, &again, &proved(at(-100))).models_ready.status, ConditionStatus::True);
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
