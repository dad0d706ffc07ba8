//! TaskQueue: judged by what it refers to and what it requires, and projected.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::api::{ClaimedBy, Kind, Requirement, TaskQueue, TaskQueueSpec, TaskQueueState, TaskQueueStatus, number_of};

use super::{
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf},
    error::StepError,
};

/// The kind's own part.
pub struct TaskQueues(pub Arc<ControlPlane>);

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct TaskQueueObserved {
    /// `defaultExpertRef` names nobody.
    pub missing_expert: Option<String>,
    /// WorkerPools that serve it.
    pub pools: i32,
    /// Tasks that wait and that run, where that was read.
    pub counts: Option<(i64, i64)>,
}

#[async_trait]
impl Declares for TaskQueues {
    type Object = TaskQueue;
    type Observed = TaskQueueObserved;
    type Action = ();

    const KIND: Kind = Kind::TaskQueue;

    fn declared(spec: &TaskQueueSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &spec.requires)
    }

    async fn observe(&self, object: &TaskQueue, base: &DeclaredObserved) -> Result<TaskQueueObserved, StepError> {
        let (spec, key, feeds) = (&object.spec, &base.key, &self.0.feeds);
        let here = |namespace: Option<&str>| namespace == Some(&key.namespace);
        let experts = feeds.experts.objects.state();
        let is_there = |name: &str| {
            experts.iter().any(|e| here(e.metadata.namespace.as_deref()) && e.metadata.name.as_deref() == Some(name))
        };
        let wanted = spec.default_expert_ref.as_ref().map(|reference| reference.name.clone());
        let pools = feeds.pools.objects.state_filter(|pool| {
            here(pool.metadata.namespace.as_deref()) && pool.spec.queue_refs.iter().any(|queue| queue.name == key.name)
        });
        Ok(TaskQueueObserved {
            missing_expert: wanted.filter(|name| !is_there(name)),
            pools: i32::try_from(pools.len()).unwrap_or(i32::MAX).min(10_000),
            counts: self.0.counts_of(key).await,
        })
    }

    fn plan(
        object: &TaskQueue,
        observed: &DeclaredObserved<TaskQueueObserved>,
        gate: &Gate,
        _: Timestamp,
    ) -> PlanOf<Self> {
        plan(&object.spec, observed, gate)
    }
}

fn plan(
    spec: &TaskQueueSpec,
    observed: &DeclaredObserved<TaskQueueObserved>,
    gate: &Gate,
) -> DeclaredPlan<TaskQueueStatus> {
    let facts = &observed.facts;
    let status = TaskQueueStatus {
        pools: Some(facts.pools),
        pending: facts.counts.map(|(pending, _)| pending),
        in_progress: facts.counts.map(|(_, running)| running),
        ..TaskQueueStatus::default()
    };
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    if observed.suspended {
        of(TaskQueueState::Suspended, false, false, "suspended: no task of it is started".into())
    } else if let Some(name) = &facts.missing_expert {
        let message =
            format!("defaultExpertRef: there is no Expert {name} in this namespace; the others' tasks are done");
        of(TaskQueueState::ExpertMissing, false, true, message)
    } else if let Some(held) = &gate.held {
        of(TaskQueueState::Held, false, false, held.clone())
    } else if spec.claimed_by == ClaimedBy::Clients {
        of(TaskQueueState::Open, true, false, "open; its tasks wait for clients that claim them".into())
    } else if facts.pools == 0 {
        of(
            TaskQueueState::Open,
            true,
            false,
            "open; no WorkerPool serves it, so its tasks wait: name it in the queueRefs of one".into(),
        )
    } else {
        let tries = number_of(spec.retry.max_attempts, "time");
        of(TaskQueueState::Open, true, false, format!("open; a task is tried {tries} before a human is asked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::shared::NamespacedName;

    fn planned(suspended: bool, held: Option<&str>, facts: TaskQueueObserved) -> DeclaredPlan<TaskQueueStatus> {
        let spec: TaskQueueSpec = serde_json::from_value(serde_json::json!({})).unwrap();
        let gate = Gate { held: held.map(str::to_owned), opens_at: None };
        let observed = DeclaredObserved {
            key: NamespacedName::new("team", "default"),
            uid: "u".into(),
            suspended,
            requirements: Vec::new(),
            handled_reconcile: None,
            facts,
        };
        plan(&spec, &observed, &gate)
    }

    #[test]
    fn a_queue_is_open_unless_something_stands_against_it() {
        let served = || TaskQueueObserved { pools: 1, ..TaskQueueObserved::default() };
        let no_expert = || TaskQueueObserved { missing_expert: Some("igor".into()), ..served() };
        for (what, suspended, held, facts, state, ready, stalled, word) in [
            ("served", false, None, served(), TaskQueueState::Open, true, false, "3 times"),
            ("no pool", false, None, TaskQueueObserved::default(), TaskQueueState::Open, true, false, "no WorkerPool"),
            ("held", false, Some("waits for x"), served(), TaskQueueState::Held, false, false, "waits for x"),
            ("suspended", true, Some("waits for x"), served(), TaskQueueState::Suspended, false, false, "suspended"),
            ("no expert", false, None, no_expert(), TaskQueueState::ExpertMissing, false, true, "igor"),
        ] {
            let planned = planned(suspended, held, facts);
            assert_eq!((planned.state, planned.ready, planned.stalled), (state, ready, stalled), "{what}");
            assert!(planned.message.contains(word), "{what}: {}", planned.message);
        }
    }
}
