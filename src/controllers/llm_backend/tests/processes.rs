//! Whose evidence it is: of the process that a step made, of the one before, or of somebody else's.

use super::{
    super::{
        memory::RecoveryStep,
        plan::{CanaryPlan, PlanNote, RecoveryOutcome, decide, record},
    },
    healing::{down, pass, running},
    *,
};

#[test]
fn a_new_process_that_loads_its_model_is_not_blamed_for_what_the_old_one_said() {
    let spec = ollama();
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    // The old one had said 503 for longer than it may.
    memory.full_since = Some(at(-700));
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let mut loads = down(at(0));
    loads.agent = heard(service(ServiceState::Running), at(2));
    if let AgentView::Heard(service) = &mut loads.agent {
        service.instance_since = Some(at(1));
    }
    loads.probes.push(ProbeResult { at: at(2), verdict: ProbeVerdict::Loading, millis: 1, not_before: None }, 3, 1);
    let loading = Failure::Loading { detail: "Loading model".into() };
    let (model, started_at, ended_at) = ("small".to_owned(), at(2), at(3));
    loads.canary.push(CanaryResult { started_at, ended_at, model, loads: true, result: Err(loading) });
    let waits = pass(&spec, &loads, &memory, at(4));
    assert_eq!(running(&waits), Some(RecoveryStep::Restart), "{:?}", waits.notes);
    assert_eq!(waits.memory.full_since, Some(at(2)));
    let startup = i64::from(spec.probe.startup_seconds);
    let over = pass(&spec, &loads, &waits.memory, at(3 + startup));
    assert_eq!(running(&over), None, "it had its time");
}

#[test]
fn a_foreign_program_on_the_port_does_not_inherit_the_proof() {
    let mut memory = proved(at(-100));
    memory.proof.as_mut().unwrap().instance = Some("7@70".into());
    let mut taken = probed(&[listing()], at(0));
    let mut report = service(ServiceState::Foreign);
    report.instance = None;
    taken.agent = heard(report, at(0));
    let (judged, plan) = decide(&ollama(), &taken, &memory, "e1", at(0));
    assert!(!judged.ready && matches!(plan.canary, CanaryPlan::Send(_)), "{judged:?} {:?}", plan.canary);
}

#[test]
fn a_server_that_says_no_longer_that_it_loads_is_asked_at_once() {
    let mut seen = probed(&[ProbeVerdict::Loading, listing()], at(10));
    for ended in [1, 3, 5] {
        let result = Err(Failure::Loading { detail: "Loading model".into() });
        let (model, started_at, ended_at) = ("small".to_owned(), at(ended), at(ended));
        seen.canary.push(CanaryResult { started_at, ended_at, model, loads: true, result });
    }
    let asked = pass(&ollama(), &seen, &BackendMemory::default(), at(10));
    assert!(matches!(asked.canary, CanaryPlan::Send(_)), "{:?}", asked.canary);
}

#[test]
fn what_somebody_else_s_process_serves_on_its_port_is_no_help_of_a_restart() {
    let spec = ollama();
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let mut taken = down(at(1));
    taken.agent = heard(service(ServiceState::Foreign), at(2));
    taken.probes.push(ProbeResult { at: at(2), verdict: listing(), millis: 1, not_before: None }, 3, 1);
    taken.evidence = served(3);
    let over = pass(&spec, &taken, &memory, at(5));
    assert_eq!(running(&over), None);
    let told = |note: &PlanNote| matches!(note, PlanNote::Inconclusive { evidence, .. } if evidence.contains("another process has its port"));
    assert!(over.notes.iter().any(told), "{:?}", over.notes);
}

#[test]
fn a_server_that_leaves_its_first_process_behind_has_not_exited_again() {
    let spec = ollama();
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let mut forked = down(at(4));
    forked.probes.push(ProbeResult { at: at(5), verdict: listing(), millis: 1, not_before: None }, 3, 1);
    let asked = pass(&spec, &forked, &memory, at(5));
    assert_eq!(running(&asked), Some(RecoveryStep::Restart), "{:?}", asked.notes);
    forked.evidence = served(6);
    let helped = pass(&spec, &forked, &asked.memory, at(8));
    assert!(helped.notes.iter().any(|n| matches!(n, PlanNote::Helped { .. })), "{:?}", helped.notes);
}

#[test]
fn a_restart_whose_process_exits_is_over_at_once() {
    let spec = ollama();
    let mut memory = pass(&spec, &down(at(0)), &proved(at(-100)), at(0)).memory;
    record(&mut memory, &RecoveryOutcome::Done, at(1));
    let over = pass(&spec, &down(at(4)), &memory, at(4));
    assert_eq!(running(&over), None);
    assert!(over.notes.iter().any(|n| matches!(n, PlanNote::DidNotHelp { .. })), "{:?}", over.notes);
}
