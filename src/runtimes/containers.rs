//! Containers of pods: how they are, what they said, and their limits of memory.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, ContainerState, ContainerStatus, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Terminated;
use crate::api::{WorkloadKind, quantity};

/// Who wrote the limit of memory of a workload: a field manager of its own, so that nothing else of it is claimed.
pub const MEMORY_MANAGER: &str = "ostler-memory";

/// Containers of a check's pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainersSeen {
    /// Pods that there should be, where a workload says so.
    pub desired: Option<i32>,
    pub pods: usize,
    pub containers: Vec<PodContainer>,
    /// Limits of memory in the workload's own template, in bytes, by container.
    pub template_limits: BTreeMap<String, i64>,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodContainer {
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub life: PodLife,
    /// By its readiness probe.
    pub ready: bool,
    pub restarts: i32,
    /// How its run before this one ended.
    pub last: Option<Terminated>,
    /// In bytes.
    pub memory_limit: Option<i64>,
    /// Requests equal limits, and must go on doing so.
    pub guaranteed: bool,
    pub pod_ip: Option<String>,
    /// Of its pod: `Always`, `OnFailure`, `Never`.
    pub restart_policy: String,
}

/// Where it is in its life, as its kubelet says.
#[derive(Clone, Debug, PartialEq)]
pub enum PodLife {
    Running {
        since: Option<Timestamp>,
    },
    /// `CrashLoopBackOff`, `ImagePullBackOff`, `ContainerCreating`, …, and what it says to that.
    Waiting {
        reason: String,
        message: String,
    },
    Terminated(Terminated),
}

/// The containers of a pod; none of one that is being deleted, has done its work, or was evicted: another one stands for that.
pub(super) fn containers(pod: &Pod) -> Vec<PodContainer> {
    if pod.metadata.deletion_timestamp.is_some() || is_over(pod) {
        return Vec::new();
    }
    let (Some(spec), status) = (pod.spec.as_ref(), pod.status.as_ref()) else { return Vec::new() };
    let known = |name: &str| status.and_then(|s| s.container_statuses.as_ref()?.iter().find(|c| c.name == name));
    let guaranteed = status.is_some_and(|status| status.qos_class.as_deref() == Some("Guaranteed"));
    let pending = status.and_then(why_pending);
    let of = |container: &Container| {
        let known = known(&container.name);
        PodContainer {
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            container: container.name.clone(),
            life: known.and_then(|known| life(known.state.as_ref())).unwrap_or_else(|| PodLife::Waiting {
                reason: "Pending".into(),
                message: pending.clone().unwrap_or_default(),
            }),
            ready: known.is_some_and(|known| known.ready),
            restarts: known.map_or(0, |known| known.restart_count),
            last: known.and_then(last_end),
            memory_limit: known
                .and_then(|known| limit(known.resources.as_ref()))
                .or_else(|| limit(container.resources.as_ref())),
            guaranteed,
            pod_ip: status.and_then(|status| status.pod_ip.clone()),
            restart_policy: spec.restart_policy.clone().unwrap_or_else(|| "Always".into()),
        }
    };
    spec.containers.iter().map(of).collect()
}

fn is_over(pod: &Pod) -> bool {
    let restarts = pod.spec.as_ref().is_none_or(|spec| spec.restart_policy.as_deref() != Some("Never"));
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => true,
        Some("Failed") => restarts,
        _ => false,
    }
}

fn why_pending(status: &k8s_openapi::api::core::v1::PodStatus) -> Option<String> {
    let conditions = status.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?.message.clone()
}

fn life(state: Option<&ContainerState>) -> Option<PodLife> {
    let state = state?;
    if let Some(running) = &state.running {
        return Some(PodLife::Running { since: running.started_at.as_ref().map(|time| time.0) });
    }
    if let Some(end) = &state.terminated {
        return Some(PodLife::Terminated(terminated(end)));
    }
    let waiting = state.waiting.as_ref()?;
    Some(PodLife::Waiting {
        reason: waiting.reason.clone().unwrap_or_default(),
        message: waiting.message.clone().unwrap_or_default(),
    })
}

