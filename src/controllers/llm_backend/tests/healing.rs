use crate::{api::LLMBackendSpec, host::DiskSpace};

use super::{
    super::{
        facts::{AgentPeers, Pull},
        memory::{RecoveryCause, RecoveryPhase, RecoveryStep},
        plan::{
            BackendPlan, CanaryPlan, HoldChange, PlanNote, RecoveryAct, RecoveryOutcome, WaitReason, decide, record,
        },
    },
    *,
};

pub(super) fn down(now: Timestamp) -> BackendFacts {
    let refused = ProbeVerdict::Refused;
    let mut seen = probed(&[listing(), refused.clone(), refused.clone(), refused], now);
    seen.agent = heard(service(ServiceState::Stopped), now);
    if let AgentView::Heard(service) = &mut seen.agent {
        service.exited_at = Some(now);
    }
    seen
}

fn hung(now: Timestamp) -> BackendFacts {
    let mut seen = probed(&[listing()], now);
    seen.agent = heard(service(ServiceState::Running), now);
    seen.cpu = cpu(Some(false), now);
    for ago in [20, 0] {
        seen.canary.push(canaried(Err(timeout()), now - SignedDuration::from_secs(ago)));
    }
    seen
}

pub(super) fn pass(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory, now: Timestamp) -> BackendPlan {
    decide(spec, seen, memory, "e1", now).1
}

pub(super) fn running(plan: &BackendPlan) -> Option<RecoveryStep> {
    plan.memory.episode.as_ref()?.running.as_ref().map(|r| r.step)
}

#[test]
fn cause_decides_where_the_ladder_starts() {
    let refused = pass(&ollama(), &down(at(0)), &proved(at(-100)), at(0));
    assert!(
        matches!(refused.act, Some(RecoveryAct::Restart { attempt: 1, cause: RecoveryCause::Exited, .. })),
        "{:?}",
        refused.act
    );
    let hang = pass(&ollama(), &hung(at(0)), &proved(at(-100)), at(0));
    assert!(matches!(hang.act, Some(RecoveryAct::Unload { .. })), "{:?}", hang.act);
    let no_unload = pass(&mlx(), &hung(at(0)), &proved(at(-100)), at(0));
    assert!(matches!(no_unload.act, Some(RecoveryAct::Restart { .. })), "MLX can't unload: {:?}", no_unload.act);
    let blind = probed(&vec![ProbeVerdict::Refused; 3], at(0));
    let refused = pass(
        &ollama(),
        &BackendFacts { agent: heard(service(ServiceState::Running), at(0)), ..blind },
        &proved(at(-100)),
        at(0),
    );
    assert!(
        matches!(refused.act, Some(RecoveryAct::Restart { cause: RecoveryCause::Refused, .. })),
        "{:?}",
        refused.act
    );
}

#[test]
fn what_a_restart_cannot_help_is_never_restarted() {
    let seens = [
        probed(&[models(&[])], at(0)),
        probed(&vec![ProbeVerdict::Misconfigured("a redirect".into()); 3], at(0)),
        probed(&vec![ProbeVerdict::Unreachable("no route".into()); 3], at(0)),
        probed(&[ProbeVerdict::Unauthorized { status: 401 }], at(0)),
        probed(&[ProbeVerdict::RateLimited { retry_after: None }], at(0)),
        probed(&[ProbeVerdict::Busy], at(0)),
    ];
    for seen in seens {
        let plan = pass(&ollama(), &seen, &proved(at(-100)), at(0));
        assert_eq!((plan.act, plan.memory.episode), (None, None), "{:?}", seen.probes.last);
    }
}

