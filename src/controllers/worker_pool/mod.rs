//! WorkerPool: as many worker processes as the tasks that can run and the servers' limits can use.
//!
//! `plan` is pure. Where processes are pods, a Deployment is kept as planned; where they are not, this very process works, and
//! the pool says only what its processes report.

mod observe;
mod plan;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::{
    api::{Kind, Mode, Requirement, WorkerPool, WorkerPoolSpec, WorkerPoolState, WorkerPoolStatus, number_of},
    platform::PlatformError,
    runtimes::{WorkersSeen, WorkersWanted, WorkloadError},
    store::WorkerReport,
};

use super::{
    declared::{ControlPlane, DeclaredObserved, DeclaredPlan, Declares, Gate, PlanOf},
    error::StepError,
    shared::NamespacedName,
};

use plan::{Recommendation, Runnable, Settling};

/// How often reports, and where pods are made what they can use, are looked at.
const AGAIN: Duration = Duration::from_secs(5);

/// The kind's own part.
pub struct WorkerPools {
    pub world: Arc<ControlPlane>,
    /// What was recommended lately.
    settling: Mutex<HashMap<NamespacedName, Settling>>,
    /// The manifest that was applied last, and the generation that it has made.
    applied: Mutex<HashMap<NamespacedName, (serde_json::Value, i64)>>,
}

/// What is read beside what every kind reads.
#[derive(Clone, Debug, Default)]
pub struct WorkerPoolObserved {
    pub missing_queues: Vec<String>,
    /// Of its processes, the latest ones.
    pub reports: Vec<WorkerReport>,
    /// Where processes are pods.
    pub pods: Option<PoolPods>,
    /// This process works for it.
    pub brings_worker: bool,
    /// Nothing is scaled now: `pause`, or a process that only observes.
    pub hands_off: bool,
}

/// The pods of a pool, and what they could do.
#[derive(Clone, Debug)]
pub struct PoolPods {
    pub current: Result<Option<WorkersSeen>, WorkloadError>,
    pub runnable: Runnable,
    /// What was recommended lately.
    pub settling: Settling,
}

/// How many pods there should be.
#[derive(Clone, Debug)]
pub struct PoolScale {
    pub wanted: Recommendation,
    pub settling: Settling,
    /// Whether that is done, or only said.
    pub enforced: bool,
}

#[async_trait]
impl Declares for WorkerPools {
    type Object = WorkerPool;
    type Observed = WorkerPoolObserved;
    /// `None` where processes are no pods.
    type Action = Option<PoolScale>;

    const KIND: Kind = Kind::WorkerPool;

    fn declared(spec: &WorkerPoolSpec) -> (bool, &[Requirement]) {
        (spec.suspend, &[])
    }

    async fn observe(&self, object: &WorkerPool, base: &DeclaredObserved) -> Result<WorkerPoolObserved, StepError> {
        self.look(&object.spec, &base.key).await
    }

    fn plan(
        object: &WorkerPool,
        observed: &DeclaredObserved<WorkerPoolObserved>,
        _: &Gate,
        now: Timestamp,
    ) -> PlanOf<Self> {
        let spec = &object.spec;
        let scale = observed.facts.pods.as_ref().map(|pods| {
            let there = pods.current.as_ref().ok().and_then(Option::as_ref).map(|seen| seen.replicas);
            let window = SignedDuration::from_secs(spec.replicas.scale_down_seconds.into());
            let mut settling = pods.settling.clone();
            let wanted = settling.settle(plan::recommend(spec, plan::usable(&pods.runnable)), there, window, now);
            let enforced = !observed.suspended && !observed.facts.hands_off && spec.mode == Mode::Enforce;
            PoolScale { wanted, settling, enforced }
        });
        assess(spec, observed, scale.as_ref().map(|scale| &scale.wanted)).with_action(scale)
    }

    async fn apply(
        &self,
        object: &WorkerPool,
        observed: &DeclaredObserved<WorkerPoolObserved>,
        plan: &mut PlanOf<Self>,
    ) -> Result<(), StepError> {
        let (Some(pods), Some(scale)) = (&observed.facts.pods, &plan.action) else { return Ok(()) };
        self.settling.lock().insert(observed.key.clone(), scale.settling.clone());
        if !scale.enforced {
            return Ok(());
        }
        match self.scale(&object.spec, observed, pods, scale.wanted.replicas).await {
            Ok(()) => Ok(()),
            Err(WorkloadError::Unavailable(why)) => {
                Err(PlatformError::Unavailable(format!("could not scale its pods: {why}")).into())
            }
            Err(error) => {
                (plan.state, plan.ready, plan.stalled) = (WorkerPoolState::Refused, false, true);
                let what = if object.spec.workload_ref.is_some() { "scale its Deployment" } else { "make its pods" };
                plan.message = format!("could not {what}: {error}");
                Ok(())
            }
        }
    }

