//! Status, computed from spec, what was seen and what was planned. It is written only when it differs, times aside.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        BackendState, ConditionStatus, LLMBackendSpec, LLMBackendStatus, ModelStatus, RecoveryRecord, RecoveryStatus,
        StepTally,
    },
    engines::normalize,
    store::Admission,
};

use super::{
    super::status::{Conditions, NOT_STALLED, Readiness},
    facts::BackendFacts,
    judge::{Aspect, BackendAssessment},
    limit,
    memory::{BackendMemory, bounded},
    plan::{BackendPlan, WaitReason},
    proof,
};

/// The state that people see: what was judged, under what is being done and what people want.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendShown {
    pub state: BackendState,
    pub reason: &'static str,
    pub message: String,
    pub ready: bool,
    pub admission: Admission,
    /// Only a human can mend it now.
    pub for_human: bool,
}

/// Lays recovery and people's will over the judgement.
pub fn shown(judged: &BackendAssessment, plan: &BackendPlan, seen: &BackendFacts) -> BackendShown {
    let memory = &plan.memory;
    let mut shown = BackendShown {
        state: judged.state,
        reason: judged.reason,
        message: judged.message.clone(),
        ready: judged.ready,
        admission: judged.admission,
        for_human: judged.for_human,
    };
    if seen.will.suspended {
        shown.state = BackendState::Suspended;
        shown.reason = "Suspended";
        shown.message = format!("suspended; without that: {}", judged.message);
        shown.ready = false;
        shown.admission = Admission::Closed;
        shown.for_human = false;
        return shown;
    }
    let Some(episode) = memory.episode.as_ref().filter(|_| !judged.ready && judged.state != BackendState::Suspended)
    else {
        return shown;
    };
    shown.admission = Admission::Closed;
    if episode.deferred_at.is_some() {
        shown.state = BackendState::Deferred;
        shown.reason = "DeferredToHuman";
        shown.for_human = true;
        shown.message = episode.evidence.clone();
    } else if let Some(run) = &episode.running {
        shown.state = BackendState::Recovering;
        shown.reason = "Recovering";
        // Not before the step is over.
        shown.for_human = false;
        let step = run.step.as_str().to_lowercase();
        let count = if run.step == super::memory::RecoveryStep::Restart {
            format!(" {}", episode.attempts)
        } else {
            String::new()
        };
        shown.message = format!("{}; {step}{count} is running, an inference must prove it", episode.evidence);
    } else if let Some(waiting) = &plan.waiting {
        shown.message = format!("{}; {}", judged.message, waiting.why.describe());
        if episode.told_blocked {
            shown.state = BackendState::Deferred;
            shown.reason = if waiting.why == WaitReason::Storm { "Storm" } else { "AgentUnreachable" };
            shown.for_human = true;
        }
    }
    shown
}

/// The whole status of this pass. `old` gives transition times.
pub fn status(
    spec: &LLMBackendSpec,
    seen: &BackendFacts,
    judged: &BackendAssessment,
    plan: &BackendPlan,
    old: Option<&LLMBackendStatus>,
    now: Timestamp,
) -> LLMBackendStatus {
    let shown = shown(judged, plan, seen);
    let memory = &plan.memory;
    LLMBackendStatus {
        base: conditions(&shown, judged, seen, old, now).base(shown.state, memory.handled_reconcile.clone()),
        effective_limit: Some(plan.limit),
        limited_by: limit::why(spec, seen, memory.lowered.as_ref(), plan.limit),
        models: models(spec, seen, old),
        last_served_time: memory.served_at.map(Time),
        proved_by: memory
            .proof
            .as_ref()
            .filter(|_| proof::is_current(seen, memory))
            .map(|proof| bounded(&proof.served)),
        recovery: recovery(memory, plan),
    }
}

