//! When a server is well: a pure function of what was declared, observed and remembered. Rules: docs/backends.md.
//!
//! Each rule returns a judgement or passes the question on; the order of [`judge`] is the order of the rules.

mod calls;
mod declared;
mod life;
mod models;
mod probes;

pub use calls::SILENT_FOR_AT_LEAST;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BackendState, CanaryWhen, ConditionStatus, LLMBackendSpec, number_of},
    engines::{EngineKind, Failure, ProbeVerdict},
    store::{Admission, FailedCall, ServedCall},
};

use super::{
    facts::{BackendFacts, CanaryResult},
    history::just_before,
    memory::{BackendMemory, RecoveryCause},
    proof,
};

/// After this time without work a server that loads models on demand counts as idle.
pub const DEMAND_WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// One of the kind's conditions: its status and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aspect {
    pub status: ConditionStatus,
    pub reason: &'static str,
}

impl Aspect {
    fn new(status: ConditionStatus, reason: &'static str) -> Self {
        Self { status, reason }
    }
}

/// What a server is, by all that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendAssessment {
    pub state: BackendState,
    /// The word of the `Ready` condition.
    pub reason: &'static str,
    pub message: String,
    pub reachable: Aspect,
    pub models_ready: Aspect,
    pub serving: Aspect,
    pub ready: bool,
    /// What a step of recovery may mend.
    pub cause: Option<RecoveryCause>,
    /// Only a human can mend it.
    pub for_human: bool,
    pub admission: Admission,
    /// One inference must prove that it serves, whatever politeness says.
    pub needs_proof: bool,
    /// Expected models that the server lacks, of those to be pulled.
    pub to_pull: Vec<String>,
    /// When this judgement changes although nothing new is observed.
    pub until: Option<Timestamp>,
}

/// Judges a server. `memory` has the proof that [`proof::note`] found in `seen`.
pub fn judge(spec: &LLMBackendSpec, seen: &BackendFacts, memory: &BackendMemory, now: Timestamp) -> BackendAssessment {
    let facts = JudgeInput::new(spec, seen, memory, now);
    facts
        .misdeclared()
        .or_else(|| facts.stopped_by_a_person())
        .or_else(|| facts.exited())
        .or_else(|| facts.not_answering())
        .or_else(|| facts.stale())
        .or_else(|| facts.refuses_us())
        .or_else(|| facts.lacks_models())
        .or_else(|| facts.too_large())
        .or_else(|| facts.silent_calls())
        .or_else(|| facts.failing_calls())
        .or_else(|| facts.silent_canary())
        .or_else(|| facts.full())
        .or_else(|| facts.unproved())
        .unwrap_or_else(|| facts.serving())
}

struct JudgeInput<'a> {
    spec: &'a LLMBackendSpec,
    seen: &'a BackendFacts,
    memory: &'a BackendMemory,
    now: Timestamp,
    engine: EngineKind,
    /// The newest served call of a declared model.
    served: Option<&'a ServedCall>,
}

impl<'a> JudgeInput<'a> {
    fn new(spec: &'a LLMBackendSpec, seen: &'a BackendFacts, memory: &'a BackendMemory, now: Timestamp) -> Self {
        let engine = spec.engine;
        let served = seen.evidence.last_served(engine, &proof::models(spec));
        Self { spec, seen, memory, now, engine, served }
    }

    fn served_at(&self) -> Option<Timestamp> {
        self.served.map(|call| call.ended_at)
    }

    /// Canaries that began before this say nothing of the server as it is now: something was served since, or a step of recovery ended.
    fn asked_after(&self) -> Option<Timestamp> {
        self.served_at().max(self.step_ended_at().map(just_before))
    }

    fn step_ended_at(&self) -> Option<Timestamp> {
        proof::step_ended_at(self.seen, self.memory.episode.as_ref()?.running.as_ref()?)
    }

    fn canary_failure(&self) -> Option<(&'a CanaryResult, &'a Failure)> {
        self.seen.canary.failure_since(self.asked_after())
    }

    fn seconds(of: i32) -> SignedDuration {
        SignedDuration::from_secs(of.into())
    }

    fn stall(&self) -> SignedDuration {
        Self::seconds(self.spec.stall_seconds)
    }

    fn startup(&self) -> SignedDuration {
        Self::seconds(self.spec.probe.startup_seconds)
    }

    fn busy_grace(&self) -> SignedDuration {
        Self::seconds(self.spec.busy_grace_seconds)
    }

    fn may_ask(&self) -> bool {
        self.spec.canary.when != CanaryWhen::Never
    }

    fn is_proved(&self) -> bool {
        proof::is_current(self.seen, self.memory)
    }

    fn serving(&self) -> BackendAssessment {
        let recent = |at: Option<Timestamp>| at.is_some_and(|at| self.now < at + DEMAND_WINDOW);
        let load = &self.seen.load;
        let fresh = recent(self.served_at()) || recent(self.memory.proof.as_ref().map(|proof| proof.at));
        let demand = load.in_flight > 0 || load.waiting > 0 || recent(load.last_call_at);
        if self.spec.canary.when != CanaryWhen::Demand || (fresh && demand) {
            return self.well(BackendState::Serving, "Serving", "answers and serves".into());
        }
        let message = if demand {
            "answers; work waits, and the first call must show that it still serves"
        } else {
            "answers; left asleep until work comes"
        };
        let mut idle = self.well(BackendState::Idle, "Idle", message.into());
        // Tried by one call before more go there.
        idle.admission = Admission::One;
        idle.needs_proof = demand;
        idle
    }

