//! One task per backend that asks the server how it is, keeps the last answers, and calls for a pass when they change.

mod calls;
mod contexts;
mod task;

#[cfg(test)]
pub use calls::evidence;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    api::{Kind, LLMBackendSpec},
    engines::{Endpoint, LoadedModel},
    store::{CallEvidence, Observation, Store},
    telemetry::Metrics,
};

use super::{
    super::{
        driver::Triggers,
        shared::{AgentRegistry, NamespacedName, SlotWatch, Wake},
    },
    evidence::{BackendEvidence, quote},
    facts::{CanaryHistory, CanaryResult, CpuHistory, Misdeclared, ProbeHistory, Pull},
    plan::CanaryOrder,
    session::AbsentModels,
};

/// What the controller wants of a prober: changed with every pass that decides otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct ProberOrder {
    pub spec: LLMBackendSpec,
    pub generation: i64,
    pub endpoint: Option<Endpoint>,
    pub server_url: String,
    /// The agent and service whose CPU time tells a busy server from a hung one.
    pub service: Option<(NamespacedName, String)>,
    pub misdeclared: Option<Misdeclared>,
    /// The inference to send now.
    pub canary: Option<CanaryOrder>,
    /// Sample the CPU time of the server's processes with each probe.
    pub sample_cpu: bool,
    /// Ask each second: something is under way.
    pub hurry: bool,
    /// Models to pull, and names with a context of their own to make.
    pub pull: Vec<String>,
    pub preload: Option<String>,
}

/// What a prober found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub probes: ProbeHistory,
    pub canary: CanaryHistory,
    /// What the canaries showed.
    pub calls: CallEvidence,
    pub cpu: CpuHistory,
    pub loaded: Option<Vec<LoadedModel>>,
    pub absent: AbsentModels,
    pub used_by_others: BTreeSet<String>,
    pub pulls: BTreeMap<String, Pull>,
    pub outdated: BTreeSet<String>,
    pub observation: Observation,
}

impl Findings {
    fn list_loaded(&mut self, loaded: Vec<LoadedModel>, now: Timestamp) {
        self.absent.look(&loaded, now);
        self.loaded = Some(loaded);
    }
}

/// What all probers share.
#[derive(Clone)]
pub struct ProberTools {
    pub store: Arc<dyn Store>,
    pub agents: AgentRegistry,
    pub slots: SlotWatch,
    pub wake: Wake,
    pub metrics: Metrics,
    pub triggers: Triggers,
    /// Unique for this process.
    pub holder: String,
}

impl ProberTools {
    /// Asks for a pass over a backend.
    pub fn look_at(&self, backend: &NamespacedName) {
        self.triggers.one(Kind::LLMBackend, backend);
    }
}

/// The probers of a term.
pub struct Probers {
    tools: ProberTools,
    running: Mutex<HashMap<NamespacedName, Prober>>,
}

struct Prober {
    uid: String,
    wish: watch::Sender<ProberOrder>,
    findings: Arc<Mutex<Findings>>,
    poke: Arc<Notify>,
    _stop: DropGuard,
}

impl Probers {
    pub fn new(tools: ProberTools) -> Self {
        Self { tools, running: Mutex::default() }
    }

    /// Starts or directs the prober of a backend.
    pub fn direct(&self, key: &NamespacedName, uid: &str, wish: ProberOrder) {
        let mut running = self.running.lock();
        if let Some(prober) = running.get(key).filter(|p| p.uid == uid) {
            prober.wish.send_if_modified(|old| {
                let changed = *old != wish;
                *old = wish;
                changed
            });
            return;
        }
        let stop = CancellationToken::new();
        let (sender, wishes) = watch::channel(wish);
        let findings = Arc::<Mutex<Findings>>::default();
        let poke = Arc::new(Notify::new());
        let task =
            task::ProberTask::new(key.clone(), self.tools.clone(), wishes, Arc::clone(&findings), Arc::clone(&poke));
        tokio::spawn(task.run(stop.clone()));
        let prober = Prober { uid: uid.to_owned(), wish: sender, findings, poke, _stop: stop.drop_guard() };
        running.insert(key.clone(), prober);
    }

    pub fn stop(&self, key: &NamespacedName) {
        self.running.lock().remove(key);
        self.tools.metrics.backends.forget(&key.namespace, &key.name);
    }

    /// What is known of a backend; nothing before its first pass.
    pub fn findings(&self, key: &NamespacedName, uid: &str) -> Findings {
        let running = self.running.lock();
        running.get(key).filter(|p| p.uid == uid).map(|p| p.findings.lock().clone()).unwrap_or_default()
    }

    /// Whether a backend fails now, and since when its row of failures lasts.
    pub fn failing_since(&self, key: &NamespacedName) -> Option<jiff::Timestamp> {
        self.running.lock().get(key).and_then(|p| p.findings.lock().probes.failing_since)
    }

    /// Ask this server again now: something about its process has changed.
    pub fn poke(&self, key: &NamespacedName) {
        if let Some(prober) = self.running.lock().get(key) {
            prober.poke.notify_one();
        }
    }

    /// Asks for a pass over a backend.
    pub fn look_at(&self, backend: &NamespacedName) {
        self.tools.look_at(backend);
    }

    /// The last probe and canary of every backend, by uid.
    pub fn observations(&self) -> Vec<(String, Observation)> {
        let observed = |prober: &Prober| {
            let findings = prober.findings.lock();
            let workers = self.tools.slots.of(&prober.wish.borrow().server_url).evidence;
            let evidence = BackendEvidence::default().with(&findings.calls).with(&workers);
            let served = evidence.last_served_by_anyone();
            Observation {
                served_at: served.map(|call| call.ended_at),
                served_by: served.map(quote),
                ..findings.observation.clone()
            }
        };
        self.running.lock().values().map(|prober| (prober.uid.clone(), observed(prober))).collect()
    }
}

fn note_canary(observation: &mut Observation, canaried: &CanaryResult, millis: i64) {
    observation.canary_at = Some(canaried.ended_at);
    observation.canary_millis = Some(millis);
    let verdict = match &canaried.result {
        Ok(()) => "Ok".to_owned(),
        Err(failure) => failure.to_string(),
    };
    observation.canary_verdict = Some(verdict);
}

/// What a pass would see differently: all but times and latencies.
fn fingerprint(findings: &Findings) -> impl PartialEq + use<> {
    let (probes, cpu) = (&findings.probes, &findings.cpu);
    (
        (probes.last.as_ref().map(|p| p.verdict.clone()), probes.answering, probes.down_since, probes.answering_since),
        (cpu.idle_since.is_some(), cpu.advanced_at.is_some(), findings.pulls.clone(), findings.used_by_others.clone()),
        findings.outdated.clone(),
        findings.loaded.as_ref().map(|all| all.iter().map(|m| m.name.clone()).collect::<Vec<_>>()),
    )
}