    fn gone(&self, key: &NamespacedName) {
        self.settling.lock().remove(key);
        self.applied.lock().remove(key);
    }
}

impl WorkerPools {
    pub fn new(world: Arc<ControlPlane>) -> Self {
        Self { world, settling: Mutex::default(), applied: Mutex::default() }
    }

    /// Applies the Deployment where it differs from what was applied, or somebody changed it since.
    async fn scale(
        &self,
        spec: &WorkerPoolSpec,
        observed: &DeclaredObserved<WorkerPoolObserved>,
        pods: &PoolPods,
        replicas: i32,
    ) -> Result<(), WorkloadError> {
        let (key, worker_pods) = (&observed.key, &self.world.parts.worker_pods);
        let current = pods.current.clone()?;
        if let Some(workload) = &spec.workload_ref {
            if current.is_some_and(|current| current.replicas != replicas) {
                worker_pods.scale(&key.namespace, &workload.name, replicas).await?;
                tracing::info!(pool = %key, deployment = workload.name, replicas, "scaled a pool");
            }
            return Ok(());
        }
        let manifest = worker_pods.manifest(&WorkersWanted {
            namespace: key.namespace.clone(),
            pool: key.name.clone(),
            uid: observed.uid.clone(),
            replicas,
            drain_seconds: spec.drain_seconds,
            template: spec.template.clone(),
        })?;
        let known = self.applied.lock().get(key).cloned();
        let same = current.as_ref().zip(known.as_ref());
        if same
            .is_some_and(|(current, (applied, generation))| *applied == manifest && current.generation == *generation)
        {
            return Ok(());
        }
        if current.as_ref().is_some_and(|current| replicas < current.replicas) {
            let in_flight: Vec<(String, i32)> =
                observed.facts.reports.iter().map(|r| (r.host.clone(), r.in_flight)).collect();
            worker_pods.prefer_idle(&key.namespace, &key.name, &in_flight).await?;
        }
        let generation = worker_pods.apply(&key.namespace, &manifest).await?;
        tracing::info!(pool = %key, replicas, "scaled a pool");
        self.applied.lock().insert(key.clone(), (manifest, generation));
        Ok(())
    }
}