fn conditions(
    shown: &BackendShown,
    judged: &BackendAssessment,
    seen: &BackendFacts,
    old: Option<&LLMBackendStatus>,
    now: Timestamp,
) -> Conditions {
    use ConditionStatus::{False, True};
    let mut conditions = Conditions::new(old, seen.generation, now);
    let (message, stalled) = (shown.message.as_str(), shown.for_human);
    conditions.set_readiness(Readiness {
        ready: shown.ready,
        stalled,
        suspended: shown.state == BackendState::Suspended,
        reason: shown.reason,
        message,
    });
    let mut set = |type_, status, reason, message: &str| conditions.set(type_, status, reason, message);
    let aspect = |a: &Aspect| (a.status, a.reason);
    let (status, reason) = aspect(&judged.reachable);
    set("Reachable", status, reason, if status == True { "the server answers" } else { &judged.message });
    let (status, reason) = aspect(&judged.models_ready);
    set("ModelsReady", status, reason, if status == True { "all expected models are there" } else { &judged.message });
    let (status, reason) = aspect(&judged.serving);
    let serving = if status == True && !shown.ready { False } else { status };
    set("Serving", serving, reason, if serving == True { "inferences succeed" } else { message });
    let deferred = if stalled { (True, shown.reason, message) } else { (False, "NotDeferred", NOT_STALLED) };
    set("DeferredToHuman", deferred.0, deferred.1, deferred.2);
    conditions
}

fn models(spec: &LLMBackendSpec, seen: &BackendFacts, old: Option<&LLMBackendStatus>) -> Vec<ModelStatus> {
    let kind = spec.engine;
    let same = |a: &str, b: &str| normalize(kind, a) == normalize(kind, b);
    let listing = seen.probes.listing();
    let known = |name: &str| old.and_then(|s| s.models.iter().find(|m| m.name == name));
    spec.models
        .iter()
        .map(|model| {
            let own = model.own_name(kind);
            let pull = seen.pulls.get(&*own).or_else(|| seen.pulls.get(&model.name));
            ModelStatus {
                name: model.name.clone(),
                present: match listing {
                    Some(listing) => listing.has(kind, &own) && !seen.outdated.contains(&*own),
                    None => known(&model.name).is_some_and(|m| m.present),
                },
                // Whether it is loaded changes by itself, with every pause of work: the API tells it live.
                loaded: model
                    .preload
                    .then(|| seen.loaded.as_ref().map(|all| all.iter().any(|l| same(&l.name, &own))))
                    .flatten(),
                pull_percent: pull.and_then(|p| p.percent),
                pull_error: pull.and_then(|p| p.error.clone()),
            }
        })
        .collect()
}

fn recovery(memory: &BackendMemory, plan: &BackendPlan) -> Option<RecoveryStatus> {
    if memory.episode.is_none() && memory.history.is_empty() {
        return None;
    }
    let episode = memory.episode.as_ref().filter(|e| e.resolved_at.is_none());
    let next = plan.waiting.as_ref().filter(|w| w.why != WaitReason::Step).and_then(|w| w.until);
    Some(RecoveryStatus {
        cause: episode.map(|e| e.cause.as_str().into()),
        step: episode.and_then(|e| e.running.as_ref()).map(|r| r.step.as_str().into()),
        attempts: memory.episode.as_ref().map_or(0, |e| e.attempts),
        next_attempt_time: next.map(Time),
        history: memory
            .history
            .iter()
            .map(|a| RecoveryRecord {
                time: Time(a.at),
                cause: a.cause.as_str().into(),
                step: a.step.as_str().into(),
                outcome: a.result.as_str().into(),
                evidence: a.evidence.clone(),
            })
            .collect(),
        tallies: memory
            .tallies
            .iter()
            .flat_map(|(cause, steps)| {
                steps.iter().map(|(step, tally)| StepTally {
                    cause: cause.as_str().into(),
                    step: step.as_str().into(),
                    tried: tally.tried,
                    helped: tally.helped,
                })
            })
            .collect(),
    })
}
