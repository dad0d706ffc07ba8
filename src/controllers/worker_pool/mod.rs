//! WorkerPool: as many worker processes as the tasks that can run and the servers' limits can use.
//!
//! `plan` is pure. Where processes are pods, a Deployment is kept as planned; where they are not, this very process works, and
//! the pool says only what its processes report.

mod observe;
mod plan;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    api::{Mode, WorkerPool, WorkerPoolSpec, WorkerPoolState, WorkerPoolStatus, number_of},
    runtimes::{WorkersWanted, WorkloadError},
    store::{Term, WorkerReport},
};

use super::{
    declared::{ControlPlane, Declaration, DeclaredAssessment, DeclaredObserved, Declares, projected},
    error::StepError,
    shared::NamespacedName,
};

use plan::{Recommendation, Settling};

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

/// What is looked at beside the object.
#[derive(Clone, Debug, Default)]
pub struct WorkerPoolObserved {
    pub missing_queues: Vec<String>,
    /// Of its processes, the latest ones.
    pub reports: Vec<WorkerReport>,
    /// Where processes are pods.
    pub pods: Option<PoolPods>,
    /// Nothing is scaled now: `pause`, or a process that only observes.
    pub hands_off: bool,
}

/// What there is, and what there should be.
#[derive(Clone, Debug)]
pub struct PoolPods {
    pub current: Result<Option<crate::runtimes::WorkersSeen>, WorkloadError>,
    pub wanted: Recommendation,
}

#[async_trait]
impl Declares for WorkerPools {
    type Object = WorkerPool;
    type Status = WorkerPoolStatus;
    type Facts = WorkerPoolObserved;

    const KIND: &'static str = "WorkerPool";

