//! Status of a HostAgent: what it last reported, without what changes by itself.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        Condition, HeldService, HostAgent, HostAgentState, HostAgentStatus, ServiceSummary, number_of, set_condition,
    },
    host::{AgentReport, HostErrorKind},
    platform::Note,
};

use super::{super::driver::stored_alike, Observed, was_ready};

/// Clocks that differ by less are taken for the same.
const SKEW: i64 = 5;

struct Verdict {
    state: HostAgentState,
    ready: bool,
    stalled: bool,
    message: String,
}

fn verdict(observed: &Observed) -> Verdict {
    let of = |state, ready, stalled, message: String| Verdict { state, ready, stalled, message };
    if observed.suspended {
        return of(
            HostAgentState::Suspended,
            false,
            false,
            "suspended: it is not asked, and its services are not healed through it".into(),
        );
    }
    match (&observed.access, &observed.unreachable, &observed.heard) {
        (Err(what), _, _) => of(HostAgentState::SecretMissing, false, true, what.clone()),
        (_, Some(silence), _) => match silence.kind {
            HostErrorKind::Unauthorized => of(HostAgentState::Unauthorized, false, true, silence.why.clone()),
            _ => of(HostAgentState::Unreachable, false, false, silence.why.clone()),
        },
        (_, None, None) => of(HostAgentState::Unheard, false, false, "not asked yet".into()),
        (_, None, Some(heard)) => {
            let down = heard.report.services.iter().filter(|s| s.gave_up).map(|s| s.name.as_str()).collect::<Vec<_>>();
            let message = if down.is_empty() {
                format!("answers, with {}", number_of(heard.report.services.len(), "service"))
            } else {
                format!("answers; its own loop gave up on {}", down.join(", "))
            };
            of(HostAgentState::Reachable, true, false, message)
        }
    }
}

/// The whole status of this pass.
pub fn status(
    object: &HostAgent,
    observed: &Observed,
    old: Option<&HostAgentStatus>,
    now: Timestamp,
) -> HostAgentStatus {
    let verdict = verdict(observed);
    let generation = object.metadata.generation.unwrap_or_default();
    let mut conditions = old.map(|s| s.conditions.clone()).unwrap_or_default();
    let mut set = |type_: &str, yes: bool, reason: &str, message: &str| {
        let condition = Condition {
            type_: type_.into(),
            status: yes.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: Time(now),
            observed_generation: generation,
        };
        set_condition(&mut conditions, condition);
    };
    let word = verdict.state.as_str();
    set("Ready", verdict.ready, word, &verdict.message);
    let reconciling = !verdict.ready && !verdict.stalled && !observed.suspended;
    set("Reconciling", reconciling, if reconciling { word } else { "Settled" }, "");
    set("Stalled", verdict.stalled, if verdict.stalled { word } else { "NotStalled" }, "");
    let report = observed.heard.as_ref().map(|h| &h.report);
    let kept = |f: fn(&HostAgentStatus) -> Option<String>| old.and_then(f);
    HostAgentStatus {
        observed_generation: generation,
        state: Some(verdict.state),
        conditions,
        last_handled_reconcile_at: observed.handled_reconcile.clone(),
        version: report.map(|r| r.version.clone()).or_else(|| kept(|s| s.version.clone())),
        user: report.map(|r| r.user.clone()).or_else(|| kept(|s| s.user.clone())),
        container_runtime: report
            .and_then(|r| r.container_runtime.as_ref())
            .map(|r| format!("{} {}", r.name, r.version))
            .or_else(|| kept(|s| s.container_runtime.clone())),
        clock_skew_seconds: observed
            .heard
            .as_ref()
            .map(|h| h.report.time.duration_since(h.at).as_secs())
            .filter(|s| s.abs() > SKEW),
        services: report.map(services).unwrap_or_else(|| old.map(|s| s.services.clone()).unwrap_or_default()),
        held_services: report.map(held).unwrap_or_else(|| old.map(|s| s.held_services.clone()).unwrap_or_default()),
    }
}