fn assess(
    spec: &WorkerPoolSpec,
    observed: &DeclaredObserved<WorkerPoolObserved>,
    recommended: Option<&Recommendation>,
) -> DeclaredPlan<WorkerPoolStatus> {
    let facts = &observed.facts;
    let reporting = i32::try_from(facts.reports.len()).unwrap_or(i32::MAX).min(10_000);
    let wanted = recommended.map(|recommended| recommended.replicas);
    let shown = wanted.unwrap_or(reporting);
    let status = WorkerPoolStatus {
        replicas: Some(shown),
        ready_replicas: Some(reporting),
        effective_concurrency: Some(
            facts.reports.iter().map(|r| r.effective_concurrency).sum::<i32>().clamp(0, 1_000_000),
        ),
        limited_by: plan::limited_by(&facts.reports, recommended),
        ..WorkerPoolStatus::default()
    };
    let of = |state, ready, stalled, message: String| DeclaredPlan::new(state, ready, stalled, message, status.clone());
    let current = facts.pods.as_ref().and_then(|pods| pods.current.as_ref().ok()).and_then(Option::as_ref);
    let trouble = current.and_then(|seen| seen.trouble.as_ref()).filter(|_| spec.mode == Mode::Enforce);
    let planned = match (wanted, spec.mode) {
        (Some(n), Mode::Observe) => format!("would run {} (mode: Observe)", number_of(n, "pod")),
        (Some(n), Mode::Enforce) => format!("{} for the tasks of its queues", number_of(n, "pod")),
        (None, _) => "does the tasks of its queues".to_owned(),
    };
    let plan = if observed.suspended {
        of(WorkerPoolState::Suspended, false, false, "suspended: its processes take no more tasks".into())
    } else if !facts.missing_queues.is_empty() {
        let message = format!("queueRefs: there is no TaskQueue {} in this namespace", facts.missing_queues.join(", "));
        of(WorkerPoolState::QueueMissing, false, true, message)
    } else if let Some(trouble) = trouble.filter(|_| wanted.is_some_and(|wanted| reporting < wanted)) {
        let message = format!("{reporting} of {shown} pods have reported; the others: {trouble}");
        of(WorkerPoolState::PodsFailing, reporting > 0, false, message)
    } else if reporting == 0 && (shown > 0 || wanted.is_none()) {
        let message = match wanted {
            Some(n) if spec.mode == Mode::Enforce => format!("none of {n} pods has reported yet"),
            Some(_) => planned.clone(),
            None if facts.brings_worker => {
                "its worker is starting; should that last, the log of `ostler up` says why".to_owned()
            }
            None => format!("no process works for it: start one with `ostler worker --pool {}`", observed.key.name),
        };
        of(WorkerPoolState::Waiting, false, false, message)
    } else if wanted.is_some_and(|wanted| wanted != reporting) && spec.mode == Mode::Enforce {
        of(WorkerPoolState::Scaling, reporting > 0, false, planned.clone())
    } else {
        of(WorkerPoolState::Running, true, false, planned.clone())
    };
    DeclaredPlan { again: Some(AGAIN), ..plan }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::PodTrouble;
    use serde_json::json;

    fn report() -> WorkerReport {
        serde_json::from_value(json!({
            "holder": "h", "namespace": "team", "pool": "smart", "host": "p", "inFlight": 1, "effectiveConcurrency": 15,
            "limitedBy": "Backends", "draining": false, "calls": [],
        }))
        .unwrap()
    }

    fn judged(
        mode: &str,
        suspended: bool,
        reports: usize,
        wanted: Option<i32>,
        missing: &[&str],
    ) -> DeclaredPlan<WorkerPoolStatus> {
        let spec: WorkerPoolSpec = serde_json::from_value(json!({"queueRefs": [{"name": "q"}], "mode": mode})).unwrap();
        let facts = WorkerPoolObserved {
            missing_queues: missing.iter().map(ToString::to_string).collect(),
            reports: vec![report(); reports],
            pods: wanted.map(|_| pods(None)),
            brings_worker: false,
            hands_off: false,
        };
        let wanted = wanted.map(|replicas| Recommendation { replicas, capped: false });
        assess(&spec, &seen(suspended, facts), wanted.as_ref())
    }

    fn pods(current: Option<WorkersSeen>) -> PoolPods {
        PoolPods { current: Ok(current), runnable: Runnable::default(), settling: Settling::default() }
    }

    fn seen(suspended: bool, facts: WorkerPoolObserved) -> DeclaredObserved<WorkerPoolObserved> {
        DeclaredObserved {
            key: NamespacedName::new("team", "smart"),
            uid: "u".into(),
            suspended,
            requirements: Vec::new(),
            handled_reconcile: None,
            facts,
        }
    }

    #[test]
    fn a_pool_runs_when_its_processes_report() {
        use WorkerPoolState::{QueueMissing, Running, Scaling, Suspended, Waiting};
        for (what, judged, state, ready) in [
            ("a laptop's own process", judged("Enforce", false, 1, None, &[]), Running, true),
            ("a laptop without one", judged("Enforce", false, 0, None, &[]), Waiting, false),
            ("pods that report", judged("Enforce", false, 2, Some(2), &[]), Running, true),
            ("pods that come", judged("Enforce", false, 1, Some(2), &[]), Scaling, true),
            ("the first pods", judged("Enforce", false, 0, Some(2), &[]), Waiting, false),
            ("scaled to none", judged("Enforce", false, 0, Some(0), &[]), Running, true),
            ("suspended", judged("Enforce", true, 1, Some(1), &["q"]), Suspended, false),
            ("a queue is missing", judged("Enforce", false, 1, Some(1), &["q"]), QueueMissing, false),
        ] {
            assert_eq!((judged.state, judged.ready), (state, ready), "{what}: {}", judged.message);
        }
        assert!(judged("Observe", false, 1, Some(3), &[]).message.contains("would run 3"));
    }

    #[test]
    fn where_its_own_process_works_nobody_is_told_to_start_another() {
        let spec: WorkerPoolSpec = serde_json::from_value(json!({"queueRefs": [{"name": "q"}]})).unwrap();
        for (brings_worker, message) in [(true, "its worker is starting"), (false, "`ostler worker --pool smart`")] {
            let facts = WorkerPoolObserved { brings_worker, ..WorkerPoolObserved::default() };
            let judged = assess(&spec, &seen(false, facts), None);
            assert_eq!(judged.state, WorkerPoolState::Waiting);
            assert!(judged.message.contains(message), "{}", judged.message);
        }
    }

    #[test]
    fn pods_that_do_not_run_are_told_with_their_own_reason() {
        let spec: WorkerPoolSpec = serde_json::from_value(json!({"queueRefs": [{"name": "q"}]})).unwrap();
        let trouble =
            PodTrouble { reason: "CreateContainerConfigError".into(), message: "secret \"s\" not found".into() };
        let current = WorkersSeen { generation: 1, replicas: 2, trouble: Some(trouble) };
        for (reports, ready, state) in [
            (0, false, WorkerPoolState::PodsFailing),
            (1, true, WorkerPoolState::PodsFailing),
            (2, true, WorkerPoolState::Running),
        ] {
            let facts = WorkerPoolObserved {
                reports: vec![report(); reports],
                pods: Some(pods(Some(current.clone()))),
                ..WorkerPoolObserved::default()
            };
            let judged = assess(&spec, &seen(false, facts), Some(&Recommendation { replicas: 2, capped: false }));
            assert_eq!((judged.state, judged.ready), (state, ready), "{}", judged.message);
            let told = judged.message.contains("CreateContainerConfigError: secret \"s\" not found");
            assert_eq!(told, reports < 2, "{}", judged.message);
        }
    }
}