    /// The skeleton of a judgement: not ready, no slots.
    fn judgement(&self, state: BackendState, reason: &'static str, message: String) -> BackendAssessment {
        let reachable = match (&self.seen.probes.last, self.seen.probes.answering) {
            (None, _) => Aspect::new(ConditionStatus::Unknown, "NotProbed"),
            (Some(p), _) if !p.verdict.is_failure() => Aspect::new(ConditionStatus::True, "Answers"),
            (_, Some(false)) => Aspect::new(ConditionStatus::False, reason),
            (_, _) => Aspect::new(ConditionStatus::Unknown, "ProbeFailed"),
        };
        let serving = match state {
            BackendState::Proving | BackendState::Unknown => ConditionStatus::Unknown,
            _ => ConditionStatus::False,
        };
        BackendAssessment {
            state,
            reason,
            message,
            reachable,
            models_ready: Aspect::new(ConditionStatus::Unknown, reason),
            serving: Aspect::new(serving, reason),
            ready: false,
            cause: None,
            for_human: false,
            admission: Admission::Closed,
            needs_proof: false,
            to_pull: Vec::new(),
            until: None,
        }
    }

    fn well(&self, state: BackendState, reason: &'static str, message: String) -> BackendAssessment {
        let without_device = self
            .without_device()
            .map(|model| format!("{model} runs on the CPU alone, and ran on a device before: restart the server"));
        let failing = self.failing_model().map(|call| {
            let FailedCall { model, message, .. } = call;
            format!("calls of {model} alone fail, the last one with: {message}; try it by hand, or remove it from spec.models")
        });
        let models_ready = match failing {
            Some(_) => Aspect::new(ConditionStatus::False, "ModelFails"),
            None => self.models_aspect(),
        };
        let message = [Some(message), without_device, failing].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let mut well = self.judgement(state, reason, message);
        well.reachable = Aspect::new(ConditionStatus::True, "Answers");
        well.models_ready = models_ready;
        well.serving = Aspect::new(ConditionStatus::True, reason);
        well.ready = true;
        well.admission = Admission::Open;
        well
    }

    /// A model that lost its device: it serves, many times slower.
    fn without_device(&self) -> Option<&str> {
        let loaded = self.seen.loaded.iter().flatten();
        let mut lost = loaded.filter(|m| m.size > 0 && m.size_vram == 0 && self.memory.on_device.contains(&m.name));
        lost.next().map(|model| model.name.as_str())
    }

    /// Down for a cause that a restart can help.
    fn down(&self, reason: &'static str, message: String, cause: RecoveryCause) -> BackendAssessment {
        let mut down = self.judgement(BackendState::Down, reason, message);
        down.cause = Some(cause);
        down
    }

    fn hung(&self, message: String) -> BackendAssessment {
        let mut hung = self.judgement(BackendState::Hung, "Hung", message);
        hung.cause = Some(RecoveryCause::Hung);
        hung
    }

    /// Alive, and occupied: left alone until `busyGraceSeconds` after `since`, then hung.
    fn busy_since(&self, since: Timestamp, message: String) -> BackendAssessment {
        let ends = since + self.busy_grace();
        if self.now >= ends {
            return self
                .hung(format!("{message}, for longer than busyGraceSeconds ({})", self.spec.busy_grace_seconds));
        }
        self.busy(message).until(ends)
    }

    /// Ready where it was proved; else it waits for its proof.
    fn busy(&self, message: String) -> BackendAssessment {
        if self.is_proved() {
            return self.well(BackendState::Busy, "Busy", message);
        }
        let mut proving = self.judgement(BackendState::Proving, "Busy", message);
        proving.needs_proof = true;
        proving
    }
}

impl BackendAssessment {
    fn for_human(mut self) -> Self {
        self.for_human = true;
        self
    }

    fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    fn needing_proof(mut self) -> Self {
        self.needs_proof = true;
        self
    }
}

/// A verdict in words.
pub fn describe(verdict: &ProbeVerdict) -> String {
    match verdict {
        ProbeVerdict::Models(listing) => {
            format!("lists {}", number_of(listing.models.len(), "model"))
        }
        ProbeVerdict::NeedsInference { bad_body: true } => "answers 200 without a body that lists models".into(),
        ProbeVerdict::NeedsInference { bad_body: false } => "answers, but no path lists models".into(),
        ProbeVerdict::Unauthorized { status } => format!("HTTP {status}"),
        ProbeVerdict::RateLimited { .. } => "HTTP 429".into(),
        ProbeVerdict::Busy => "HTTP 503".into(),
        ProbeVerdict::ServerError { status } => format!("HTTP {status}"),
        ProbeVerdict::Refused => "connection refused".into(),
        ProbeVerdict::Reset => "connection reset".into(),
        ProbeVerdict::Timeout => "no answer to the probe in time".into(),
        ProbeVerdict::Loading => "HTTP 503: it loads its model".into(),
        ProbeVerdict::Unreachable(why) => format!("cannot reach the host: {why}"),
        ProbeVerdict::Misconfigured(why) => format!("no such API at this URL: {why}; check spec.url"),
    }
}