fn last_end(known: &ContainerStatus) -> Option<Terminated> {
    known.last_state.as_ref()?.terminated.as_ref().map(terminated)
}

fn terminated(end: &k8s_openapi::api::core::v1::ContainerStateTerminated) -> Terminated {
    Terminated {
        reason: end.reason.clone().unwrap_or_default(),
        exit_code: end.exit_code,
        at: end.finished_at.as_ref().map(|time| time.0),
    }
}

fn limit(resources: Option<&ResourceRequirements>) -> Option<i64> {
    let Quantity(text) = resources?.limits.as_ref()?.get("memory")?;
    quantity::bytes(text).and_then(|bytes| i64::try_from(bytes).ok())
}

/// Limits of memory of a workload's template.
pub(super) fn template_limits(containers: &[Container]) -> BTreeMap<String, i64> {
    let of = |container: &Container| Some((container.name.clone(), limit(container.resources.as_ref())?));
    containers.iter().filter_map(of).collect()
}

/// Changes the limit of one container of exactly this pod.
pub(super) fn resize_patch(container: &PodContainer, bytes: i64) -> Value {
    let mut resources = json!({"limits": {"memory": bytes.to_string()}});
    if container.guaranteed {
        resources["requests"] = json!({"memory": bytes.to_string()});
    }
    json!({
        "metadata": {"uid": container.uid},
        "spec": {"containers": [{"name": container.container, "resources": resources}]},
    })
}

/// Says one limit of a workload's template, and nothing else.
pub(super) fn template_patch(kind: WorkloadKind, name: &str, container: &str, bytes: i64) -> Value {
    let limits = json!({"limits": {"memory": bytes.to_string()}});
    json!({
        "apiVersion": "apps/v1", "kind": kind.as_str(), "metadata": {"name": name},
        "spec": {"template": {"spec": {"containers": [{"name": container, "resources": limits}]}}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: Value) -> Vec<PodContainer> {
        containers(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_container_is_read_with_its_last_end_and_the_limit_that_it_really_has() {
        let seen = pod(json!({
            "metadata": {"name": "a-0", "uid": "u"},
            "spec": {"containers": [{"name": "main", "resources": {"limits": {"memory": "20Mi"}}}, {"name": "side"}]},
            "status": {"qosClass": "Burstable", "podIP": "10.0.0.1", "containerStatuses": [
                {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                 "resources": {"limits": {"memory": "40Mi"}},
                 "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                 "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2024-01-01T00:00:05Z"}}},
            ]},
        }));
        let main = &seen[0];
        assert_eq!((main.restarts, main.memory_limit, main.guaranteed), (2, Some(40 << 20), false));
        assert_eq!(main.last.as_ref().map(|last| last.reason.as_str()), Some("OOMKilled"));
        assert!(matches!(&main.life, PodLife::Waiting { reason, .. } if reason == "CrashLoopBackOff"));
        assert!(matches!(&seen[1].life, PodLife::Waiting { reason, .. } if reason == "Pending"));
        assert_eq!(resize_patch(main, 1)["spec"]["containers"][0]["resources"], json!({"limits": {"memory": "1"}}));
        let same = PodContainer { guaranteed: true, ..main.clone() };
        assert_eq!(resize_patch(&same, 1)["spec"]["containers"][0]["resources"]["requests"]["memory"], "1");
    }

    #[test]
    fn what_is_being_deleted_or_over_is_not_looked_at() {
        for (policy, phase, count) in
            [("Always", "Running", 1), ("Always", "Failed", 0), ("Never", "Failed", 1), ("Never", "Succeeded", 0)]
        {
            let spec = json!({"restartPolicy": policy, "containers": [{"name": "c"}]});
            let seen = pod(json!({"metadata": {"name": "a"}, "spec": spec, "status": {"phase": phase}}));
            assert_eq!(seen.len(), count, "{policy} {phase}");
        }
        let going = json!({"metadata": {"name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"containers": [{"name": "c"}]}});
        assert!(pod(going).is_empty());
    }
}
