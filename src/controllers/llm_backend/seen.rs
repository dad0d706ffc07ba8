//! What one pass saw of a backend. Times are absolute; nothing here is a guess.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::super::shared::Occupied;
use super::memory::PodId;
use crate::{
    engines::{Failure, LoadedModel, ProbeVerdict},
    host::ServiceReport,
};

/// How long before it was heard a report may have been made, and how long a write may take: the bounds of both.
const UNCERTAIN: Duration = Duration::from_secs(40);

/// Everything that judging and planning read, beside the spec and what is remembered.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub generation: i64,
    /// When the backend was declared.
    pub created_at: Option<Timestamp>,
    /// What is wrong with the declaration itself, if anything is.
    pub misdeclared: Option<Misdeclared>,
    pub probes: ProbeHistory,
    pub canary: CanaryHistory,
    /// What is in memory, where the engine tells; `None` where it can't, or was not asked yet.
    pub loaded: Option<Vec<LoadedModel>>,
    pub load: Load,
    /// The limit as it was adapted to time per token; `None` while that is not known.
    pub adapted: Option<i32>,
    pub agent: AgentView,
    pub workload: Option<WorkloadView>,
    pub peers: Peers,
    pub will: Will,
    pub pulls: BTreeMap<String, Pull>,
    /// This machine slept or stood still until then.
    pub woke_at: Option<Timestamp>,
}

/// A declaration that no healing can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misdeclared {
    /// A loopback URL that means the pod itself.
    LoopbackUrl,
    /// An older backend, `namespace/name`, has the same server.
    DuplicateServer { older: String },
    /// A Secret that is not there, or lacks the key.
    SecretMissing { what: String },
    /// `recovery.hostAgentRef` names none.
    HostAgentMissing { name: String },
    /// The agent's file lists no such service.
    ServiceUnknown { agent: String, service: String },
}

/// The last probes, folded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeHistory {
    pub last: Option<Probed>,
    /// The last verdict that was no failure.
    pub last_good: Option<Probed>,
    /// Answers (`Some(true)`) or is down by the thresholds; `None` before either was reached.
    pub answering: Option<bool>,
    pub failures_in_row: i32,
    pub successes_in_row: i32,
    /// When the current row of failures began.
    pub failing_since: Option<Timestamp>,
    /// When the failure threshold was reached.
    pub down_since: Option<Timestamp>,
    /// When it last came back from being down.
    pub back_since: Option<Timestamp>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub at: Timestamp,
    pub verdict: ProbeVerdict,
    pub millis: i64,
}

impl ProbeHistory {
    /// Folds one more probe in; thresholds are counts in a row, at least 1.
    pub fn push(&mut self, probed: Probed, failure_threshold: i32, success_threshold: i32) {
        if probed.verdict.is_failure() {
            self.successes_in_row = 0;
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            self.failing_since.get_or_insert(probed.at);
            if self.failures_in_row >= failure_threshold && self.answering != Some(false) {
                self.answering = Some(false);
                self.down_since = Some(probed.at);
            }
        } else {
            self.failures_in_row = 0;
            self.failing_since = None;
            self.successes_in_row = self.successes_in_row.saturating_add(1);
            if self.answering != Some(false) || self.successes_in_row >= success_threshold {
                if self.answering == Some(false) {
                    self.back_since = Some(probed.at);
                }
                self.answering = Some(true);
                self.down_since = None;
            }
            self.last_good = Some(probed.clone());
        }
        self.last = Some(probed);
    }

    /// The models that the server listed last, if a listing proved any.
    pub fn listed(&self) -> Option<&[String]> {
        match &self.last_good.as_ref()?.verdict {
            ProbeVerdict::Models(listing) => Some(&listing.models),
            _ => None,
        }
    }
}

/// The last inferences that were sent to prove that the server serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryHistory {
    pub last: Option<Canaried>,
    pub timeouts_in_row: i32,
    pub failures_in_row: i32,
    /// When an inference of ours last succeeded.
    pub last_ok_at: Option<Timestamp>,
    /// When somebody else's call was last seen to have ended well (Ollama moved `expires_at`).
    pub others_ok_at: Option<Timestamp>,
    /// Since when canaries time out while the server's processes use CPU.
    pub busy_since: Option<Timestamp>,
}

/// One canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canaried {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub result: Result<(), Failure>,
    /// Whether the CPU time of the server's processes rose meanwhile; `None` without an agent that tells.
    pub cpu_advanced: Option<bool>,
}

impl CanaryHistory {
    /// Folds one more canary in.
    pub fn push(&mut self, canaried: Canaried) {
        match &canaried.result {
            Ok(()) => {
                self.timeouts_in_row = 0;
                self.failures_in_row = 0;
                self.busy_since = None;
                self.last_ok_at = Some(canaried.ended_at);
            }
            Err(Failure::Timeout { .. }) => {
                self.timeouts_in_row += 1;
                self.failures_in_row += 1;
                match canaried.cpu_advanced {
                    Some(true) => {
                        self.busy_since.get_or_insert(canaried.started_at);
                    }
                    _ => self.busy_since = None,
                }
            }
            Err(_) => {
                self.timeouts_in_row = 0;
                self.failures_in_row += 1;
                self.busy_since = None;
            }
        }
        self.last = Some(canaried);
    }

    /// Somebody's call ended well: that is as good as a canary.
    pub fn others_succeeded(&mut self, at: Timestamp) {
        self.others_ok_at = Some(at);
        self.timeouts_in_row = 0;
        self.failures_in_row = 0;
        self.busy_since = None;
    }

    /// When an inference, ours or somebody's, last succeeded.
    pub fn served_at(&self) -> Option<Timestamp> {
        self.last_ok_at.max(self.others_ok_at)
    }
}

/// The server's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Occupied slots of calls (canaries aside).
    pub in_flight: i64,
    /// When the oldest open call was sent.
    pub oldest_call_at: Option<Timestamp>,
    /// The last token that any of them got.
    pub last_token_at: Option<Timestamp>,
    /// When a call was last seen in a slot.
    pub last_call_at: Option<Timestamp>,
    /// Tasks that are due and could go to this server.
    pub waiting: i64,
}

impl Load {
    /// The calls among a server's occupied slots.
    pub fn of(occupied: Occupied) -> Self {
        Self {
            in_flight: i64::try_from(occupied.calls.len()).unwrap_or(i64::MAX),
            oldest_call_at: occupied.calls.iter().map(|s| s.taken_at).min(),
            last_token_at: occupied.calls.iter().filter_map(|s| s.last_byte_at).max(),
            last_call_at: occupied.last_call_at,
            waiting: occupied.waiting,
        }
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
    Heard(Box<AgentService>),
}

/// The backend's service as its agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentService {
    pub heard_at: Timestamp,
    pub report: ServiceReport,
    /// When its instance was seen to change; `None` while it has been the same since we first heard of it.
    pub instance_since: Option<Timestamp>,
    pub disk_free_percent: Option<f64>,
    /// The user that the agent's file wants the service to run as, if it names one.
    pub wanted_user: Option<String>,
}

impl AgentView {
    pub fn service(&self) -> Option<&AgentService> {
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
pub struct Peers {
    pub total: usize,
    pub failing: usize,
    /// When the first of those that fail now began to.
    pub failing_since: Option<Timestamp>,
}

/// What people want left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Will {
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
    pub error: Option<String>,
    /// Not tried again before this.
    pub retry_at: Option<Timestamp>,
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