#[test]
fn the_attempt_is_in_the_memory_before_it_is_made_and_is_sent_again_with_the_same_key() {
    let first = pass(&ollama(), &down(at(0)), &proved(at(-100)), at(0));
    let Some(RecoveryAct::Restart { key, .. }) = &first.act else { panic!("{:?}", first.act) };
    let run = first.memory.episode.as_ref().unwrap().running.clone().unwrap();
    assert_eq!((&run.key, &run.phase), (key, &RecoveryPhase::Committed));
    // The leader died here. Its successor reads the memory.
    let again = pass(&ollama(), &down(at(5)), &first.memory, at(5));
    let Some(RecoveryAct::Restart { key: same, attempt: 1, .. }) = &again.act else { panic!("{:?}", again.act) };
    assert_eq!(same, key);
    let mut memory = again.memory;
    record(&mut memory, &RecoveryOutcome::Sent { operation: "op".into() }, at(5));
    let followed = pass(&ollama(), &down(at(6)), &memory, at(6));
    assert_eq!(followed.act, Some(RecoveryAct::Follow { operation: "op".into() }));
}

#[test]
fn only_an_inference_with_the_models_there_ends_a_step() {
    let spec = ollama();
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let mut back = down(at(1));
    back.agent = heard(service(ServiceState::Running), at(1));
    back.probes.push(ProbeResult { at: at(2), verdict: listing(), millis: 1, not_before: None }, 3, 1);
    let answering = pass(&spec, &back, &memory, at(2));
    assert_eq!((running(&answering), answering.prove), (Some(RecoveryStep::Restart), true), "answering is not serving");
    assert!(matches!(answering.canary, CanaryPlan::Send(_)), "it is asked at once: {:?}", answering.canary);
    back.evidence = served(-1);
    let before = pass(&spec, &back, &answering.memory, at(3));
    assert_eq!(
        running(&before),
        Some(RecoveryStep::Restart),
        "what was served before the step ended says nothing of it"
    );
    back.evidence = served(2);
    let helped = pass(&spec, &back, &before.memory, at(3));
    let quoted = |note: &PlanNote| match note {
        PlanNote::Helped { step: RecoveryStep::Restart, cause: RecoveryCause::Exited, evidence } => {
            evidence.contains("task 1 was served")
        }
        _ => false,
    };
    assert!(helped.notes.iter().any(quoted), "{:?}", helped.notes);
    assert_eq!(running(&helped), None);
    assert_eq!(helped.memory.tallies[&RecoveryCause::Exited][&RecoveryStep::Restart].helped, 1);
}

