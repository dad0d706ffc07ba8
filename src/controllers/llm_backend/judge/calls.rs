//! What inferences say: calls of workers, and the canaries that are sent when those leave a doubt.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BackendState, ConditionStatus, EngineKind},
    engines::{Blame, Failure, ProbeVerdict, same_model},
    store::{CallFault, FailedCall},
};

use super::{
    super::{evidence::describe_failures, facts::CanaryResult, memory::RecoveryCause, proof},
    Aspect, BackendAssessment, JudgeInput,
};

/// Failed calls under different requests that demand a proof.
const DOUBT: usize = 2;
/// Where no inference may be sent to find out, so many failed calls suffice.
const DOUBT_WITHOUT_CANARY: usize = 4;
/// Canaries that time out in a row before that means hung, where nobody sees the CPU.
const BLIND_TIMEOUTS: usize = 3;
/// The same, by time: others' work takes long.
const BLIND_SILENCE: i32 = 2;
/// Silence that is shorter is slowness, although no CPU is used: a device computes, or a queue is long.
pub const SILENT_FOR_AT_LEAST: SignedDuration = SignedDuration::from_secs(30);

/// What speaks against the server, and not its request.
const AGAINST_SERVER: [CallFault; 2] = [CallFault::Failed, CallFault::OutOfMemory];

