//! What one pass saw of a backend. Times are absolute; nothing here is a guess.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::super::shared::Occupied;
use super::{evidence::BackendEvidence, memory::PodId, session::AbsentModels};
use crate::{
    api::LLMBackendSpec,
    engines::LoadedModel,
    host::{DiskSpace, ServiceReport},
};

pub use super::history::{CanaryHistory, CanaryResult, CpuHistory, ProbeHistory, ProbeResult};

/// How long before it was heard a report may have been made, and how long a write may take: the bounds of both.
const UNCERTAIN: Duration = Duration::from_secs(40);

/// A sample of CPU time says something of the server as it is now for this long, beyond a period of probes.
const CPU_HOLDS: SignedDuration = SignedDuration::from_secs(15);

/// Everything that judging and planning read, beside the spec and what is remembered.
#[derive(Clone, Debug, Default)]
pub struct BackendFacts {
    pub generation: i64,
    /// When the backend was declared.
    pub created_at: Option<Timestamp>,
    /// What is wrong with the declaration itself, if anything is.
    pub misdeclared: Option<Misdeclared>,
    pub probes: ProbeHistory,
    pub canary: CanaryHistory,
    /// What calls and canaries showed.
    pub evidence: BackendEvidence,
    /// Whether the server's processes use CPU, where an agent tells.
    pub cpu: CpuHistory,
    /// What is in memory, where the engine tells; `None` where it can't, or was not asked yet.
    pub loaded: Option<Vec<LoadedModel>>,
    /// Since when others are not.
    pub absent: AbsentModels,
    /// Models in memory that somebody else than us used since they were loaded.
    pub used_by_others: BTreeSet<String>,
    pub load: BackendLoad,
    /// The limit as it was adapted to time per token; `None` while that is not known.
    pub adapted: Option<i32>,
    /// Why it is below the declared maximum.
    pub limited_by: Option<String>,
    pub agent: AgentView,
    pub workload: Option<WorkloadView>,
    pub peers: AgentPeers,
    pub will: Overrides,
    pub pulls: BTreeMap<String, Pull>,
    /// Names with a context of their own that mean another model or context than is declared.
    pub outdated: BTreeSet<String>,
    /// This machine slept or stood still until then.
    pub woke_at: Option<Timestamp>,
}

impl BackendFacts {
    /// Whether the server's processes used CPU when that was last sampled; `None` when nobody can tell.
    pub fn uses_cpu(&self, spec: &LLMBackendSpec, now: Timestamp) -> Option<bool> {
        if self.cpu.instance.is_none() || self.cpu.instance != self.agent.instance() {
            return None;
        }
        let holds = SignedDuration::from_secs(spec.probe.period_seconds.into()) + CPU_HOLDS;
        self.cpu.sampled_at.filter(|at| now < *at + holds).map(|_| self.cpu.idle_since.is_none())
    }
}

/// A declaration that no healing can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misdeclared {
    /// A loopback URL that means the pod itself.
    LoopbackUrl,
    /// `spec.url` is none.
    InvalidUrl { why: String },
    /// An older backend of the same namespace has the same server.
    DuplicateServer { older: String },
    /// An older backend of another namespace has the same server, and judges and heals it; whether it finds it ready, if that is
    /// known.
    SharedServer { ready: Option<bool> },
    /// A Secret that is not there, or lacks the key.
    SecretMissing { what: String },
    /// `recovery.hostAgentRef` names none.
    HostAgentMissing { name: String },
    /// The agent's file lists no such service.
    ServiceUnknown { agent: String, service: String },
    /// `recovery.workloadRef` names none.
    WorkloadMissing { workload: String },
}

impl Misdeclared {
    /// Whether its server is this backend's own all the same: to be asked, and to be closed.
    pub fn leaves_the_server(&self) -> bool {
        match self {
            Self::LoopbackUrl | Self::InvalidUrl { .. } | Self::DuplicateServer { .. } | Self::SharedServer { .. } => {
                false
            }
            Self::SecretMissing { .. }
            | Self::HostAgentMissing { .. }
            | Self::ServiceUnknown { .. }
            | Self::WorkloadMissing { .. } => true,
        }
    }
}

/// The server's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendLoad {
    /// Occupied slots of calls (canaries aside).
    pub in_flight: i64,
    /// The calls that are open in them, of holders that are alive.
    pub open: Vec<OpenBackendCall>,
    /// When the last lease lapsed, if there are slots and the leases of all of them have.
    pub lapsed_at: Option<Timestamp>,
    /// When a call was last seen in a slot.
    pub last_call_at: Option<Timestamp>,
    /// Tasks that are due and could go to this server.
    pub waiting: i64,
}

/// A call that was sent and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBackendCall {
    /// The server's own name for it, if it is declared.
    pub model: Option<String>,
    pub began_at: Timestamp,
    /// Of its answer.
    pub last_byte_at: Option<Timestamp>,
}

impl BackendLoad {
    /// The calls among a server's occupied slots. Those of a holder whose lease has lapsed say nothing of the server.
    pub fn of(spec: &LLMBackendSpec, occupied: &Occupied, now: Timestamp) -> Self {
        // A slot names what its task asked for.
        let own_name = |asked: &String| {
            let declared = spec.models.iter().find(|model| model.asked_as() == asked);
            declared.map_or_else(|| asked.clone(), |model| model.own_name(spec.engine).into_owned())
        };
        let alive = occupied.calls.iter().filter(|slot| slot.lease_expires_at > now && !slot.aborted);
        Self {
            in_flight: i64::try_from(occupied.calls.len()).unwrap_or(i64::MAX),
            open: alive
                .filter_map(|slot| {
                    let (model, last_byte_at) = (slot.model.as_ref().map(own_name), slot.last_byte_at);
                    Some(OpenBackendCall { model, began_at: slot.call_began_at?, last_byte_at })
                })
                .collect(),
            lapsed_at: occupied.calls.iter().map(|slot| slot.lease_expires_at).max().filter(|at| *at <= now),
            last_call_at: occupied.last_call_at,
            waiting: occupied.waiting,
        }
    }