#[test]
fn an_unload_that_does_not_help_is_followed_by_a_restart() {
    let spec = ollama();
    let mut memory = pass(&spec, &hung(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(0));
    let waiting = pass(&spec, &hung(at(-1)), &memory, at(29));
    assert_eq!(
        (waiting.act.clone(), waiting.waiting.as_ref().map(|w| w.why)),
        (None, Some(WaitReason::Step)),
        "no evidence since"
    );
    // The canary after it gets no answer, either.
    let over = pass(&spec, &hung(at(45)), &waiting.memory, at(45));
    assert!(over.notes.iter().any(|n| matches!(n, PlanNote::DidNotHelp { .. })), "{:?}", over.notes);
    let next = pass(&spec, &hung(at(46)), &over.memory, at(46));
    assert!(
        matches!(next.act, Some(RecoveryAct::Restart { attempt: 1, cause: RecoveryCause::Hung, .. })),
        "{:?}",
        next.act
    );
}

#[test]
fn a_step_without_evidence_is_inconclusive_and_counts_for_nothing() {
    let spec = ollama();
    let mut memory = pass(&spec, &hung(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(0));
    let before = |now: i64| {
        let mut seen = hung(at(-1));
        seen.probes.last.as_mut().unwrap().at = at(now);
        seen
    };
    let late = pass(&spec, &before(601), &memory, at(601));
    assert_eq!(running(&late), Some(RecoveryStep::Unload), "what was seen before the step is no evidence against it");
    let over = pass(&spec, &before(1_201), &late.memory, at(1_201));
    assert!(over.notes.iter().any(|n| matches!(n, PlanNote::Inconclusive { .. })), "{:?}", over.notes);
    assert!(over.memory.tallies.is_empty());
}

#[test]
fn waits_between_restarts_double_and_a_served_call_begins_them_anew() {
    let spec = ollama();
    let mut memory = proved(at(-100));
    let mut begun = Vec::new();
    for second in 0..700 {
        let plan = pass(&spec, &down(at(second)), &memory, at(second));
        memory = plan.memory;
        if let Some(RecoveryAct::Restart { .. }) = plan.act {
            begun.push(second);
            record(&mut memory, &RecoveryOutcome::Failed { why: "the process ended".into() }, at(second));
        }
    }
    assert_eq!(begun, [0, 10, 30], "10 s, then 20 s, then maxAttempts");
}

#[test]
fn restarts_that_each_help_for_a_while_are_not_said_to_have_failed() {
    let spec = ollama();
    let mut memory = proved(at(-100));
    let mut told = None;
    for second in (0..2_000).step_by(100) {
        let plan = pass(&spec, &down(at(second)), &memory, at(second));
        memory = plan.memory;
        told = plan.notes.iter().find_map(|note| match note {
            PlanNote::Deferred { evidence } => Some(evidence.clone()),
            _ => None,
        });
        if told.is_some() {
            break;
        }
        record(&mut memory, &RecoveryOutcome::Done, at(second + 1));
        let mut back = probed(&[listing()], at(second + 2));
        back.agent = heard(service(ServiceState::Running), at(second + 2));
        back.evidence = served(second + 2);
        memory = pass(&spec, &back, &memory, at(second + 4)).memory;
    }
    let told = told.expect("maxAttempts");
    assert!(told.starts_with("3 restarts in a row, 3 of which helped for a while"), "{told}");
}

#[test]
fn who_cannot_act_for_five_minutes_tells_a_human_once() {
    let mut memory = proved(at(-100));
    let mut told = Vec::new();
    for second in 0..400 {
        let mut seen = probed(&vec![ProbeVerdict::Refused; 3], at(second));
        seen.agent = AgentView::Unreachable { since: at(0), why: "refused".into() };
        let plan = pass(&ollama(), &seen, &memory, at(second));
        assert_eq!(plan.act, None);
        told.extend(plan.notes.iter().filter(|n| matches!(n, PlanNote::Blocked { .. })).map(|_| second));
        memory = plan.memory;
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!((295..=305).contains(&told[0]), "{told:?}");
}

#[test]
fn a_pull_backs_off_and_ends_at_a_human() {
    let spec = spec("{engine: Ollama, url: 'http://h:1', models: [{name: big, pull: true}]}");
    let pulls = |failures: i32, permanent: bool| {
        let mut seen = probed(&[listing()], at(0));
        let error = Some("pull model manifest: file does not exist".to_owned());
        seen.pulls.insert("big".into(), Pull { error, failures, permanent, failed_at: Some(at(-100)), percent: None });
        let (judged, plan) = decide(&spec, &seen, &BackendMemory::default(), "e", at(0));
        (judged.for_human, plan.pull.len())
    };
    assert_eq!(pulls(1, false), (false, 1), "after a minute");
    assert_eq!(pulls(2, false), (false, 0), "after two");
    assert_eq!(pulls(3, false), (true, 0));
    assert_eq!(pulls(1, true), (true, 0), "there is no such model");
}

#[test]
fn a_step_after_which_there_is_no_model_to_ask_is_not_said_to_have_helped() {
    let spec =
        spec("{engine: OpenAI, url: 'http://127.0.0.1:9', recovery: {hostAgentRef: {name: mac}, service: ollama}}");
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let mut back = down(at(1));
    back.agent = heard(service(ServiceState::Running), at(1));
    back.probes.push(ProbeResult { at: at(2), verdict: models(&[]), millis: 1, not_before: None }, 3, 1);
    let over = pass(&spec, &back, &memory, at(2));
    assert_eq!(running(&over), None);
    assert!(over.notes.iter().any(|n| matches!(n, PlanNote::Inconclusive { .. })), "{:?}", over.notes);
    assert!(!over.notes.iter().any(|n| matches!(n, PlanNote::Helped { .. })), "{:?}", over.notes);
}

#[test]
fn people_and_circumstances_keep_it_from_acting() {
    let with = |change: fn(&mut BackendFacts)| {
        let mut seen = down(at(0));
        change(&mut seen);
        seen
    };
    let cases: Vec<(WaitReason, BackendFacts)> = vec![
        (WaitReason::Suspended, with(|s| s.will.suspended = true)),
        (WaitReason::Paused, with(|s| s.will.paused = true)),
        (WaitReason::JustWoke, with(|s| s.woke_at = Some(at(-59)))),
        (WaitReason::AgentUnreachable, with(|s| s.agent = AgentView::Unheard)),
        (WaitReason::AgentUnreachable, with(|s| s.agent = AgentView::Unreachable { since: at(-9), why: "x".into() })),
        (WaitReason::Held, with(|s| s.agent = heard(held(HoldOwner::Suspend, at(-9)), at(0)))),
        (
            WaitReason::Storm,
            with(|s| {
                s.agent = heard(service(ServiceState::Stopped), at(-20));
                s.peers = AgentPeers { total: 4, failing: 3, failing_since: Some(at(-10)) };
            }),
        ),
    ];
    for (why, seen) in cases {
        let plan = pass(&ollama(), &seen, &proved(at(-100)), at(0));
        assert_eq!((plan.act, plan.waiting.map(|w| w.why)), (None, Some(why)));
    }
    let heard_since = with(|s| s.peers = AgentPeers { total: 4, failing: 3, failing_since: Some(at(-10)) });
    assert!(
        pass(&ollama(), &heard_since, &proved(at(-100)), at(0)).act.is_some(),
        "the agent was heard since the storm began"
    );
    let deferral = with(|s| s.agent = heard(held(HoldOwner::Deferral, at(-9)), at(0)));
    assert!(
        pass(&ollama(), &deferral, &proved(at(-100)), at(0)).act.is_some(),
        "a deferral binds the agent's own loop only"
    );
}

#[test]
fn observe_says_once_what_it_would_do_and_does_nothing() {
    let mut seen = down(at(0));
    seen.will.observe = true;
    let first = pass(&ollama(), &seen, &proved(at(-100)), at(0));
    assert_eq!(first.act, None);
    assert_eq!(first.notes, [PlanNote::WouldDo { step: RecoveryStep::Restart, cause: RecoveryCause::Exited }]);
    let second = pass(&ollama(), &seen, &first.memory, at(60));
    assert_eq!((second.act, second.notes), (None, vec![]));
    assert_eq!(second.memory.episode.unwrap().attempts, 0);
}

#[test]
fn a_step_that_never_helped_in_ten_tries_is_skipped() {
    let mut memory = proved(at(-100));
    memory.tallies.entry(RecoveryCause::Hung).or_default().entry(RecoveryStep::Unload).or_default().tried = 10;
    let plan = pass(&ollama(), &hung(at(0)), &memory, at(0));
    assert!(matches!(plan.act, Some(RecoveryAct::Restart { .. })), "{:?}", plan.act);
}

#[test]
fn a_restart_that_never_helped_is_tried_again_once_somebody_may_have_mended_the_cause() {
    let mut memory = proved(at(-100));
    memory.tallies.entry(RecoveryCause::Exited).or_default().entry(RecoveryStep::Restart).or_default().tried = 10;
    let plan = pass(&ollama(), &down(at(0)), &memory, at(0));
    assert!(matches!(plan.act, Some(RecoveryAct::Restart { .. })), "{:?}", plan.act);
}

#[test]
fn holds_of_ours_are_set_and_cleared_and_others_are_left() {
    let mut seen = probed(&[listing()], at(0));
    seen.agent = heard(held(HoldOwner::Person, at(-9)), at(0));
    assert_eq!(pass(&ollama(), &seen, &proved(at(-1)), at(0)).holds, []);
    seen.will.suspended = true;
    let set = HoldChange { owner: HoldOwner::Suspend, set: true };
    assert_eq!(pass(&ollama(), &seen, &proved(at(-1)), at(0)).holds, [set]);
    seen.will.suspended = false;
    seen.agent = heard(held(HoldOwner::Pause, at(-9)), at(0));
    let clear = HoldChange { owner: HoldOwner::Pause, set: false };
    assert_eq!(pass(&ollama(), &seen, &proved(at(-1)), at(0)).holds, [clear]);
}

#[test]
fn out_of_memory_lowers_the_limit_by_one_for_an_hour() {
    let mut report = service(ServiceState::Running);
    report.out_of_memory_at = Some(at(-1));
    let seen = |now: Timestamp, report: &ServiceReport| BackendFacts {
        agent: heard(report.clone(), now),
        ..probed(&[listing()], now)
    };
    let first = pass(&ollama(), &seen(at(0), &report), &proved(at(-9)), at(0));
    assert_eq!((first.limit, first.notes.clone()), (3, vec![PlanNote::LimitLowered { to: 3 }]));
    let same = pass(&ollama(), &seen(at(60), &report), &first.memory, at(60));
    assert_eq!((same.limit, same.notes.len()), (3, 0), "one death counts once");
    report.out_of_memory_at = Some(at(100));
    let second = pass(&ollama(), &seen(at(101), &report), &same.memory, at(101));
    assert_eq!(second.limit, 2);
    let hour = pass(&ollama(), &seen(at(101 + 3600), &report), &second.memory, at(101 + 3600));
    assert_eq!(hour.limit, 3, "it rises by one after an hour");
    let two = pass(&ollama(), &seen(at(101 + 7200), &report), &hour.memory, at(101 + 7200));
    assert_eq!(two.limit, 4);
}

#[test]
fn the_agents_own_starts_count_as_attempts() {
    let mut report = service(ServiceState::Stopped);
    report.self_starts.count = 3;
    let mut seen = down(at(0));
    seen.agent = heard(report.clone(), at(0));
    let memory = pass(&ollama(), &seen, &proved(at(-100)), at(0)).memory;
    report.self_starts.count = 5;
    seen.agent = heard(report, at(1));
    let counted = pass(&ollama(), &seen, &memory, at(1));
    assert_eq!(counted.memory.episode.unwrap().attempts, 3, "our own one, and two of the agent's");
}

#[test]
fn preload_evicts_nothing_and_a_full_disk_pulls_nothing() {
    let spec =
        spec("{engine: Ollama, url: 'http://h:1', models: [{name: small, preload: true}, {name: big, pull: true}]}");
    let both = models(&["small:latest", "big:latest"]);
    let mut seen = probed(&[both], at(0));
    seen.loaded = Some(vec![loaded("other:latest", None)]);
    assert_eq!(pass(&spec, &seen, &proved(at(-1)), at(0)).preload, None, "another model is loaded");
    seen.loaded = Some(vec![]);
    assert_eq!(pass(&spec, &seen, &proved(at(-1)), at(0)).preload.as_deref(), Some("small"));
    let mut lacking = probed(&[listing()], at(0));
    lacking.agent = heard(service(ServiceState::Running), at(0));
    assert_eq!(pass(&spec, &lacking, &proved(at(-1)), at(0)).pull, ["big"]);
    if let AgentView::Heard(service) = &mut lacking.agent {
        service.disk = Some(DiskSpace { free_bytes: 4 << 30, total_bytes: 100 << 30 });
    }
    assert!(pass(&spec, &lacking, &proved(at(-1)), at(0)).pull.is_empty());
}