fn services(report: &AgentReport) -> Vec<ServiceSummary> {
    let summary = |s: &crate::host::ServiceReport| ServiceSummary {
        name: s.name.clone(),
        state: s.state.as_str().to_owned(),
        user: s.user.clone(),
    };
    report.services.iter().map(summary).collect()
}

fn held(report: &AgentReport) -> Vec<HeldService> {
    let holds = report.services.iter().flat_map(|s| s.holds.iter().map(move |h| (s, h)));
    holds
        .map(|(s, h)| HeldService {
            name: s.name.clone(),
            owner: h.owner.as_str().into(),
            reason: h.reason.clone(),
            since: Time(h.since),
        })
        .collect()
}

/// Whether this term has not heard the agent yet, and an earlier one said something of this generation, which holds until then.
pub fn is_undecided(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> bool {
    let judged = |old: &HostAgentStatus| old.state.is_some() && old.observed_generation == new.observed_generation;
    new.state == Some(HostAgentState::Unheard) && old.is_some_and(judged)
}

/// Whether a status is worth a write. A skew that grows by a second is not.
pub fn differs(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> bool {
    let Some(old) = old else { return true };
    let timeless = |status: &HostAgentStatus| {
        let mut status = status.clone();
        for condition in &mut status.conditions {
            condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
        }
        status.clock_skew_seconds = status.clock_skew_seconds.map(|s| s / (2 * SKEW));
        status
    };
    !stored_alike(&timeless(old), &timeless(new))
}

/// Events of a change.
pub fn changes(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> Vec<Note> {
    let Some(ready) = crate::api::condition(&new.conditions, "Ready") else { return Vec::new() };
    let is_ready = ready.status == crate::api::ConditionStatus::True;
    let before = old.and_then(|s| s.state);
    let unheard = new.state == Some(HostAgentState::Unheard);
    if before == new.state || (was_ready(old).is_none() && unheard) {
        return Vec::new();
    }
    vec![Note {
        warning: !is_ready && !unheard && new.state != Some(HostAgentState::Suspended),
        reason: ready.reason.clone(),
        action: "Ask".into(),
        message: ready.message.chars().take(500).collect(),
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(state: HostAgentState, generation: i64, since: &str) -> HostAgentStatus {
        let mut status: HostAgentStatus =
            serde_json::from_value(json!({"observedGeneration": generation, "state": format!("{state:?}")})).unwrap();
        let since = Time(since.parse().unwrap());
        status.held_services =
            vec![HeldService { name: "a".into(), owner: "Person".into(), reason: "tests".into(), since }];
        status
    }

    #[test]
    fn a_time_with_nanoseconds_is_no_change_of_what_was_stored() {
        let new = status(HostAgentState::Reachable, 1, "2026-03-01T12:00:00.123456789Z");
        let stored: HostAgentStatus = serde_json::from_value(serde_json::to_value(&new).unwrap()).unwrap();
        assert!(!differs(Some(&stored), &new));
        assert!(differs(Some(&stored), &status(HostAgentState::Reachable, 1, "2026-03-01T12:00:01Z")));
    }

    #[test]
    fn a_new_leader_leaves_what_was_said_until_it_has_heard_the_agent() {
        use HostAgentState::{Reachable, Unheard, Unreachable};
        let of = |state, generation| status(state, generation, "2026-03-01T12:00:00Z");
        for (old, new, undecided) in [
            (of(Reachable, 1), of(Unheard, 1), true),
            (of(Unreachable, 1), of(Unheard, 1), true),
            (of(Reachable, 1), of(Unheard, 2), false),
            (of(Reachable, 1), of(Unreachable, 1), false),
        ] {
            assert_eq!(is_undecided(Some(&old), &new), undecided, "{:?} {:?}", old.state, new.state);
        }
        assert!(!is_undecided(None, &of(Unheard, 1)));
    }
}
