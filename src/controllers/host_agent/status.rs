//! Status of a HostAgent: what it last reported, without what changes by itself.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        ConditionStatus, HeldService, HostAgent, HostAgentState, HostAgentStatus, ServiceSummary, condition, number_of,
    },
    host::{AgentReport, HostErrorKind, MAX_REASON_CHARS},
    platform::Note,
};

use super::{
    super::status::{Conditions, Readiness, is_judged, note},
    HostAgentObserved,
};

/// Clocks that differ by less are taken for the same.
const SKEW: i64 = 5;
/// The bounds of the resource's schema.
const MAX_NAME: usize = 253;
const MAX_SERVICES: usize = 256;
const MAX_HOLDS: usize = 1024;

struct Verdict {
    state: HostAgentState,
    ready: bool,
    stalled: bool,
    message: String,
}

fn verdict(observed: &HostAgentObserved) -> Verdict {
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
        (_, None, Some(_)) if let Some(why) = &observed.refusal => {
            of(HostAgentState::Refusing, false, true, why.clone())
        }
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
    observed: &HostAgentObserved,
    old: Option<&HostAgentStatus>,
    now: Timestamp,
) -> HostAgentStatus {
    let verdict = verdict(observed);
    let mut conditions = Conditions::new(old, object.metadata.generation.unwrap_or_default(), now);
    conditions.set_readiness(Readiness {
        ready: verdict.ready,
        stalled: verdict.stalled,
        suspended: observed.suspended,
        reason: verdict.state.as_str(),
        message: &verdict.message,
    });
    // An agent may be of another release, or somebody else's: whatever it says, the status can be written.
    let report = observed.heard.as_ref().map(|h| &h.report);
    let kept = |f: fn(&HostAgentStatus) -> Option<String>| old.and_then(f);
    HostAgentStatus {
        base: conditions.base(verdict.state, observed.handled_reconcile.clone()),
        version: report.map(|r| cut(&r.version, 64)).or_else(|| kept(|s| s.version.clone())),
        user: report.map(|r| cut(&r.user, MAX_NAME)).or_else(|| kept(|s| s.user.clone())),
        container_runtime: report
            .and_then(|r| r.container_runtime.as_ref())
            .map(|r| cut(&format!("{} {}", r.name, r.version), MAX_NAME))
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
        name: cut(&s.name, MAX_NAME),
        state: s.state.as_str().to_owned(),
        user: s.user.as_ref().map(|user| cut(user, MAX_NAME)),
    };
    let mut services: Vec<ServiceSummary> = report.services.iter().take(MAX_SERVICES).map(summary).collect();
    // A list that is a map by name takes each name once.
    let mut names = HashSet::new();
    services.retain(|service| names.insert(service.name.clone()));
    services
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn held(report: &AgentReport) -> Vec<HeldService> {
    let holds = report.services.iter().flat_map(|s| s.holds.iter().map(move |h| (s, h)));
    holds
        .take(MAX_HOLDS)
        .map(|(s, h)| HeldService {
            name: cut(&s.name, MAX_NAME),
            owner: h.owner.as_str().into(),
            reason: cut(&h.reason, MAX_REASON_CHARS),
            since: Time(h.since),
        })
        .collect()
}

/// Whether this term has not heard the agent yet, and an earlier one said something of this generation, which holds until then.
pub fn is_undecided(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> bool {
    new.base.state == Some(HostAgentState::Unheard) && is_judged(old, new.base.observed_generation)
}

/// The event of a change of state. That an agent was not asked yet is no warning, and no event of a new one.
pub fn change(old: Option<&HostAgentStatus>, new: &HostAgentStatus) -> Option<Note> {
    use HostAgentState::{Suspended, Unheard};
    let ready = condition(&new.base.conditions, "Ready")?;
    let was_judged = old.is_some_and(|old| condition(&old.base.conditions, "Ready").is_some());
    let state = new.base.state;
    if old.and_then(|old| old.base.state) == state || !was_judged && state == Some(Unheard) {
        return None;
    }
    let is_ready = ready.status == ConditionStatus::True;
    Some(note(!is_ready && state != Some(Unheard) && state != Some(Suspended), "Ask", ready))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::super::status::differs, *};

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
    fn whatever_an_agent_says_fits_the_schema() {
        let long = "x".repeat(5_000);
        let service = json!({
            "name": long, "manager": "Process", "state": "Running", "user": long,
            "holds": vec![json!({"owner": "Person", "reason": long, "since": "2026-03-01T12:00:00Z"}); 9],
        });
        let report: AgentReport = serde_json::from_value(json!({
            "name": long, "version": long, "user": long, "time": "2026-03-01T12:00:00Z",
            "startedAt": "2026-03-01T11:00:00Z", "services": vec![service; 400],
        }))
        .unwrap();
        let (services, held) = (services(&report), held(&report));
        assert_eq!((services.len(), held.len()), (1, MAX_HOLDS), "one name, many holds");
        assert!(
            services.iter().all(|s| s.name.len() == MAX_NAME && s.user.as_ref().is_some_and(|u| u.len() == MAX_NAME))
        );
        assert!(held.iter().all(|h| h.reason.len() == MAX_REASON_CHARS));
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
            assert_eq!(is_undecided(Some(&old), &new), undecided, "{:?} {:?}", old.base.state, new.base.state);
        }
        assert!(!is_undecided(None, &of(Unheard, 1)));
    }
}