impl JudgeInput<'_> {
    /// When evidence against the server begins to count: since something was served, and since it was proved or begun anew.
    pub(super) fn failing_after(&self) -> Option<Timestamp> {
        self.served_at().max(proof::needed_since(self.seen, self.memory))
    }

    /// The last failure of a declared model that fails while the server serves others: a restart would take those away.
    pub(super) fn failing_model(&self) -> Option<&FailedCall> {
        let failing = self.spec.models.iter().map(|model| self.failures_of(&model.own_name(self.engine)));
        failing.filter(|failures| failures.len() >= DOUBT).find_map(|failures| failures.last().copied())
    }

    /// The failures of one model since it was last served.
    fn failures_of(&self, model: &str) -> Vec<&FailedCall> {
        let evidence = &self.seen.evidence;
        let served = evidence.last_served(self.engine, &[model.to_owned()]).map(|call| call.ended_at);
        let since = served.max(proof::needed_since(self.seen, self.memory));
        let mut failures = evidence.failures(since, self.now, &AGAINST_SERVER);
        failures.retain(|call| same_model(self.engine, model, &call.model));
        failures
    }

    /// Whether another declared model was served after this one began to fail.
    fn fails_alone(&self, model: &str) -> bool {
        let failures = self.failures_of(model);
        let Some(first) = failures.first().filter(|_| failures.len() >= DOUBT) else { return false };
        let mut others = self.spec.models.iter().map(|other| other.own_name(self.engine).into_owned());
        others.any(|other| {
            if same_model(self.engine, &other, model) {
                return false;
            }
            let served = self.seen.evidence.last_served(self.engine, std::slice::from_ref(&other));
            served.is_some_and(|call| call.ended_at > first.ended_at)
        })
    }

    /// Calls fail. Two of them demand a proof; a canary that fails after that confirms them.
    pub(super) fn failing_calls(&self) -> Option<BackendAssessment> {
        let mut failures = self.seen.evidence.failures(self.failing_after(), self.now, &AGAINST_SERVER);
        // What one model alone does says nothing of the server: others were served meanwhile.
        failures.retain(|call| !self.fails_alone(&call.model));
        let canaries = self.seen.canary.failures_after(self.asked_after());
        if failures.is_empty() || failures.len().max(canaries) < DOUBT {
            return None;
        }
        if !self.may_ask() && failures.len() < DOUBT_WITHOUT_CANARY {
            return None;
        }
        let message = describe_failures(&failures);
        let last_canary = self.seen.canary.failure_since(self.failing_after());
        let against_server = |failure: &Failure| failure.fault() == Blame::Server;
        let confirmed = match last_canary {
            Some((_, Failure::Timeout { .. })) => return self.silent_canary(),
            Some((canary, failure)) if against_server(failure) => {
                let before = failures.iter().filter(|call| call.ended_at <= canary.started_at).count();
                before >= DOUBT || canaries > DOUBT
            }
            Some(_) => false,
            None => !self.may_ask(),
        };
        // Another call goes on: its end will tell, and until then nothing can be asked beside it.
        let goes_on = self.seen.load.last_byte_at() > failures.iter().map(|call| call.ended_at).max();
        if !confirmed && goes_on {
            return None;
        }
        if !confirmed {
            let message = format!("{message}; an inference must show whether it still serves");
            return Some(self.judgement(BackendState::Unknown, "CallsFail", message).needing_proof());
        }
        let out_of_memory = failures.iter().any(|call| call.fault == CallFault::OutOfMemory);
        let (reason, cause) = match (out_of_memory, last_canary) {
            (true, _) => ("OutOfMemory", RecoveryCause::OutOfMemory),
            (false, Some((_, Failure::Reset { .. } | Failure::Refused))) => ("Reset", RecoveryCause::Reset),
            (false, _) => ("ServerError", RecoveryCause::ServerError),
        };
        let mut down = self.down(reason, message, cause);
        down.serving = Aspect::new(ConditionStatus::False, reason);
        Some(down)
    }

    /// The last canary got no answer in its time.
    pub(super) fn silent_canary(&self) -> Option<BackendAssessment> {
        let (last, failure) = self.canary_failure()?;
        match failure {
            Failure::Timeout { .. } if self.last_life() > Some(last.started_at) => None,
            Failure::Timeout { .. } => Some(self.by_silence_of(last)),
            Failure::ModelMissing { detail } => {
                let message = format!("it lists the model, and answers an inference with: {detail}");
                let mut lacking = self.judgement(BackendState::ModelsMissing, "ModelsMissing", message);
                lacking.models_ready = Aspect::new(ConditionStatus::False, "ModelsMissing");
                Some(lacking.for_human())
            }
            _ => None,
        }
    }

    fn by_silence_of(&self, last: &CanaryResult) -> BackendAssessment {
        let (timeouts, silent_since) = self.seen.canary.silent_after(self.asked_after());
        let since = silent_since.unwrap_or(last.started_at);
        let took = last.ended_at.duration_since(last.started_at).as_secs();
        let asked = format!("an inference of one token with {} got no answer in {took} s", last.model);
        if self.uses_cpu() == Some(true) {
            let message = "an inference cannot get through, while its processes use CPU: somebody else's work runs";
            return self.busy_since(since, message.to_owned());
        }
        // It worked since this one was sent, and rests now: asked again before it is blamed.
        let worked = self.seen.cpu.advanced_at > Some(last.started_at);
        // Loading had all the time that it may take; one that ended sooner got no connection, or only its head.
        if last.loads && !worked && last.ended_at >= last.started_at + self.startup() {
            return self.hung(format!("{asked}, which is startupSeconds: the model does not load"));
        }
        let silent_for = last.ended_at.duration_since(since);
        if silent_for >= SILENT_FOR_AT_LEAST && self.idle_since(since) {
            let silent_for = silent_for.as_secs();
            return self.hung(format!("{asked}, none in {silent_for} s, and its processes use no CPU"));
        }
        let long = silent_for >= (self.stall() * BLIND_SILENCE).min(SignedDuration::from_mins(2));
        if !worked && timeouts >= BLIND_TIMEOUTS && (long || self.spec.stall_seconds < self.spec.canary.timeout_seconds)
        {
            if self.others_use_it() {
                let message = format!("{asked}, while others use the model; nobody can see whether it works");
                return self.busy_since(since, message);
            }
            return self.hung(format!("{timeouts} inferences of one token in a row got no answer in {took} s each"));
        }
        let mut unknown =
            self.judgement(BackendState::Unknown, "CanaryTimeout", format!("{asked}; asked again")).needing_proof();
        unknown.serving = Aspect::new(ConditionStatus::Unknown, "CanaryTimeout");
        unknown
    }

    /// Whether somebody else holds a model: used it since it was loaded, or keeps it past its expiry while no call of ours is open.
    fn others_use_it(&self) -> bool {
        let Some(loaded) = self.seen.loaded.as_ref().filter(|_| self.spec.engine == EngineKind::Ollama) else {
            return false;
        };
        let grace = SignedDuration::from_secs(5);
        loaded.iter().any(|model| {
            let used = self.seen.used_by_others.iter().any(|name| same_model(self.engine, name, &model.name));
            used || model.expires_at.is_some_and(|at| at + grace < self.now) && self.seen.load.in_flight == 0
        })
    }

    /// 503: it has too much to do, or loads its model. Either may last only so long.
    pub(super) fn full(&self) -> Option<BackendAssessment> {
        let since = self.memory.full_since?;
        let canary = self.canary_failure().map(|(_, failure)| failure);
        let probe = self.seen.probes.last.as_ref().map(|probed| &probed.verdict);
        if matches!(canary, Some(Failure::Loading { .. })) || matches!(probe, Some(ProbeVerdict::Loading)) {
            let ends = since + self.startup();
            if self.now >= ends {
                let seconds = self.spec.probe.startup_seconds;
                return Some(self.hung(format!("it says 503 \"loading\" for longer than startupSeconds ({seconds})")));
            }
            let message = "HTTP 503: it loads its model".to_owned();
            return Some(self.judgement(BackendState::Proving, "Loading", message).needing_proof().until(ends));
        }
        Some(self.busy_since(since, "it answers 503: too much to do".into()))
    }

    /// New, changed, restarted, or back from being down: one inference decides (with `when: Never`, a listing suffices).
    pub(super) fn unproved(&self) -> Option<BackendAssessment> {
        let listed = self.seen.probes.listed();
        let nothing_to_ask = self.spec.models.is_empty()
            && self.spec.canary.model.is_none()
            && (listed.is_some_and(<[String]>::is_empty) || (listed.is_none() && self.spec.engine != EngineKind::Mlx));
        if self.is_proved() || nothing_to_ask {
            return None;
        }
        let canary = &self.seen.canary;
        let since = proof::needed_since(self.seen, self.memory).max(self.seen.probes.answering_since);
        // A step that has not ended has no end of its proof, either.
        let ends = since.and_then(|at| at.checked_add(self.startup()).ok());
        let over = ends.is_some_and(|at| self.now >= at) && canary.running_since.is_none();
        if !self.may_ask() {
            let message = "it answers, but no path lists its models, and canary.when is Never: name another path under \
                           probe.paths, or allow canaries";
            let mut unproven = self.judgement(BackendState::Proving, "NoProof", message.into());
            unproven.models_ready = Aspect::new(ConditionStatus::Unknown, "NoListing");
            return Some(unproven);
        }
        let last = canary.failure_since(since).map(|(_, failure)| failure);
        let message = match last {
            Some(failure) => format!("an inference must prove that it serves; the last one: {failure}"),
            None => "an inference must prove that it serves".to_owned(),
        };
        let mut proving = self.judgement(BackendState::Proving, "Proving", message).needing_proof();
        proving.models_ready = self.models_aspect();
        if over {
            proving.reason = "NotProved";
            proving.message = format!(
                "no inference was served within startupSeconds ({}): {}",
                self.spec.probe.startup_seconds,
                last.map_or_else(|| "none could be sent".to_owned(), ToString::to_string)
            );
            return Some(proving.for_human());
        }
        proving.until = ends;
        Some(proving)
    }
}
