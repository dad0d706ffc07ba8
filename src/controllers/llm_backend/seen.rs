//! What one pass saw of a backend. Times are absolute; nothing here is a guess.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::super::shared::Occupied;
use super::{evidence::Evidence, memory::PodId};
use crate::{
    engines::{Failure, Listing, LoadedModel, ProbeVerdict},
    host::ServiceReport,
};

/// Failed canaries that are remembered.
const CANARY_ROW: usize = 32;
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
    /// What calls and canaries showed.
    pub evidence: Evidence,
    /// Whether the server's processes use CPU, where an agent tells.
    pub cpu: CpuHistory,
    /// What is in memory, where the engine tells; `None` where it can't, or was not asked yet.
    pub loaded: Option<Vec<LoadedModel>>,
    /// Models in memory that somebody else than us used since they were loaded.
    pub used_by_others: BTreeSet<String>,
    pub load: Load,
    /// The limit as it was adapted to time per token; `None` while that is not known.
    pub adapted: Option<i32>,
    /// Why it is below the declared maximum.
    pub limited_by: Option<String>,
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
    /// Since when it answers.
    pub answering_since: Option<Timestamp>,
    /// When it was last down because it refused, whatever came after.
    pub last_down_at: Option<Timestamp>,
    /// Since when it has said 503 to every probe: it is busy, or loads a model.
    pub full_since: Option<Timestamp>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub at: Timestamp,
    pub verdict: ProbeVerdict,
    pub millis: i64,
    /// The server asked not to be probed before this.
    pub not_before: Option<Timestamp>,
}

