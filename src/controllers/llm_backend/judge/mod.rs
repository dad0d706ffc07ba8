//! When a server is well: a pure function of what was declared, seen and remembered.

mod inference;
mod words;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{BackendState, CanaryWhen, ConditionStatus, Engine, LLMBackendSpec},
    engines::{Failure, ProbeVerdict, normalize},
    host::ServiceState,
    store::Admission,
};

use super::{
    engine_kind,
    memory::{Cause, Memory},
    seen::{Misdeclared, Seen},
};

pub use words::{describe, word};

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
pub struct Judgement {
    pub state: BackendState,
    /// The word of the `Ready` condition.
    pub reason: &'static str,
    pub message: String,
    pub reachable: Aspect,
    pub models_ready: Aspect,
    pub serving: Aspect,
    pub ready: bool,
    /// What the ladder may mend.
    pub cause: Option<Cause>,
    /// Only a human can mend it.
    pub for_human: bool,
    pub admission: Admission,
    /// One inference must prove that it serves.
    pub needs_proof: bool,
    /// Expected models that the server lacks, of those to be pulled.
    pub to_pull: Vec<String>,
}

/// Judges a server. Rules: docs/backends.md.
pub fn judge(spec: &LLMBackendSpec, seen: &Seen, memory: &Memory, now: Timestamp) -> Judgement {
    let facts = Facts { spec, seen, memory, now };
    facts
        .misdeclared()
        .or_else(|| facts.stopped_by_a_person())
        .or_else(|| facts.not_answering())
        .or_else(|| facts.stale())
        .or_else(|| facts.refuses_us())
        .or_else(|| facts.lacks_models())
        .or_else(|| facts.hung())
        .or_else(|| facts.unproved())
        .unwrap_or_else(|| facts.serving())
}

struct Facts<'a> {
    spec: &'a LLMBackendSpec,
    seen: &'a Seen,
    memory: &'a Memory,
    now: Timestamp,
}

