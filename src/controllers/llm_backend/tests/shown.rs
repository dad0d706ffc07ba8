use crate::{
    api::{BackendState, Condition, ConditionStatus, LLMBackendStatus, RecoveryRecord, RecoveryStatus, condition},
    controllers::status::differs,
    store::Admission,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    super::{
        plan::decide,
        status::{shown, status},
    },
    *,
};

fn pass(
    seen: &BackendFacts,
    memory: &BackendMemory,
    old: Option<&LLMBackendStatus>,
    now: Timestamp,
) -> (LLMBackendStatus, BackendMemory) {
    let spec = ollama();
    let (judged, plan) = decide(&spec, seen, memory, "e", now);
    (status(&spec, seen, &judged, &plan, old, now), plan.memory)
}

fn of<'a>(status: &'a LLMBackendStatus, type_: &str) -> &'a Condition {
    condition(&status.base.conditions, type_).unwrap()
}

#[test]
fn a_steady_backend_is_written_once() {
    let (first, memory) = pass(&probed(&[listing()], at(0)), &proved(at(-1)), None, at(0));
    assert!(differs(None, &first));
    let (second, _) = pass(&probed(&[listing()], at(600)), &memory, Some(&first), at(600));
    assert!(!differs(Some(&first), &second));
    assert_eq!(of(&second, "Ready").last_transition_time, of(&first, "Ready").last_transition_time);
}

#[test]
fn a_history_with_nanoseconds_is_no_change_of_what_was_stored() {
    let (mut new, _) = pass(&probed(&[listing()], at(0)), &proved(at(-1)), None, at(0));
    let time: Timestamp = "2026-03-01T12:00:00.123456789Z".parse().unwrap();
    let of = |text: &str| text.to_owned();
    let record = RecoveryRecord {
        time: Time(time),
        cause: of("Refused"),
        step: of("Restart"),
        outcome: of("Helped"),
        evidence: of("connection refused"),
    };
    new.recovery = Some(RecoveryStatus { history: vec![record], ..RecoveryStatus::default() });
    let stored: LLMBackendStatus = serde_json::from_value(serde_json::to_value(&new).unwrap()).unwrap();
    assert_ne!(stored.recovery, new.recovery, "the API server keeps whole seconds");
    assert!(!differs(Some(&stored), &new));
}

#[test]
fn every_condition_says_something_in_every_state() {
    for verdicts in [vec![], vec![listing()], vec![ProbeVerdict::Refused; 3], vec![models(&[])]] {
        for memory in [BackendMemory::default(), proved(at(-1))] {
            let (status, _) = pass(&probed(&verdicts, at(0)), &memory, None, at(0));
            let mute: Vec<_> =
                status.base.conditions.iter().filter(|c| c.message.is_empty()).map(|c| &c.type_).collect();
            assert!(mute.is_empty(), "{verdicts:?}: {mute:?}");
        }
    }
}

#[test]
fn kstatus_reads_each_state_as_the_table_says() {
    use ConditionStatus::{False, True};
    let refused = vec![ProbeVerdict::Refused; 3];
    let down = |agent: AgentView| BackendFacts { agent, ..probed(&refused, at(0)) };
    let cases: Vec<(&str, BackendFacts, BackendState, [ConditionStatus; 3])> = vec![
        ("idle", probed(&[listing()], at(0)), BackendState::Idle, [True, False, False]),
        ("down", down(AgentView::Unheard), BackendState::Down, [False, True, False]),
        (
            "recovering",
            down(heard(service(ServiceState::Stopped), at(0))),
            BackendState::Recovering,
            [False, True, False],
        ),
        ("missing", probed(&[models(&[])], at(0)), BackendState::ModelsMissing, [False, False, True]),
        (
            "limited",
            probed(&[ProbeVerdict::RateLimited { retry_after: None }], at(0)),
            BackendState::RateLimited,
            [False, True, False],
        ),
        (
            "stopped",
            down(heard(held(HoldOwner::Person, at(-1)), at(0))),
            BackendState::Suspended,
            [False, False, False],
        ),
    ];
    for (case, seen, state, [ready, reconciling, stalled]) in cases {
        let (status, _) = pass(&seen, &proved(at(-100)), None, at(0));
        assert_eq!(status.base.state, Some(state), "{case}");
        let seen = ["Ready", "Reconciling", "Stalled"].map(|t| of(&status, t).status);
        assert_eq!(seen, [ready, reconciling, stalled], "{case}");
    }
}

#[test]
fn suspended_gives_no_slots_and_says_what_it_is_otherwise() {
    let mut seen = probed(&[listing()], at(0));
    seen.will.suspended = true;
    let (judged, plan) = decide(&ollama(), &seen, &proved(at(-1)), "e", at(0));
    let shown = shown(&judged, &plan, &seen);
    assert_eq!((shown.state, shown.admission), (BackendState::Suspended, Admission::Closed));
    assert!(shown.message.contains("without that: answers"), "{}", shown.message);
}

#[test]
fn a_backend_that_nothing_can_restart_for_five_minutes_waits_for_a_person_until_something_can() {
    let silent = |now| {
        let mut seen = probed(&vec![ProbeVerdict::Refused; 3], now);
        seen.agent = AgentView::Unreachable { since: at(0), why: "no answer".into() };
        seen
    };
    let (first, memory) = pass(&silent(at(0)), &proved(at(-100)), None, at(0));
    assert_eq!(of(&first, "Stalled").status, ConditionStatus::False);
    let (later, memory) = pass(&silent(at(301)), &memory, Some(&first), at(301));
    assert_eq!(
        (later.base.state, of(&later, "Ready").reason.as_str(), of(&later, "Stalled").status),
        (Some(BackendState::Deferred), "AgentUnreachable", ConditionStatus::True)
    );
    let mut heard_again = probed(&vec![ProbeVerdict::Refused; 3], at(310));
    heard_again.agent = heard(service(ServiceState::Stopped), at(310));
    let (back, _) = pass(&heard_again, &memory, Some(&later), at(310));
    assert_eq!(of(&back, "Stalled").status, ConditionStatus::False);
}