impl ProbeHistory {
    /// Folds one more probe in; thresholds are counts in a row, at least 1.
    pub fn push(&mut self, probed: Probed, failure_threshold: i32, success_threshold: i32) {
        match probed.verdict {
            ProbeVerdict::Busy | ProbeVerdict::Loading => self.full_since = self.full_since.or(Some(probed.at)),
            _ => self.full_since = None,
        }
        if probed.verdict.is_failure() {
            self.successes_in_row = 0;
            self.failures_in_row = self.failures_in_row.saturating_add(1);
            self.failing_since.get_or_insert(probed.at);
            if self.failures_in_row >= failure_threshold && self.answering != Some(false) {
                self.answering = Some(false);
                self.down_since = Some(probed.at);
                // Silence may be work: only a refusal means that another process answers next.
                if probed.verdict.is_refusal() {
                    self.last_down_at = Some(probed.at);
                }
            }
        } else {
            self.failures_in_row = 0;
            self.failing_since = None;
            self.successes_in_row = self.successes_in_row.saturating_add(1);
            if self.answering != Some(false) || self.successes_in_row >= success_threshold {
                if self.answering != Some(true) {
                    self.answering_since = Some(probed.at);
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
        self.listing().map(|listing| listing.models.as_slice())
    }

    /// The last listing, with which of its models run elsewhere.
    pub fn listing(&self) -> Option<&Listing> {
        match &self.last_good.as_ref()?.verdict {
            ProbeVerdict::Models(listing) => Some(listing),
            _ => None,
        }
    }
}

/// The inferences that were sent to prove that the server serves.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CanaryHistory {
    pub last: Option<Canaried>,
    /// Since when one is under way.
    pub running_since: Option<Timestamp>,
    /// How many have ended, or got no slot.
    pub finished: u64,
    /// When the last one got no slot.
    pub no_slot_at: Option<Timestamp>,
    /// The current row of failures, oldest first: when each began, and whether it got no answer.
    row: VecDeque<(Timestamp, bool)>,
    /// The server asked not to be asked before this.
    pub not_before: Option<Timestamp>,
}

/// One canary.
#[derive(Clone, Debug, PartialEq)]
pub struct Canaried {
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub model: String,
    /// It had the time that loading a model may take.
    pub loads: bool,
    pub result: Result<(), Failure>,
}

impl CanaryHistory {
    /// Folds one more canary in.
    pub fn push(&mut self, canaried: Canaried) {
        match &canaried.result {
            Ok(()) => self.row.clear(),
            Err(failure) => {
                if self.row.len() == CANARY_ROW {
                    // The oldest stays: it says since when.
                    self.row.remove(1);
                }
                self.row.push_back((canaried.started_at, matches!(failure, Failure::Timeout { .. })));
            }
        }
        self.last = Some(canaried);
    }

    /// Failures in a row that began after `since`; counted up to 32.
    pub fn failures_after(&self, since: Option<Timestamp>) -> usize {
        self.row.iter().filter(|(began, _)| Some(*began) > since).count()
    }

    /// Of those the last ones that got no answer: how many, and when the first of them began.
    pub fn silent_after(&self, since: Option<Timestamp>) -> (usize, Option<Timestamp>) {
        let silent = self.row.iter().rev().take_while(|(began, silent)| *silent && Some(*began) > since);
        silent.fold((0, None), |(count, _), (began, _)| (count + 1, Some(*began)))
    }

    /// The failure of the last canary, unless something was served since it began.
    pub fn failure_since(&self, served_at: Option<Timestamp>) -> Option<(&Canaried, &Failure)> {
        let last = self.last.as_ref().filter(|last| Some(last.started_at) > served_at)?;
        Some((last, last.result.as_ref().err()?))
    }
}

/// Whether the processes of a server use CPU, sampled while it is silent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuHistory {
    /// The process that was sampled, as `pid@start`.
    pub instance: Option<String>,
    pub advanced_at: Option<Timestamp>,
    /// Since when every sample has shown none.
    pub idle_since: Option<Timestamp>,
    pub sampled_at: Option<Timestamp>,
}

impl CpuHistory {
    /// Folds in a sample over the time from `since` to `now`.
    pub fn push(&mut self, instance: String, advanced: bool, since: Timestamp, now: Timestamp) {
        // What was not watched in between says nothing of the time in between.
        let gap = self.sampled_at.is_none_or(|at| since > at + SignedDuration::from_secs(1));
        if gap || self.instance.as_ref() != Some(&instance) {
            *self = Self { instance: Some(instance), ..Self::default() };
        }
        self.sampled_at = Some(now);
        if advanced {
            self.advanced_at = Some(now);
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(since);
        }
    }
}

/// The server's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Occupied slots of calls (canaries aside).
    pub in_flight: i64,
    /// The calls that are open in them, of holders that are alive.
    pub open: Vec<OpenCall>,
    /// When a call was last seen in a slot.
    pub last_call_at: Option<Timestamp>,
    /// Tasks that are due and could go to this server.
    pub waiting: i64,
}

/// A call that was sent and has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCall {
    pub model: Option<String>,
    pub began_at: Timestamp,
    /// Of its answer.
    pub last_byte_at: Option<Timestamp>,
}

impl Load {
    /// The calls among a server's occupied slots. Those of a holder whose lease has lapsed say nothing of the server.
    pub fn of(occupied: &Occupied, now: Timestamp) -> Self {
        let alive = occupied.calls.iter().filter(|slot| slot.lease_expires_at > now && !slot.aborted);
        Self {
            in_flight: i64::try_from(occupied.calls.len()).unwrap_or(i64::MAX),
            open: alive
                .filter_map(|slot| {
                    let (model, last_byte_at) = (slot.model.clone(), slot.last_byte_at);
                    Some(OpenCall { model, began_at: slot.call_began_at?, last_byte_at })
                })
                .collect(),
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
    Heard(Box<AgentService>),
}

/// The backend's service as its agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentService {
    pub heard_at: Timestamp,
    pub report: ServiceReport,
    /// When its process began; `None` where nobody knows.
    pub instance_since: Option<Timestamp>,
    /// When the agent saw it end, of a service that does not run.
    pub exited_at: Option<Timestamp>,
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