    fn parts(object: &WorkerPool) -> Declaration<'_, WorkerPoolStatus> {
        Declaration {
            suspend: object.spec.suspend,
            requires: &[],
            status: object.status.as_ref(),
            spec: projected(&object.spec),
        }
    }

    async fn facts(&self, object: &WorkerPool, key: &NamespacedName) -> Result<WorkerPoolObserved, StepError> {
        self.look(&object.spec, key).await
    }

    fn judge(
        object: &WorkerPool,
        seen: &DeclaredObserved<WorkerPoolObserved>,
        _: Timestamp,
    ) -> DeclaredAssessment<WorkerPoolStatus> {
        judge(&object.spec, seen)
    }

    async fn act(
        &self,
        object: &WorkerPool,
        seen: &DeclaredObserved<WorkerPoolObserved>,
        judged: &mut DeclaredAssessment<WorkerPoolStatus>,
        _: &Term,
    ) -> Result<(), StepError> {
        let Some(pods) = &seen.facts.pods else { return Ok(()) };
        if seen.suspended || seen.facts.hands_off || object.spec.mode == Mode::Observe {
            return Ok(());
        }
        match self.scale(&object.spec, seen, pods).await {
            Ok(()) => Ok(()),
            Err(WorkloadError::Unavailable(why)) => {
                Err(crate::platform::PlatformError::Unavailable(format!("its pods were not scaled: {why}")).into())
            }
            Err(error) => {
                (judged.state, judged.ready, judged.stalled) = (WorkerPoolState::Refused, false, true);
                judged.message = format!("its pods can't be made: {error}");
                Ok(())
            }
        }
    }

    fn gone(&self, key: &NamespacedName) {
        lock(&self.settling).remove(key);
        lock(&self.applied).remove(key);
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
        seen: &DeclaredObserved<WorkerPoolObserved>,
        pods: &PoolPods,
    ) -> Result<(), WorkloadError> {
        let (key, worker_pods) = (&seen.key, &self.world.parts.worker_pods);
        let current = pods.current.clone()?;
        let manifest = worker_pods.manifest(&WorkersWanted {
            namespace: key.namespace.clone(),
            pool: key.name.clone(),
            uid: seen.uid.clone(),
            replicas: pods.wanted.replicas,
            drain_seconds: spec.drain_seconds,
            template: spec.template.clone(),
        })?;
        let known = lock(&self.applied).get(key).cloned();
        let same = current.as_ref().zip(known.as_ref());
        if same
            .is_some_and(|(current, (applied, generation))| *applied == manifest && current.generation == *generation)
        {
            return Ok(());
        }
        if current.as_ref().is_some_and(|current| pods.wanted.replicas < current.replicas) {
            let in_flight: Vec<(String, i32)> =
                seen.facts.reports.iter().map(|r| (r.host.clone(), r.in_flight)).collect();
            worker_pods.prefer_idle(&key.namespace, &key.name, &in_flight).await?;
        }
        let generation = worker_pods.apply(&key.namespace, &manifest).await?;
        tracing::info!(pool = %key, replicas = pods.wanted.replicas, "scaled a pool");
        lock(&self.applied).insert(key.clone(), (manifest, generation));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judge(spec: &WorkerPoolSpec, seen: &DeclaredObserved<WorkerPoolObserved>) -> DeclaredAssessment<WorkerPoolStatus> {
    let facts = &seen.facts;
    let reporting = i32::try_from(facts.reports.len()).unwrap_or(i32::MAX).min(10_000);
    let wanted = facts.pods.as_ref().map(|pods| pods.wanted.replicas);
    let shown = wanted.unwrap_or(reporting);
    let status = WorkerPoolStatus {
        replicas: Some(shown),
        ready_replicas: Some(reporting),
        effective_concurrency: Some(
            facts.reports.iter().map(|r| r.effective_concurrency).sum::<i32>().clamp(0, 1_000_000),
        ),
        limited_by: plan::limited_by(&facts.reports, facts.pods.as_ref().map(|pods| &pods.wanted)),
        ..WorkerPoolStatus::default()
    };
    let of = |state, ready, stalled, message: String| {
        DeclaredAssessment::new(state, ready, stalled, message, status.clone())
    };
    let current = facts.pods.as_ref().and_then(|pods| pods.current.as_ref().ok()).and_then(Option::as_ref);
    let trouble = current.and_then(|seen| seen.trouble.as_ref()).filter(|_| spec.mode == Mode::Enforce);
    let planned = match (wanted, spec.mode) {
        (Some(n), Mode::Observe) => format!("would run {} (mode: Observe)", number_of(n, "pod")),
        (Some(n), Mode::Enforce) => format!("{} for the tasks of its queues", number_of(n, "pod")),
        (None, _) => "does the tasks of its queues".to_owned(),
    };
    let mut judged = if seen.suspended {
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
            None => format!("no process works for it: start one with `ostler worker --pool {}`", seen.key.name),
        };
        of(WorkerPoolState::Waiting, false, false, message)
    } else if wanted.is_some_and(|wanted| wanted != reporting) && spec.mode == Mode::Enforce {
        of(WorkerPoolState::Scaling, reporting > 0, false, planned.clone())
    } else {
        of(WorkerPoolState::Running, true, false, planned.clone())
    };
    judged.again = Some(AGAIN);
    judged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{controllers::declared::Gate, runtimes::PodTrouble};
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
    ) -> DeclaredAssessment<WorkerPoolStatus> {
        let spec: WorkerPoolSpec = serde_json::from_value(json!({"queueRefs": [{"name": "q"}], "mode": mode})).unwrap();
        let facts = WorkerPoolObserved {
            missing_queues: missing.iter().map(ToString::to_string).collect(),
            reports: vec![report(); reports],
            pods: wanted
                .map(|replicas| PoolPods { current: Ok(None), wanted: Recommendation { replicas, capped: false } }),
            hands_off: false,
        };
        judge(&spec, &seen(suspended, facts))
    }

    fn seen(suspended: bool, facts: WorkerPoolObserved) -> DeclaredObserved<WorkerPoolObserved> {
        DeclaredObserved {
            key: NamespacedName::new("team", "smart"),
            uid: "u".into(),
            suspended,
            gate: Gate::default(),
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
    fn pods_that_do_not_run_are_told_with_their_own_reason() {
        let spec: WorkerPoolSpec = serde_json::from_value(json!({"queueRefs": [{"name": "q"}]})).unwrap();
        let trouble =
            PodTrouble { reason: "CreateContainerConfigError".into(), message: "secret \"s\" not found".into() };
        let current = crate::runtimes::WorkersSeen { generation: 1, replicas: 2, trouble: Some(trouble) };
        for (reports, ready, state) in [
            (0, false, WorkerPoolState::PodsFailing),
            (1, true, WorkerPoolState::PodsFailing),
            (2, true, WorkerPoolState::Running),
        ] {
            let pods =
                PoolPods { current: Ok(Some(current.clone())), wanted: Recommendation { replicas: 2, capped: false } };
            let judged = judge(
                &spec,
                &seen(
                    false,
                    WorkerPoolObserved {
                        reports: vec![report(); reports],
                        pods: Some(pods),
                        ..WorkerPoolObserved::default()
                    },
                ),
            );
            assert_eq!((judged.state, judged.ready), (state, ready), "{}", judged.message);
            let told = judged.message.contains("CreateContainerConfigError: secret \"s\" not found");
            assert_eq!(told, reports < 2, "{}", judged.message);
        }
    }
}
