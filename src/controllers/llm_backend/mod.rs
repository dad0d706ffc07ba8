//! LLMBackend: judged by evidence (probes, calls, canaries, the host agent), healed by the steps that its cause allows.
//!
//! `judge` and `plan` are pure and read what `facts` and `memory` hold; `prober` asks the servers what the plan orders; `apply` acts.

mod apply;
mod evidence;
mod facts;
mod history;
mod judge;
mod limit;
mod memory;
mod notes;
mod observe;
mod plan;
mod prober;
mod project;
mod proof;
mod server;
mod session;
mod status;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::{
    api::{HostAgent, Kind, LLMBackend, LLMBackendStatus},
    platform::Note,
    store::{Observation, Term},
};

use super::{
    Parts,
    driver::{Controller, Report, Triggers},
    error::StepError,
    feed::Feed,
    shared::{Memories, NamespacedName, Shared},
};

use judge::BackendAssessment;
use observe::BackendObserved;
use plan::{BackendPlan, CanaryPlan};

pub use observe::service_of;
pub use server::server_url;

/// The controller of one term.
pub struct Backends {
    parts: Parts,
    shared: Shared,
    feed: Feed<LLMBackend>,
    host_agents: Feed<HostAgent>,
    probers: prober::Probers,
    memories: Memories<memory::BackendMemory>,
    projected: project::Projected,
    duplicates: Mutex<Duplicates>,
    triggers: Triggers,
}

/// Backends whose server an older one has, and the set of specs that this was found in.
type Duplicates = (Vec<Version>, Arc<HashMap<NamespacedName, NamespacedName>>);

/// Enough of an object to see whether the set of declared servers has changed.
type Version = (Option<String>, Option<i64>);

impl Backends {
    pub fn new(
        parts: Parts,
        shared: Shared,
        feed: Feed<LLMBackend>,
        host_agents: Feed<HostAgent>,
        triggers: Triggers,
    ) -> Self {
        let tools = prober::ProberTools {
            store: Arc::clone(&parts.store),
            agents: shared.agents.clone(),
            slots: shared.slots.clone(),
            wake: shared.wake.clone(),
            metrics: parts.metrics.clone(),
            triggers: triggers.clone(),
            holder: parts.holder.clone(),
        };
        Self {
            parts,
            shared,
            feed,
            host_agents,
            probers: prober::Probers::new(tools),
            memories: Memories::new(Self::KIND),
            projected: project::Projected::default(),
            duplicates: Mutex::default(),
            triggers,
        }
    }

    /// The backends whose service an agent runs.
    pub fn of_agent(&self, agent: &NamespacedName) -> Vec<NamespacedName> {
        let of_agent = self.feed.objects.state_filter(|b| {
            service_of(b.spec.recovery.as_ref(), &b.namespace().unwrap_or_default()).is_some_and(|(a, _)| a == *agent)
        });
        of_agent.iter().map(|b| NamespacedName::of(&**b)).collect()
    }

    /// The backends of a server, by its normalized URL.
    pub fn of_server(&self, url: &str) -> Vec<NamespacedName> {
        let of_server = self.feed.objects.state_filter(|b| server::server_url(&b.spec.url).as_deref() == Some(url));
        of_server.iter().map(|b| NamespacedName::of(&**b)).collect()
    }

    /// Ask a server again now.
    pub fn poke(&self, backend: &NamespacedName) {
        self.probers.poke(backend);
    }

    /// The last probe and canary of every backend, by uid.
    pub fn observations(&self) -> Vec<(String, Observation)> {
        self.probers.observations()
    }

    /// Which backends declare a server that an older one has; computed anew only when a spec has changed.
    fn duplicates(&self) -> Arc<HashMap<NamespacedName, NamespacedName>> {
        let objects = self.feed.objects.state();
        let versions: Vec<Version> = objects.iter().map(|o| (o.uid(), o.metadata.generation)).collect();
        let mut known = self.duplicates.lock();
        if known.0 != versions {
            *known = (versions, Arc::new(server::duplicates(&objects)));
        }
        Arc::clone(&known.1)
    }
}

#[async_trait]
impl Controller for Backends {
    type Object = LLMBackend;
    type Observed = BackendObserved;
    type Plan = (BackendAssessment, BackendPlan);
    type Outcome = apply::BackendOutcome;

    const KIND: Kind = Kind::LLMBackend;

    async fn observe(&self, object: &LLMBackend) -> Result<BackendObserved, StepError> {
        self.look(object).await
    }

    fn plan(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        now: Timestamp,
    ) -> (BackendAssessment, BackendPlan) {
        plan::decide(&object.spec, &observed.seen, &observed.memory, &observed.fresh_id, now)
    }

    async fn apply(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        plan: (BackendAssessment, BackendPlan),
        term: &Term,
    ) -> Result<apply::BackendOutcome, StepError> {
        self.carry_out(object, observed, plan, term).await
    }

    fn status(
        &self,
        object: &LLMBackend,
        observed: &BackendObserved,
        outcome: &apply::BackendOutcome,
        now: Timestamp,
    ) -> Report<LLMBackendStatus> {
        let apply::BackendOutcome { judged, plan, act_follows: _ } = outcome;
        Report {
            status: status::status(&object.spec, &observed.seen, judged, plan, object.status.as_ref(), now),
            undecided: observed.is_undecided(object, judged),
            notes: notes::of_plan(&plan.notes),
            again: again(observed, outcome, now),
        }
    }

    fn change(old: Option<&LLMBackendStatus>, new: &LLMBackendStatus) -> Option<Note> {
        notes::of_change(old, new)
    }

    fn gone(&self, namespace: &str, name: &str) {
        let gone = NamespacedName::new(namespace, name);
        self.probers.stop(&gone);
        // Whoever shared its server has it alone now.
        let known = Arc::clone(&self.duplicates.lock().1);
        known.iter().filter(|(_, older)| **older == gone).for_each(|(other, _)| self.probers.look_at(other));
    }
}

/// When to look again although nobody triggers it.
fn again(observed: &BackendObserved, outcome: &apply::BackendOutcome, now: Timestamp) -> Option<Duration> {
    if outcome.act_follows {
        return Some(Duration::ZERO);
    }
    let plan = &outcome.plan;
    let running = plan.memory.episode.as_ref().is_some_and(|e| e.running.is_some());
    let soon = if running {
        Some(now + SignedDuration::from_secs(1))
    } else if observed.seen.load.in_flight > 0 || plan.sample_cpu {
        Some(now + SignedDuration::from_secs(5))
    } else {
        None
    };
    let waiting = plan.waiting.as_ref().and_then(|w| w.until);
    let canary = match plan.canary {
        CanaryPlan::Later(at) => Some(at),
        CanaryPlan::Send(_) | CanaryPlan::Skip(_) => None,
    };
    let first = [soon, waiting, canary, outcome.judged.until].into_iter().flatten().min()?;
    let wait = Duration::try_from(first.duration_since(now)).unwrap_or_default();
    Some(wait.clamp(Duration::from_millis(200), Duration::from_secs(30)))
}