    /// The last byte that any open call got.
    pub fn last_byte_at(&self) -> Option<Timestamp> {
        self.open.iter().filter_map(|call| call.last_byte_at).max()
    }
}

/// The host agent of `recovery.hostAgentRef`, as it was last heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AgentView {
    /// None is declared.
    #[default]
    None,
    /// Declared, and not heard yet.
    Unheard,
    /// It does not answer, since then.
    Unreachable {
        since: Timestamp,
        why: String,
    },
    Heard(Box<BackendService>),
}

/// The backend's service as its agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendService {
    pub heard_at: Timestamp,
    pub report: ServiceReport,
    /// When its process began; `None` where nobody knows.
    pub instance_since: Option<Timestamp>,
    /// When the agent saw it end, of a service that does not run.
    pub exited_at: Option<Timestamp>,
    pub disk: Option<DiskSpace>,
    /// The user that the agent's file wants the service to run as, if it names one.
    pub wanted_user: Option<String>,
}

impl AgentView {
    pub fn service(&self) -> Option<&BackendService> {
        match self {
            Self::Heard(service) => Some(service),
            Self::None | Self::Unheard | Self::Unreachable { .. } => None,
        }
    }

    /// The instance as `pid@start`, as slots name it.
    pub fn instance(&self) -> Option<String> {
        let instance = self.service()?.report.instance.as_ref()?;
        Some(format!("{}@{}", instance.pid, instance.start_time))
    }

    /// For how long that instance will have been running at most when a write that is begun at `now` is done.
    pub fn running_for(&self, now: Timestamp) -> Option<Duration> {
        let service = self.service()?;
        let then = Duration::try_from_secs_f64(service.report.running_seconds?).ok()?;
        let since = Duration::try_from(now.duration_since(service.heard_at)).unwrap_or_default();
        Some(then + since + UNCERTAIN)
    }
}

/// The pods of `recovery.workloadRef`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadView {
    /// Pods that there should be.
    pub desired: usize,
    /// Uids of those that are ready and stay.
    pub ready: Vec<String>,
}

impl WorkloadView {
    /// Whether every pod that was deleted has a ready successor, while `left` are still to be deleted. Those need not be
    /// ready: they are why pods are replaced.
    pub fn is_replaced_but_for(&self, left: &[PodId]) -> bool {
        let fresh = self.ready.iter().filter(|uid| !left.iter().any(|pod| pod.uid == **uid)).count();
        fresh >= self.desired.saturating_sub(left.len())
    }
}

/// The backends of the same agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentPeers {
    pub total: usize,
    pub failing: usize,
    /// When the first of those that fail now began to.
    pub failing_since: Option<Timestamp>,
}

/// What people want left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub suspended: bool,
    pub paused: bool,
    /// `mode: Observe`, or `up --observe`.
    pub observe: bool,
    /// The newest token of `reconcile`, from the annotation or from the store.
    pub reconcile_token: Option<String>,
}

/// A running or failed pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// `None` when it is not running.
    pub percent: Option<i32>,
    /// Why the last one failed.
    pub error: Option<String>,
    /// Another try can't help: there is no such model.
    pub permanent: bool,
    /// In a row, and when the last one was.
    pub failures: i32,
    pub failed_at: Option<Timestamp>,
}

impl Pull {
    /// Failures in a row after which a human is told.
    const TRIES: i32 = 3;
    const FIRST_RETRY: SignedDuration = SignedDuration::from_mins(1);
    const LONGEST_RETRY: SignedDuration = SignedDuration::from_hours(1);

    pub fn for_human(&self) -> bool {
        self.permanent || self.failures >= Self::TRIES
    }

    /// When it is tried again: one minute after the first failure, doubling to an hour; never where that can't help.
    pub fn retry_at(&self) -> Option<Timestamp> {
        let failed_at = self.failed_at.filter(|_| !self.permanent)?;
        let doublings = u32::try_from(self.failures - 1).unwrap_or(0).min(10);
        Some(failed_at + (Self::FIRST_RETRY * 2_i32.pow(doublings)).min(Self::LONGEST_RETRY))
    }

    pub fn is_due(&self, now: Timestamp) -> bool {
        self.percent.is_none() && !self.permanent && self.retry_at().is_none_or(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_pod_is_deleted_only_when_every_deleted_one_has_a_ready_successor() {
        let pods = |uids: &[&str]| -> Vec<PodId> {
            uids.iter().map(|uid| PodId { name: format!("pod-{uid}"), uid: (*uid).to_owned() }).collect()
        };
        for (desired, ready, left, replaced, what) in [
            (2, vec!["b"], vec!["b"], false, "the first is gone, its successor not there yet"),
            (2, vec!["b", "c"], vec!["b"], true, "its successor is ready"),
            (3, vec!["d"], vec!["b", "c"], true, "those that are left need not be ready"),
            (3, vec!["d"], vec!["c"], false, "the second's successor is not ready"),
            (1, vec![], vec![], false, "the last one's successor is not ready"),
            (1, vec!["c"], vec!["b"], true, "scaled down meanwhile"),
            (0, vec![], vec![], true, "scaled to zero meanwhile"),
        ] {
            let ready = ready.into_iter().map(str::to_owned).collect();
            let view = WorkloadView { desired, ready };
            assert_eq!(view.is_replaced_but_for(&pods(&left)), replaced, "{what}");
        }
    }
}
