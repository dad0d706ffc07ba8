//! ContainerHealthCheck: containers that must be up, or must be down.
//!
//! `judge`, `plan`, `limit`, `cycle` and `status` are pure; `observe` and `probe` look, `act` does what was planned, after it
//! was written down.

mod act;
mod cycle;
mod docker;
mod judge;
mod limit;
mod memory;
mod observe;
mod plan;
mod pods;
mod probe;
mod seen;
mod status;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::{
    api::{ContainerHealthCheck, ContainerHealthCheckStatus},
    store::Term,
};

use super::{
    declared::{ControlPlane, Declaration, DeclaredAssessment, DeclaredObserved, Declares, projected},
    error::StepError,
    shared::{Memories, NamespacedName},
};

use memory::CheckMemory;
use observe::{Blind, ContainersFound, LogExcerpt, ProbeState};
use plan::CheckPlan;

/// Containers that status tells of by name.
const SHOWN: usize = 32;

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
    lists: HashMap<NamespacedName, Known>,
    probes: HashMap<(NamespacedName, String), ProbeState>,
    logs: HashMap<(NamespacedName, String), (String, LogExcerpt)>,
}

/// A list of an agent's.
struct Known {
    revision: u64,
    at: Instant,
    found: ContainersFound,
}

impl Known {
    fn new(revision: u64, found: ContainersFound) -> Self {
        Self { revision, at: Instant::now(), found }
    }

    fn is_good(&self, revision: Option<u64>, fresh: Duration) -> bool {
        revision == Some(self.revision) && self.at.elapsed() < fresh
    }
}

/// What is looked at beside the object.
pub struct CheckObserved {
    uid: String,
    suspended: bool,
    /// The way on which it depends on itself.
    cycle: Option<String>,
    blind: Option<Blind>,
    waits_for: Option<String>,
    contested: Option<String>,
    looked: Option<Looked>,
}

impl CheckObserved {
    fn new(uid: String) -> Self {
        Self { uid, suspended: false, cycle: None, blind: None, waits_for: None, contested: None, looked: None }
    }
}

/// The containers, and what was decided about them.
struct Looked {
    decision: CheckPlan,
    found: ContainersFound,
    logs: BTreeMap<String, LogExcerpt>,
}

#[async_trait]
impl Declares for ContainerChecks {
    type Object = ContainerHealthCheck;
    type Status = ContainerHealthCheckStatus;
    type Facts = CheckObserved;

    const KIND: &'static str = "ContainerHealthCheck";

    fn parts(object: &ContainerHealthCheck) -> Declaration<'_, ContainerHealthCheckStatus> {
        Declaration {
            suspend: object.spec.suspend,
            requires: &[],
            status: object.status.as_ref(),
            spec: projected(&object.spec),
        }
    }

    async fn facts(&self, object: &ContainerHealthCheck, key: &NamespacedName) -> Result<CheckObserved, StepError> {
        self.look(object, key).await
    }

    fn judge(
        object: &ContainerHealthCheck,
        seen: &DeclaredObserved<CheckObserved>,
        _: Timestamp,
    ) -> DeclaredAssessment<ContainerHealthCheckStatus> {
        status::judged(&object.spec, &seen.facts)
    }

    async fn act(
        &self,
        object: &ContainerHealthCheck,
        seen: &DeclaredObserved<CheckObserved>,
        judged: &mut DeclaredAssessment<ContainerHealthCheckStatus>,
        _: &Term,
    ) -> Result<(), StepError> {
        self.carry_out(&object.spec, &seen.key, &seen.facts, judged).await
    }

    fn gone(&self, key: &NamespacedName) {
        self.world.parts.metrics.containers.unknown(&key.namespace, &key.name);
        let mut state = self.lock();
        state.lists.remove(key);
        state.probes.retain(|(of, _), _| of != key);
        state.logs.retain(|(of, _), _| of != key);
    }
}

impl ContainerChecks {
    pub fn new(world: Arc<ControlPlane>, term: Term) -> Self {
        let asking = Arc::new(Semaphore::new(probe::AT_ONCE));
        Self { world, term, memories: Memories::new(Self::KIND), state: Arc::default(), asking }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
