//! Workloads of a cluster: their pods, and how one of them is replaced.

use std::{collections::HashSet, future::Future, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    Metadata, NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::{ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions},
    core::Selector,
};
use serde::de::DeserializeOwned;

use super::{PodSeen, Terminated, WorkloadError, WorkloadSeen, Workloads};
use crate::api::{WorkloadKind, WorkloadRef};

/// Longest wait for an answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Workloads of the cluster that a client speaks to. It needs `get` on deployments, statefulsets and daemonsets, `list` on
/// replicasets and pods, and `delete` on pods.
pub struct ClusterWorkloads {
    client: Client,
}

/// What is needed of a workload to find its pods.
struct Owner {
    uid: String,
    selector: Selector,
    desired: i32,
}

impl ClusterWorkloads {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn owner(&self, namespace: &str, workload: &WorkloadRef) -> Result<Owner, WorkloadError> {
        let name = workload.name.as_str();
        match workload.kind {
            WorkloadKind::Deployment => {
                let found: Deployment = self.get(namespace, name, "Deployment").await?;
                let spec = found.spec.unwrap_or_default();
                owner(&found.metadata, spec.selector, spec.replicas.unwrap_or(1))
            }
            WorkloadKind::StatefulSet => {
                let found: StatefulSet = self.get(namespace, name, "StatefulSet").await?;
                let spec = found.spec.unwrap_or_default();
                owner(&found.metadata, spec.selector, spec.replicas.unwrap_or(1))
            }
            WorkloadKind::DaemonSet => {
                let found: DaemonSet = self.get(namespace, name, "DaemonSet").await?;
                let desired = found.status.map_or(0, |status| status.desired_number_scheduled);
                owner(&found.metadata, found.spec.unwrap_or_default().selector, desired)
            }
        }
    }

    async fn get<K>(&self, namespace: &str, name: &str, kind: &str) -> Result<K, WorkloadError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        answer(&format!("{kind} {namespace}/{name}"), self.api::<K>(namespace).get(name)).await
    }

    /// The uids of what owns a workload's pods: itself, or a Deployment's ReplicaSets.
    async fn owners(
        &self,
        namespace: &str,
        kind: WorkloadKind,
        owner: &Owner,
    ) -> Result<HashSet<String>, WorkloadError> {
        if kind != WorkloadKind::Deployment {
            return Ok(HashSet::from([owner.uid.clone()]));
        }
        let params = ListParams::default().labels_from(&owner.selector);
        let sets = answer(&format!("list ReplicaSets of {namespace}"), self.api::<ReplicaSet>(namespace).list(&params))
            .await?;
        let owned = sets.items.iter().filter(|set| is_owned(set.metadata(), &owner.uid));
        Ok(owned.filter_map(ResourceExt::uid).collect())
    }
}

#[async_trait]
impl Workloads for ClusterWorkloads {
    async fn pods(&self, namespace: &str, workload: &WorkloadRef) -> Result<WorkloadSeen, WorkloadError> {
        let owner = self.owner(namespace, workload).await?;
        let owners = self.owners(namespace, workload.kind, &owner).await?;
        let params = ListParams::default().labels_from(&owner.selector);
        let pods = answer(&format!("list pods of {namespace}"), self.api::<Pod>(namespace).list(&params)).await?;
        let owned = pods.items.iter().filter(|pod| owners.iter().any(|uid| is_owned(&pod.metadata, uid)));
        Ok(WorkloadSeen { desired: owner.desired, pods: owned.map(seen).collect() })
    }

    async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WorkloadError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let about = format!("pod {namespace}/{name}");
        answer(&about, self.api::<Pod>(namespace).delete(name, &params)).await.map(drop)
    }
}

fn owner(metadata: &ObjectMeta, selector: LabelSelector, desired: i32) -> Result<Owner, WorkloadError> {
    let name = metadata.name.clone().unwrap_or_default();
    let selector = Selector::try_from(selector)
        .map_err(|error| WorkloadError::Refused(format!("the selector of {name} can't be used: {error}")))?;
    Ok(Owner { uid: metadata.uid.clone().unwrap_or_default(), selector, desired })
}

fn is_owned(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// What is kept of a pod.
fn seen(pod: &Pod) -> PodSeen {
    let status = pod.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    let containers: Vec<&ContainerStatus> =
        status.into_iter().flat_map(|status| status.container_statuses.iter().flatten()).collect();
    PodSeen {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ready,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        restarts: containers.iter().map(|container| container.restart_count).sum(),
        last_terminated: containers.iter().filter_map(|container| terminated(container)).max_by_key(|end| end.at),
    }
}

/// How the container ended: now, or before it was started again.
fn terminated(container: &ContainerStatus) -> Option<Terminated> {
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    let before = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or(before).map(|end| Terminated {
        reason: end.reason.clone().unwrap_or_default(),
        exit_code: end.exit_code,
        at: end.finished_at.as_ref().map(|time| time.0),
    })
}

pub(super) async fn answer<T>(
    about: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WorkloadError> {
    let error = match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(WorkloadError::Unavailable(format!("{about}: no answer within {} s", TIMEOUT.as_secs())));
        }
    };
    let kube::Error::Api(status) = error else {
        return Err(WorkloadError::Unavailable(format!("{about}: {error}")));
    };
    let said = format!("{about}: {}", status.message);
    Err(match status.code {
        404 => WorkloadError::NotFound(about.to_owned()),
        // The precondition: the pod of this name has another uid.
        409 => WorkloadError::Replaced(about.to_owned()),
        401 | 403 => WorkloadError::Forbidden(said),
        429 | 500.. => WorkloadError::Unavailable(said),
        _ => WorkloadError::Refused(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> PodSeen {
        seen(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_pods_state_is_read_from_its_conditions_and_containers() {
        let killed = pod(json!({
            "metadata": {"name": "a-0", "uid": "u"},
            "spec": {"nodeName": "n", "containers": []},
            "status": {
                "conditions": [{"type": "Ready", "status": "False"}, {"type": "PodScheduled", "status": "True"}],
                "containerStatuses": [
                    {"name": "side", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                     "lastState": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2024-01-01T00:00:00Z"}}},
                    {"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 2,
                     "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2024-01-01T00:00:05Z"}}},
                ],
            },
        }));
        let last = killed.last_terminated.as_ref().unwrap();
        assert_eq!((last.reason.as_str(), last.exit_code), ("OOMKilled", 137));
        assert_eq!((killed.ready, killed.restarts, killed.node.as_deref()), (false, 3, Some("n")));
        let going = pod(json!({
            "metadata": {"name": "a-0", "deletionTimestamp": "2024-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }));
        assert!(going.deleting && going.ready && going.last_terminated.is_none());
    }

    #[test]
    fn a_pod_belongs_to_the_controller_that_made_it_not_to_whoever_selects_it() {
        let metadata: ObjectMeta = serde_json::from_value(json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "A", "name": "a", "uid": "1", "controller": true},
            {"apiVersion": "v1", "kind": "B", "name": "b", "uid": "2"},
        ]}))
        .unwrap();
        assert!(is_owned(&metadata, "1") && !is_owned(&metadata, "2") && !is_owned(&metadata, "3"));
    }
}
