//! ContainerHealthCheck: containers that must be up, or must be down.
//!
//! `observe` reads the containers, what came of operations, and what is remembered of probes and logs; `plan` and `judge` are
//! pure; `apply` does what was planned, after it was recorded; `status` says it.

mod apply;
mod container;
mod judge;
mod memory;
mod observe;
mod plan;
mod pods;
mod probe;
mod status;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    api::{ContainerHealthCheck, ContainerHealthCheckSpec, Kind, Requirement},
    store::Term,
};

use super::{
    declared::{ControlPlane, DeclaredObserved, Declares, Gate, PlanOf, RequirementObserved, evaluate},
    error::StepError,
    shared::{Memories, NamespacedName, is_new},
};

use container::Container;
use memory::{ActionOutcome, CheckMemory};
use observe::{Blind, ContainersFound, LogExcerpt, is_worth_a_log};
use plan::{CheckInput, CheckPlan};
use probe::ProbeState;

/// Containers that status tells of by name.
const SHOWN: usize = 32;
/// Logs that one pass fetches.
const LOGS: usize = 4;

/// The kind's own part.
pub struct ContainerChecks {
    pub world: Arc<ControlPlane>,
    term: Term,
    memories: Memories<CheckMemory>,
    state: Arc<Mutex<State>>,
    /// Places for probes.
    asking: Arc<Semaphore>,
}

/// What passes know of earlier ones.
#[derive(Default)]
struct State {
    lists: HashMap<NamespacedName, KnownList>,
    probes: HashMap<NamespacedName, BTreeMap<String, ProbeState>>,
    logs: HashMap<NamespacedName, BTreeMap<String, KnownLog>>,
}

/// A list of an agent's.
struct KnownList {
    revision: u64,
    at: Instant,
    found: ContainersFound,
}

/// The log of a container, fetched for one end.
#[derive(Clone, Debug, PartialEq)]
struct KnownLog {
    end: String,
    log: Arc<LogExcerpt>,
}

/// What is read beside what every kind reads.
#[derive(Default)]
pub struct CheckObserved {
    /// As it was committed last.
    memory: CheckMemory,
    /// On which checks of its namespace each depends.
    dependencies: BTreeMap<String, Vec<String>>,
    /// How what it depends on is.
    requirements: Vec<(Requirement, RequirementObserved)>,
    /// `None`: suspended, and not looked at.
    found: Option<Result<ContainersFound, Blind>>,
    /// What came of operations that were under way, by container.
    outcomes: BTreeMap<String, ActionOutcome>,
    probes: BTreeMap<String, ProbeState>,
    logs: BTreeMap<String, KnownLog>,
    /// Nothing may be done now, beside the manifest: a pause, or a process that only observes.
    hands_off: bool,
}

/// What a pass makes of what it observed.
#[derive(Default)]
pub struct CheckAssessment {
    suspended: bool,
    /// The way on which it depends on itself.
    cycle: Option<String>,
    blind: Option<Blind>,
    waits_for: Option<String>,
    contested: Option<String>,
    looked: Option<Looked>,
}

/// What was decided about the containers.
struct Looked {
    decision: CheckPlan,
    logs: BTreeMap<String, Arc<LogExcerpt>>,
    /// Logs to fetch: the container, and the end that they are about.
    fetch: Vec<(String, String)>,
    /// Containers to probe, and since when they count as asked.
    probe: Vec<Container>,
    planned_at: Timestamp,
    /// Operations ended: what was listed before says nothing of what has been done.
    relist: bool,
}

#[async_trait]
impl Declares for ContainerChecks {
    type Object = ContainerHealthCheck;
    type Observed = CheckObserved;
    type Action = CheckAssessment;

    const KIND: Kind = Kind::ContainerHealthCheck;

    fn declared(spec: &ContainerHealthCheckSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &[])
    }

    async fn observe(
        &self,
        object: &ContainerHealthCheck,
        base: &DeclaredObserved,
    ) -> Result<CheckObserved, StepError> {
        self.look(&object.spec, base).await
    }

    fn plan(
        object: &ContainerHealthCheck,
        observed: &DeclaredObserved<CheckObserved>,
        _: &Gate,
        now: Timestamp,
    ) -> PlanOf<Self> {
        status::assessed(&object.spec, assess(&object.spec, object.status.is_some(), observed, now))
    }

    async fn apply(
        &self,
        object: &ContainerHealthCheck,
        observed: &DeclaredObserved<CheckObserved>,
        plan: &mut PlanOf<Self>,
    ) -> Result<(), StepError> {
        self.carry_out(&object.spec, observed, plan).await
    }

    fn gone(&self, key: &NamespacedName) {
        self.world.parts.metrics.containers.unknown(&key.namespace, &key.name);
        let mut state = self.state.lock();
        state.lists.remove(key);
        state.probes.remove(key);
        state.logs.remove(key);
    }
}