impl Facts<'_> {
    fn misdeclared(&self) -> Option<Judgement> {
        let (state, reason, message) = match self.seen.misdeclared.as_ref()? {
            Misdeclared::LoopbackUrl => (
                BackendState::LoopbackURL,
                "LoopbackURL",
                format!(
                    "{} is the controller's own pod in a cluster: give the address of the server's host",
                    self.spec.url
                ),
            ),
            Misdeclared::DuplicateServer { older } => (
                BackendState::DuplicateServer,
                "DuplicateServer",
                format!("{} is already declared by {older}, which is older: delete one of the two", self.spec.url),
            ),
            Misdeclared::SecretMissing { what } => (BackendState::SecretMissing, "SecretMissing", what.clone()),
            Misdeclared::HostAgentMissing { name } => (
                BackendState::HostAgentMissing,
                "HostAgentMissing",
                format!(
                    "recovery.hostAgentRef names {name}, and there is no such HostAgent: create it, or correct the name"
                ),
            ),
            Misdeclared::ServiceUnknown { agent, service } => (
                BackendState::HostAgentMissing,
                "ServiceUnknown",
                format!(
                    "host agent {agent} lists no service {service}: add it to the agent's file, or correct recovery.service"
                ),
            ),
        };
        Some(self.judgement(state, reason, message).for_human())
    }

    /// A service that a person stopped is as it should be: not failed, and not to be healed.
    fn stopped_by_a_person(&self) -> Option<Judgement> {
        let service = self.seen.agent.service()?;
        let hold = service.report.holds.iter().find(|h| h.owner == crate::host::HoldOwner::Person)?;
        let gone = self.seen.probes.last.as_ref().is_none_or(|p| p.verdict.is_failure());
        if service.report.state != ServiceState::Stopped || !gone {
            return None;
        }
        let name = &service.report.name;
        let why = if hold.reason.is_empty() { String::new() } else { format!(" ({})", hold.reason) };
        let message = format!("service {name} was stopped by a person{why}: `ostler start {name}` starts it");
        Some(self.judgement(BackendState::Suspended, "StoppedByPerson", message))
    }

    fn not_answering(&self) -> Option<Judgement> {
        let probes = &self.seen.probes;
        let Some(last) = &probes.last else {
            return Some(self.judgement(BackendState::Proving, "Proving", "the first probe is running".into()));
        };
        match probes.answering {
            Some(true) => None,
            None if last.verdict.is_failure() => Some(self.judgement(
                BackendState::Proving,
                "Proving",
                format!("not answering yet: {}", describe(&last.verdict)),
            )),
            None => None,
            Some(false) if self.cpu_says_busy() => Some(self.busy("its processes use CPU while it does not answer")),
            Some(false) if self.is_starting() => Some(self.judgement(
                BackendState::Proving,
                "Starting",
                format!("it just started, and has {} s to answer", self.spec.probe.startup_seconds),
            )),
            Some(false) => Some(self.down(last)),
        }
    }

    fn down(&self, last: &super::seen::Probed) -> Judgement {
        // Recovered enough to answer, but not often enough in a row: the cause is what the last failure said.
        let (cause, reason) = match &last.verdict {
            ProbeVerdict::Reset => (Cause::Reset, "Reset"),
            ProbeVerdict::Timeout => (Cause::Timeout, "Timeout"),
            ProbeVerdict::ServerError { .. } => (Cause::ServerError, "ServerError"),
            _ => (Cause::Refused, "Refused"),
        };
        let mut down = self.judgement(BackendState::Down, reason, describe(&last.verdict));
        down.reachable = Aspect::new(ConditionStatus::False, reason);
        down.cause = Some(cause);
        down
    }

    /// A process that an agent saw start is given `startupSeconds`, and so are the first pods of a workload.
    fn is_starting(&self) -> bool {
        let grace = SignedDuration::from_secs(self.spec.probe.startup_seconds.into());
        let in_workload = self.spec.recovery.as_ref().is_some_and(|r| r.workload_ref.is_some());
        let never_served = self.memory.proof.is_none() && self.seen.probes.last_good.is_none();
        if in_workload && never_served && self.seen.created_at.is_some_and(|at| self.now < at + grace) {
            return true;
        }
        let Some(service) = self.seen.agent.service() else { return false };
        let began = service
            .instance_since
            .filter(|_| matches!(service.report.state, ServiceState::Running | ServiceState::Starting));
        began.is_some_and(|at| {
            let answered = self.seen.probes.last_good.as_ref().is_some_and(|p| p.at > at);
            !answered && self.now < at + grace
        })
    }

    /// Verdicts older than three periods are unknown.
    fn stale(&self) -> Option<Judgement> {
        let probe = &self.spec.probe;
        let age = SignedDuration::from_secs(3 * i64::from(probe.period_seconds) + i64::from(probe.timeout_seconds));
        let last = self.seen.probes.last.as_ref()?;
        if self.now < last.at + age {
            return None;
        }
        let mut unknown = self.judgement(BackendState::Unknown, "StaleVerdict", "not probed for three periods".into());
        unknown.reachable = Aspect::new(ConditionStatus::Unknown, "StaleVerdict");
        unknown.admission = Admission::One;
        Some(unknown)
    }

    fn refuses_us(&self) -> Option<Judgement> {
        let inference = self.seen.canary.last.as_ref().and_then(|c| c.result.as_ref().err());
        let probe = &self.seen.probes.last.as_ref()?.verdict;
        match (probe, inference) {
            (ProbeVerdict::Unauthorized { status }, _) | (_, Some(Failure::Unauthorized { status })) => {
                let message = format!("HTTP {status}: the server wants other credentials; check authSecretRef");
                Some(self.judgement(BackendState::Unauthorized, "Unauthorized", message).for_human())
            }
            (ProbeVerdict::RateLimited { .. }, _) => Some(self.rate_limited()),
            (_, Some(Failure::RateLimited { .. })) => Some(self.rate_limited()),
            (ProbeVerdict::Busy | ProbeVerdict::Loading, _) => Some(self.busy("it answers 503: too much to do")),
            _ => None,
        }
    }

    fn rate_limited(&self) -> Judgement {
        let mut limited =
            self.judgement(BackendState::RateLimited, "RateLimited", "HTTP 429: asked again after Retry-After".into());
        limited.models_ready = Aspect::new(ConditionStatus::True, "Listed");
        limited
    }

    fn lacks_models(&self) -> Option<Judgement> {
        let kind = engine_kind(self.spec.engine);
        let listed = self.seen.probes.listed()?;
        let has = |name: &str| listed.iter().any(|l| normalize(kind, l) == normalize(kind, name));
        let missing: Vec<_> = self.spec.models.iter().filter(|m| !has(&m.name)).collect();
        if missing.is_empty() {
            return None;
        }
        let names = missing.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        let to_pull: Vec<_> = missing.iter().filter(|m| m.pull).map(|m| m.name.clone()).collect();
        if to_pull.len() == missing.len() {
            let failed = to_pull.iter().find_map(|m| self.seen.pulls.get(m)?.error.clone());
            let message = match failed {
                Some(error) => format!("pulling {names} failed and is tried again: {error}"),
                None => format!("pulling {names}"),
            };
            let mut pulling = self.judgement(BackendState::Proving, "Pulling", message);
            pulling.models_ready = Aspect::new(ConditionStatus::False, "Pulling");
            pulling.to_pull = to_pull;
            return Some(pulling);
        }
        let mut lacking = match self.wrong_user() {
            Some((is, wanted)) => self.judgement(
                BackendState::WrongUser,
                "WrongUser",
                format!("lacks {names}, and runs as {is}, not {wanted}: another user has another models folder"),
            ),
            None => {
                let hint = if listed.is_empty() {
                    "it lists no models at all: does it run as the user that has them, with their folder?"
                } else {
                    "pull them there, or correct spec.models"
                };
                self.judgement(BackendState::ModelsMissing, "ModelsMissing", format!("lacks {names}: {hint}"))
            }
        };
        lacking.models_ready = Aspect::new(ConditionStatus::False, lacking.reason);
        lacking.to_pull = to_pull;
        Some(lacking.for_human())
    }

    fn wrong_user(&self) -> Option<(String, String)> {
        let service = self.seen.agent.service()?;
        let (is, wanted) = (service.report.user.clone()?, service.wanted_user.clone()?);
        (is != wanted).then_some((is, wanted))
    }

    fn busy(&self, why: &str) -> Judgement {
        let mut busy = self.well(BackendState::Busy, "Busy", why.to_owned());
        busy.serving = Aspect::new(ConditionStatus::True, "Busy");
        busy
    }

    /// New, changed, restarted, or known by no listing: one inference decides (with `when: Never`, a listing suffices).
    fn unproved(&self) -> Option<Judgement> {
        let listed = self.seen.probes.listed();
        let nothing_to_ask = self.spec.models.is_empty()
            && self.spec.canary.model.is_none()
            && (listed.is_some_and(<[String]>::is_empty) || (listed.is_none() && self.spec.engine != Engine::MLX));
        if self.is_proved() || self.spec.canary.when == CanaryWhen::Never && listed.is_some() || nothing_to_ask {
            return None;
        }
        if self.spec.canary.when == CanaryWhen::Never {
            let message = "it answers, but no path lists its models, and canary.when is Never: name another path under probe.paths, \
                           or allow canaries";
            let mut unproven = self.judgement(BackendState::Proving, "NoProof", message.into());
            unproven.models_ready = Aspect::new(ConditionStatus::Unknown, "NoListing");
            return Some(unproven);
        }
        let message = match self.seen.canary.last.as_ref().and_then(|c| c.result.as_ref().err()) {
            Some(failure) => format!("an inference must prove that it serves; the last one: {failure}"),
            None => "an inference must prove that it serves".to_owned(),
        };
        let mut proving = self.judgement(BackendState::Proving, "Proving", message);
        proving.models_ready = self.models_aspect();
        proving.needs_proof = true;
        Some(proving)
    }

    /// Proved since the spec changed, since it was down, and in the process that runs now.
    pub fn is_proved(&self) -> bool {
        let Some(proof) = &self.memory.proof else { return false };
        let same_process = match (&proof.instance, self.seen.agent.instance()) {
            (Some(then), Some(now)) => *then == now,
            _ => true,
        };
        let since_back = self.seen.probes.back_since.is_none_or(|back| proof.at >= back);
        proof.generation == self.seen.generation && same_process && since_back
    }

    fn serving(&self) -> Judgement {
        let recent = |at: Option<Timestamp>| at.is_some_and(|at| self.now < at + DEMAND_WINDOW);
        let load = &self.seen.load;
        let demand = load.in_flight > 0
            || load.waiting > 0
            || recent(load.last_call_at)
            || recent(self.seen.canary.others_ok_at);
        if demand || self.spec.canary.when != CanaryWhen::Demand {
            return self.well(BackendState::Serving, "Serving", "answers and serves".into());
        }
        let mut idle = self.well(BackendState::Idle, "Idle", "answers; left asleep until work comes".into());
        // Tried by the first call before more go there.
        idle.admission = Admission::One;
        idle
    }

    fn well(&self, state: BackendState, reason: &'static str, message: String) -> Judgement {
        let mut well = self.judgement(state, reason, message);
        well.reachable = Aspect::new(ConditionStatus::True, "Answers");
        well.models_ready = self.models_aspect();
        well.serving = Aspect::new(ConditionStatus::True, reason);
        well.ready = true;
        well.admission = Admission::Open;
        well
    }

    fn models_aspect(&self) -> Aspect {
        match self.seen.probes.listed() {
            Some(_) => Aspect::new(ConditionStatus::True, "Listed"),
            None if self.is_proved() => Aspect::new(ConditionStatus::True, "ProvedByInference"),
            None => Aspect::new(ConditionStatus::Unknown, "NoListing"),
        }
    }

    /// The skeleton of a judgement: not ready, no slots.
    fn judgement(&self, state: BackendState, reason: &'static str, message: String) -> Judgement {
        let reachable = match (&self.seen.probes.last, self.seen.probes.answering) {
            (None, _) => Aspect::new(ConditionStatus::Unknown, "NotProbed"),
            (Some(p), _) if !p.verdict.is_failure() => Aspect::new(ConditionStatus::True, "Answers"),
            (_, Some(false)) => Aspect::new(ConditionStatus::False, reason),
            (_, _) => Aspect::new(ConditionStatus::Unknown, "ProbeFailed"),
        };
        Judgement {
            state,
            reason,
            message,
            reachable,
            models_ready: Aspect::new(ConditionStatus::Unknown, reason),
            serving: Aspect::new(
                if state == BackendState::Proving { ConditionStatus::Unknown } else { ConditionStatus::False },
                reason,
            ),
            ready: false,
            cause: None,
            for_human: false,
            admission: Admission::Closed,
            needs_proof: false,
            to_pull: Vec::new(),
        }
    }
}

impl Judgement {
    fn for_human(mut self) -> Self {
        self.for_human = true;
        self
    }
}
