//! Whether inferences get through: canaries, tokens of open calls, and who uses the CPU.

use jiff::SignedDuration;

use crate::{
    api::{BackendState, ConditionStatus},
    engines::Failure,
};

use super::{
    super::memory::Cause,
    {Aspect, Facts, Judgement},
};

/// Canaries that time out in a row before that alone means hung, where no agent sees the CPU.
const BLIND_TIMEOUTS: i32 = 3;

impl Facts<'_> {
    pub(super) fn hung(&self) -> Option<Judgement> {
        let canary = &self.seen.canary;
        if let Some(message) = self.stalled() {
            return Some(if self.cpu_says_busy() { self.busy(&message) } else { self.hang(message) });
        }
        let failure = canary.last.as_ref()?.result.as_ref().err()?;
        let seconds = self.spec.canary.timeout_seconds;
        match failure {
            Failure::Timeout { .. } if self.tokens_flow() => None,
            Failure::Timeout { .. } if self.cpu_says_busy() => Some(
                self.busy("an inference can't get through, while its processes use CPU: somebody else's work runs"),
            ),
            Failure::Timeout { .. } if canary.busy_since.is_some() => Some(self.hang(format!(
                "no inference got through for {} s, though its processes use CPU",
                self.spec.busy_grace_seconds
            ))),
            Failure::Timeout { .. } if canary.last.as_ref().is_some_and(|c| c.cpu_advanced == Some(false)) => {
                Some(self.hang(format!(
                    "an inference of one token got no answer in {seconds} s, and its processes use no CPU"
                )))
            }
            Failure::Timeout { .. } if canary.timeouts_in_row >= BLIND_TIMEOUTS => Some(
                self.hang(format!("{BLIND_TIMEOUTS} inferences of one token in a row got no answer in {seconds} s")),
            ),
            Failure::Timeout { .. } => {
                let mut unknown = self.judgement(
                    BackendState::Unknown,
                    "CanaryTimeout",
                    format!("an inference of one token got no answer in {seconds} s; asked again"),
                );
                unknown.serving = Aspect::new(ConditionStatus::Unknown, "CanaryTimeout");
                unknown.needs_proof = true;
                Some(unknown)
            }
            Failure::ModelMissing { detail } => {
                let mut lacking = self.judgement(
                    BackendState::ModelsMissing,
                    "ModelsMissing",
                    format!("it lists the model, and answers an inference with: {detail}"),
                );
                lacking.models_ready = Aspect::new(ConditionStatus::False, "ModelsMissing");
                Some(lacking.for_human())
            }
            Failure::ServerError { .. } | Failure::BadBody { .. } | Failure::Reset { .. }
                if canary.failures_in_row >= self.spec.probe.failure_threshold =>
            {
                Some(self.fails_to_infer(failure))
            }
            _ => None,
        }
    }

    pub(super) fn fails_to_infer(&self, failure: &Failure) -> Judgement {
        let (cause, reason) = match failure {
            Failure::BadBody { .. } => (Cause::BadBody, "BadBody"),
            Failure::Reset { .. } => (Cause::Reset, "Reset"),
            _ => (Cause::ServerError, "ServerError"),
        };
        let mut down =
            self.judgement(BackendState::Down, reason, format!("listings answer, inferences fail: {failure}"));
        down.serving = Aspect::new(ConditionStatus::False, reason);
        down.cause = Some(cause);
        down
    }

    /// No token from any open call for `stallSeconds` (the first one: `startupSeconds`, while a model loads).
    pub(super) fn stalled(&self) -> Option<String> {
        let load = &self.seen.load;
        if load.in_flight == 0 {
            return None;
        }
        let (since, patience) = match load.last_token_at {
            Some(at) => (at, self.spec.stall_seconds),
            None => (load.oldest_call_at?, self.spec.probe.startup_seconds),
        };
        (self.now >= since + SignedDuration::from_secs(patience.into()))
            .then(|| format!("no token of any open call for {patience} s"))
    }

    pub(super) fn tokens_flow(&self) -> bool {
        let patience = SignedDuration::from_secs(self.spec.stall_seconds.into());
        self.seen.load.in_flight > 0 && self.seen.load.last_token_at.is_some_and(|at| self.now < at + patience)
    }

    /// Others use the server: left alone, but not for longer than `busyGraceSeconds`.
    pub(super) fn cpu_says_busy(&self) -> bool {
        let grace = SignedDuration::from_secs(self.spec.busy_grace_seconds.into());
        self.seen.canary.busy_since.is_some_and(|since| self.now < since + grace)
    }

    pub(super) fn hang(&self, message: String) -> Judgement {
        let mut hung = self.judgement(BackendState::Hung, "Hung", message);
        hung.models_ready = Aspect::new(ConditionStatus::Unknown, "Hung");
        hung.serving = Aspect::new(ConditionStatus::False, "Hung");
        hung.cause = Some(Cause::Hung);
        hung
    }
}