/// Decides all of a pass. `told`: an earlier pass wrote a status.
fn assess(
    spec: &ContainerHealthCheckSpec,
    told: bool,
    observed: &DeclaredObserved<CheckObserved>,
    now: Timestamp,
) -> CheckAssessment {
    let DeclaredObserved { key, suspended, facts, .. } = observed;
    if let Some(way) = plan::cycle(&key.name, &facts.dependencies).filter(|_| !suspended) {
        return CheckAssessment { cycle: Some(way.join(" → ")), ..CheckAssessment::default() };
    }
    let found = match &facts.found {
        None => return CheckAssessment { suspended: *suspended, ..CheckAssessment::default() },
        Some(Err(blind)) => return CheckAssessment { blind: Some(blind.clone()), ..CheckAssessment::default() },
        Some(Ok(found)) => found,
    };
    let mut memory = facts.memory.clone();
    memory.take_outcomes(&facts.outcomes);
    let resumed_at = resumed_at(&mut memory, observed.handled_reconcile.as_deref(), told).then_some(now);
    let containers = probe::with_health(spec.probe.as_ref(), &found.containers, &facts.probes);
    let waits_for = evaluate(&facts.requirements, now).held;
    let contested = memory.contested(&found.template).filter(|_| !found.template.is_empty());
    let input = CheckInput {
        spec,
        containers: &containers,
        hands_off: facts.hands_off,
        waits_for: waits_for.as_deref(),
        resumed_at,
        starts_by_itself: spec.target.kubernetes.is_some(),
        contested: contested.is_some(),
        memory: &memory,
    };
    let decision = plan::decide(&input, now);
    let (logs, fetch) = evidence(&decision, &facts.logs);
    let probe = probe::due(spec.probe.as_ref(), &found.containers, &facts.probes, now);
    let looked = Looked { decision, logs, fetch, probe, planned_at: now, relist: !facts.outcomes.is_empty() };
    CheckAssessment { waits_for, contested, looked: Some(looked), ..CheckAssessment::default() }
}

/// Whether a reconcile was requested since the last pass, as each resume also is: it ends what a person's stop holds. The first look
/// at a check must not take an old request for a new one.
fn resumed_at(memory: &mut CheckMemory, token: Option<&str>, told: bool) -> bool {
    let asked = token.filter(|token| is_new(token, memory.handled_reconcile.as_deref()));
    let resumed = asked.is_some() && (memory.handled_reconcile.is_some() || told);
    if let Some(token) = asked {
        memory.handled_reconcile = Some(token.to_owned());
    }
    resumed
}

/// By container.
type Logs = BTreeMap<String, Arc<LogExcerpt>>;

/// Logs of what is not well, once for each end: those that are known, and those to fetch (container, end).
fn evidence(decision: &CheckPlan, known: &BTreeMap<String, KnownLog>) -> (Logs, Vec<(String, String)>) {
    let (mut logs, mut fetch) = (BTreeMap::new(), Vec::new());
    for entry in decision.entries.iter().filter(|entry| is_worth_a_log(&entry.verdict)).take(SHOWN) {
        let container = &entry.container;
        let end = format!("{} {:?} {}", container.instance, container.life, container.restarts);
        match known.get(&container.name).filter(|known| known.end == end) {
            Some(known) => _ = logs.insert(container.name.clone(), Arc::clone(&known.log)),
            None if fetch.len() < LOGS => fetch.push((container.name.clone(), end)),
            None => {}
        }
    }
    (logs, fetch)
}

impl ContainerChecks {
    pub fn new(world: Arc<ControlPlane>, term: Term) -> Self {
        let asking = Arc::new(Semaphore::new(probe::AT_ONCE));
        Self { world, term, memories: Memories::new(Self::KIND), state: Arc::default(), asking }
    }
}

#[cfg(test)]
mod tests;
