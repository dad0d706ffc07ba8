//! What probes and the host agent say: death, silence, and answers that no restart can help.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BackendState, ConditionStatus},
    engines::{Failure, ProbeVerdict},
    host::ServiceState,
};

use super::{
    super::{
        facts::{BackendService, ProbeResult},
        memory::RecoveryCause,
    },
    Aspect, BackendAssessment, JudgeInput, describe,
};

/// A server that can't be reached is a human's turn after this.
const UNREACHABLE: SignedDuration = SignedDuration::from_mins(5);

impl JudgeInput<'_> {
    /// The host agent saw the process end, and nothing has answered since.
    pub(super) fn exited(&self) -> Option<BackendAssessment> {
        let service = self.seen.agent.service()?;
        let report = &service.report;
        // One that never ran since the agent began is about to be started: probes tell.
        let saw_it_end = service.exited_at.is_some() || report.last_failure.is_some();
        if report.state != ServiceState::Stopped || !saw_it_end || self.answers_without(service) {
            return None;
        }
        let why = report.last_failure.clone().unwrap_or_else(|| match &report.last_exit {
            Some(exit) => format!("its process ended: {}", exit.describe()),
            None => "its process does not run".to_owned(),
        });
        let mut down = self.down("Exited", format!("service {}: {why}", report.name), RecoveryCause::Exited);
        down.reachable = Aspect::new(ConditionStatus::False, "Exited");
        Some(down)
    }

    /// Whether something answers although the agent says that the service is stopped: a process that it did not start.
    pub(super) fn answers_without(&self, service: &BackendService) -> bool {
        match service.exited_at {
            Some(ended) => self.answered_since(Some(ended)),
            None => self.seen.probes.last.as_ref().is_some_and(|probed| !probed.verdict.is_failure()),
        }
    }

    /// Whether a probe was answered after `since`.
    pub(super) fn answered_since(&self, since: Option<Timestamp>) -> bool {
        self.seen.probes.last_good.as_ref().is_some_and(|good| Some(good.at) > since)
    }

    pub(super) fn not_answering(&self) -> Option<BackendAssessment> {
        let probes = &self.seen.probes;
        let Some(last) = &probes.last else {
            return Some(self.judgement(BackendState::Proving, "Proving", "the first probe is running".into()));
        };
        match probes.answering {
            Some(true) => None,
            None if !last.verdict.is_failure() => None,
            None => Some(self.judgement(
                BackendState::Proving,
                "Proving",
                format!("not answering yet: {}", describe(&last.verdict)),
            )),
            Some(false) if self.is_starting() => {
                Some(self.judgement(BackendState::Proving, "Starting", self.starting_message()))
            }
            Some(false) => Some(self.by_last_failure(last)),
        }
    }

    fn starting_message(&self) -> String {
        format!("it just started, and has {} s to answer", self.spec.probe.startup_seconds)
    }

    /// Down by its threshold: the cause is what the last failure said.
    fn by_last_failure(&self, last: &ProbeResult) -> BackendAssessment {
        let failing_since = self.seen.probes.failing_since.or(self.seen.probes.down_since).unwrap_or(last.at);
        let count = self.seen.probes.failures_in_row.max(1);
        let message = match count {
            1 => describe(&last.verdict),
            count => format!("{count} consecutive probes failed: {}", describe(&last.verdict)),
        };
        // What got bytes after the last refusal is not dead.
        let alive_since = self.seen.load.last_byte_at().is_some_and(|at| at > last.at);
        match &last.verdict {
            ProbeVerdict::Refused | ProbeVerdict::Reset if alive_since => {
                self.busy("probes are refused, while open calls get bytes".into())
            }
            ProbeVerdict::Refused => self.down("Refused", describe(&last.verdict), RecoveryCause::Refused),
            ProbeVerdict::Reset => self.down("Reset", describe(&last.verdict), RecoveryCause::Reset),
            ProbeVerdict::Unreachable(_) => {
                let ends = failing_since + UNREACHABLE;
                let down = self.judgement(BackendState::Unreachable, "Unreachable", message);
                if self.now >= ends { down.for_human() } else { down.until(ends) }
            }
            ProbeVerdict::Misconfigured(_) => {
                self.judgement(BackendState::Misconfigured, "Misconfigured", message).for_human()
            }
            ProbeVerdict::Timeout | ProbeVerdict::ServerError { .. } => {
                self.silent_listing(last, failing_since, message)
            }
            // Answers again, but not often enough in a row.
            ProbeVerdict::Models(_)
            | ProbeVerdict::NeedsInference { .. }
            | ProbeVerdict::Unauthorized { .. }
            | ProbeVerdict::RateLimited { .. }
            | ProbeVerdict::Busy
            | ProbeVerdict::Loading => self.judgement(
                BackendState::Unknown,
                "NotAnswering",
                format!("it answers again: {}; not often enough yet", describe(&last.verdict)),
            ),
        }
    }

    /// Listings time out or fail: death, or a server that works. Signs of life decide, else an inference does.
    fn silent_listing(&self, last: &ProbeResult, since: Timestamp, message: String) -> BackendAssessment {
        let served_since = self.served_at().is_some_and(|at| at > since);
        if self.bytes_flow() || served_since && !self.seen.load.open.is_empty() {
            return self.busy(format!("{message}, while calls get bytes"));
        }
        if self.uses_cpu() == Some(true) {
            return self.busy_since(since, format!("{message}, while its processes use CPU"));
        }
        if let Some(judged) = self.silent_calls().or_else(|| self.failing_calls()) {
            return judged;
        }
        if !self.may_ask() {
            return match last.verdict {
                ProbeVerdict::ServerError { .. } => self.down("ServerError", message, RecoveryCause::ServerError),
                _ if self.now >= since + self.stall() => self.hung(message),
                _ => self.judgement(BackendState::Unknown, "NotAnswering", message).until(since + self.stall()),
            };
        }
        if let Some((_, failure)) = self.seen.canary.failure_since(Some(since).max(self.asked_after())) {
            match failure {
                Failure::Timeout { .. } => {
                    if let Some(judged) = self.silent_canary() {
                        return judged;
                    }
                }
                failure if failure.fault() == crate::engines::Blame::Server => {
                    let message = format!("{message}; an inference failed too: {failure}");
                    return self.down("ServerError", message, RecoveryCause::ServerError);
                }
                _ => {}
            }
        }
        let message = format!("{message}; an inference must show whether it is dead or busy");
        self.judgement(BackendState::Unknown, "NotAnswering", message).needing_proof()
    }

    /// A process that an agent saw start is given `startupSeconds`, and so are the first pods of a workload.
    pub(super) fn is_starting(&self) -> bool {
        let in_workload = self.spec.recovery.as_ref().is_some_and(|r| r.workload_ref.is_some());
        let never_served = self.memory.proof.is_none() && self.seen.probes.last_good.is_none();
        if in_workload && never_served && self.seen.created_at.is_some_and(|at| self.now < at + self.startup()) {
            return true;
        }
        let Some(service) = self.seen.agent.service() else { return false };
        match (service.report.state, service.instance_since) {
            // The agent knows how long it may take, also before there is a process.
            (ServiceState::Starting, began) if began.is_none() || service.report.instance.is_none() => true,
            (ServiceState::Running | ServiceState::Starting, Some(began)) => {
                !self.answered_since(Some(began)) && self.now < began + self.startup()
            }
            _ => false,
        }
    }

    /// Verdicts older than three periods are unknown, unless the server asked not to be probed.
    pub(super) fn stale(&self) -> Option<BackendAssessment> {
        let probe = &self.spec.probe;
        let age = SignedDuration::from_secs(3 * i64::from(probe.period_seconds) + i64::from(probe.timeout_seconds));
        let last = self.seen.probes.last.as_ref()?;
        if self.now < last.not_before.unwrap_or(last.at).max(last.at) + age {
            return None;
        }
        let mut unknown = self.judgement(BackendState::Unknown, "StaleVerdict", "not probed for three periods".into());
        unknown.reachable = Aspect::new(ConditionStatus::Unknown, "StaleVerdict");
        unknown.admission = crate::store::Admission::One;
        Some(unknown)
    }

    /// Credentials, rate limits, and answers that are not of this engine.
    pub(super) fn refuses_us(&self) -> Option<BackendAssessment> {
        let canary = self.canary_failure().map(|(_, failure)| failure);
        let probe = &self.seen.probes.last.as_ref()?.verdict;
        match (probe, canary) {
            (ProbeVerdict::Unauthorized { status }, _) | (_, Some(Failure::Unauthorized { status })) => {
                let message = match status {
                    402 => "HTTP 402: the server wants to be paid".to_owned(),
                    status => format!("HTTP {status}: the server wants other credentials; check authSecretRef"),
                };
                Some(self.judgement(BackendState::Unauthorized, "Unauthorized", message).for_human())
            }
            (ProbeVerdict::Misconfigured(why), _) | (_, Some(Failure::Misconfigured(why))) => {
                Some(self.judgement(BackendState::Misconfigured, "Misconfigured", why.clone()).for_human())
            }
            (ProbeVerdict::RateLimited { .. }, _) | (_, Some(Failure::RateLimited { .. })) => Some(self.rate_limited()),
            _ => None,
        }
    }

    /// No restart ends a rate limit: past `busyGraceSeconds` it is a human's turn.
    fn rate_limited(&self) -> BackendAssessment {
        let message = "HTTP 429: asked again after Retry-After".to_owned();
        let mut limited = self.judgement(BackendState::RateLimited, "RateLimited", message);
        limited.models_ready = Aspect::new(ConditionStatus::True, "Listed");
        let since = self.memory.full_since.unwrap_or(self.now);
        if self.now >= since + self.busy_grace() {
            let since = since.strftime("%H:%M:%S");
            limited.message = format!("HTTP 429 since {since} UTC: raise the limit there, or send less");
            return limited.for_human();
        }
        limited
    }
}
