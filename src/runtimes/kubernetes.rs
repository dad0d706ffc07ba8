//! Workloads of a cluster: their pods, and how one of them is replaced.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt};
use k8s_openapi::{
    Metadata, NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::v1::{ContainerStatus, Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, Preconditions},
    core::Selector,
};
use serde::de::DeserializeOwned;

use super::{
    Cluster, ContainersSeen, MEMORY_MANAGER, PodContainer, PodSeen, Terminated, WorkloadError, WorkloadSeen,
    containers::{containers, resize_patch, template_limits, template_patch},
};
use crate::{
    api::{PodTarget, WorkloadKind, WorkloadRef},
    base::with_mend,
};

/// Longest wait for an answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Workloads of the cluster that a client speaks to. It needs `get` on deployments, statefulsets and daemonsets, `list` on
/// replicasets and pods, and `delete` on pods.
pub struct Workloads {
    cluster: Cluster,
}

/// What is needed of a workload to find its pods.
struct Owner {
    uid: String,
    selector: Selector,
    desired: i32,
    limits: BTreeMap<String, i64>,
}

/// How fresh a listing must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Latest,
    /// From the API server's memory: a pass over thousands of pods costs the database behind it nothing.
    Recent,
}

impl Workloads {
    /// `None`: there is no cluster here.
    pub fn new(client: Option<Client>) -> Self {
        Self { cluster: Cluster(client) }
    }

    async fn owner(&self, namespace: &str, workload: &WorkloadRef) -> Result<Owner, WorkloadError> {
        let name = workload.name.as_str();
        match workload.kind {
            WorkloadKind::Deployment => {
                let found: Deployment = self.get(namespace, name, "Deployment").await?;
                let spec = found.spec.unwrap_or_default();
                owner(&found.metadata, spec.selector, spec.replicas.unwrap_or(1), spec.template)
            }
            WorkloadKind::StatefulSet => {
                let found: StatefulSet = self.get(namespace, name, "StatefulSet").await?;
                let spec = found.spec.unwrap_or_default();
                owner(&found.metadata, spec.selector, spec.replicas.unwrap_or(1), spec.template)
            }
            WorkloadKind::DaemonSet => {
                let found: DaemonSet = self.get(namespace, name, "DaemonSet").await?;
                let desired = found.status.map_or(0, |status| status.desired_number_scheduled);
                let spec = found.spec.unwrap_or_default();
                owner(&found.metadata, spec.selector, desired, spec.template)
            }
        }
    }

    async fn get<K>(&self, namespace: &str, name: &str, kind: &str) -> Result<K, WorkloadError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        answer(&format!("{kind} {namespace}/{name}"), self.cluster.api::<K>(namespace)?.get(name)).await
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
        let sets = answer(
            &format!("list ReplicaSets of {namespace}"),
            self.cluster.api::<ReplicaSet>(namespace)?.list(&params),
        )
        .await?;
        let owned = sets.items.iter().filter(|set| is_owned(set.metadata(), &owner.uid));
        Ok(owned.filter_map(ResourceExt::uid).collect())
    }

    /// A workload, and the pods that it owns.
    async fn owned(
        &self,
        namespace: &str,
        workload: &WorkloadRef,
        read: Read,
    ) -> Result<(Owner, Vec<Pod>), WorkloadError> {
        let owner = self.owner(namespace, workload).await?;
        let owners = self.owners(namespace, workload.kind, &owner).await?;
        let mut pods = self.selected(namespace, &owner.selector, read).await?;
        pods.retain(|pod| owners.iter().any(|uid| is_owned(&pod.metadata, uid)));
        Ok((owner, pods))
    }

    async fn selected(&self, namespace: &str, selector: &Selector, read: Read) -> Result<Vec<Pod>, WorkloadError> {
        let mut params = ListParams::default().labels_from(selector);
        if read == Read::Recent {
            params = params.match_any();
        }
        let pods =
            answer(&format!("list pods of {namespace}"), self.cluster.api::<Pod>(namespace)?.list(&params)).await?;
        Ok(pods.items)
    }

    /// The pods that a workload owns, and how many there should be.
    pub async fn pods(&self, namespace: &str, workload: &WorkloadRef) -> Result<WorkloadSeen, WorkloadError> {
        let (owner, pods) = self.owned(namespace, workload, Read::Latest).await?;
        Ok(WorkloadSeen { desired: owner.desired, pods: pods.iter().map(seen).collect() })
    }

    /// The containers of these pods.
    pub async fn containers(&self, namespace: &str, target: &PodTarget) -> Result<ContainersSeen, WorkloadError> {
        let (owner, pods) = match (&target.workload_ref, &target.selector) {
            (Some(workload), _) => {
                let (owner, pods) = self.owned(namespace, workload, Read::Recent).await?;
                (Some(owner), pods)
            }
            (None, Some(selector)) => {
                let selector = labels(selector)
                    .map_err(|error| WorkloadError::Refused(format!("target.kubernetes.selector: {error}")))?;
                (None, self.selected(namespace, &selector, Read::Recent).await?)
            }
            (None, None) => return Err(WorkloadError::Refused("target.kubernetes selects nothing".into())),
        };
        let of_pods: Vec<_> = pods.iter().map(containers).filter(|containers| !containers.is_empty()).collect();
        Ok(ContainersSeen {
            desired: owner.as_ref().map(|owner| owner.desired),
            pods: of_pods.len(),
            containers: of_pods.into_iter().flatten().collect(),
            template_limits: owner.map(|owner| owner.limits).unwrap_or_default(),
        })
    }

    /// The beginning and the end of a container's log, of its run before this one if it had one, at most `bytes` each.
    pub async fn log(&self, namespace: &str, of: &PodContainer, bytes: i64) -> Result<(String, String), WorkloadError> {
        let about = format!("log of pod {namespace}/{}", of.pod);
        let params = LogParams {
            container: Some(of.container.clone()),
            previous: of.restarts > 0
                && matches!(of.life, super::PodLife::Running { .. } | super::PodLife::Waiting { .. }),
            ..LogParams::default()
        };
        let api = self.cluster.api::<Pod>(namespace)?;
        let head = LogParams { limit_bytes: Some(bytes), ..params.clone() };
        let head = answer(&about, api.logs(&of.pod, &head)).await?;
        // There is no option for the last bytes: lines are asked for, and cut.
        let tail = LogParams { tail_lines: Some(200), ..params };
        let tail = answer(&about, async {
            let lines = api.log_stream(&of.pod, &tail).await?;
            last(lines, usize::try_from(bytes).unwrap_or_default()).await.map_err(kube::Error::ReadEvents)
        });
        Ok((head, tail.await?))
    }

    /// Changes the limit of memory of a running pod's container, in place.
    pub async fn resize(&self, namespace: &str, of: &PodContainer, bytes: i64) -> Result<(), WorkloadError> {
        let about = format!("resize pod {namespace}/{}", of.pod);
        let patch = Patch::Strategic(resize_patch(of, bytes));
        let api = self.cluster.api::<Pod>(namespace)?;
        answer(&about, api.patch_subresource("resize", &of.pod, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Changes the limit of memory in a workload's template: its pods are replaced as it does that.
    pub async fn patch_limit(
        &self,
        namespace: &str,
        workload: &WorkloadRef,
        container: &str,
        bytes: i64,
    ) -> Result<(), WorkloadError> {
        let (kind, name) = (workload.kind, workload.name.as_str());
        let about = format!("{} {namespace}/{name}", kind.as_str());
        let params = PatchParams::apply(MEMORY_MANAGER).force();
        let patch = Patch::Apply(template_patch(kind, name, container, bytes));
        match kind {
            WorkloadKind::Deployment => {
                let api = self.cluster.api::<Deployment>(namespace)?;
                answer(&about, api.patch(name, &params, &patch)).await.map(drop)
            }
            WorkloadKind::StatefulSet => {
                let api = self.cluster.api::<StatefulSet>(namespace)?;
                answer(&about, api.patch(name, &params, &patch)).await.map(drop)
            }
            WorkloadKind::DaemonSet => {
                let api = self.cluster.api::<DaemonSet>(namespace)?;
                answer(&about, api.patch(name, &params, &patch)).await.map(drop)
            }
        }
    }

    /// Deletes this pod and no other of its name: the uid is a precondition.
    pub async fn delete_pod(&self, namespace: &str, name: &str, uid: &str) -> Result<(), WorkloadError> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let about = format!("pod {namespace}/{name}");
        answer(&about, self.cluster.api::<Pod>(namespace)?.delete(name, &params)).await.map(drop)
    }
}

fn owner(
    metadata: &ObjectMeta,
    selector: LabelSelector,
    desired: i32,
    template: PodTemplateSpec,
) -> Result<Owner, WorkloadError> {
    let name = metadata.name.clone().unwrap_or_default();
    let selector = Selector::try_from(selector)
        .map_err(|error| WorkloadError::Refused(format!("the selector of {name} can't be used: {error}")))?;
    let limits = template.spec.map(|spec| template_limits(&spec.containers)).unwrap_or_default();
    Ok(Owner { uid: metadata.uid.clone().unwrap_or_default(), selector, desired, limits })
}

/// A selector of ours as the API server reads it.
fn labels(selector: &crate::api::LabelSelector) -> Result<Selector, String> {
    let document = serde_json::to_value(selector).map_err(|error| error.to_string())?;
    let selector: LabelSelector = serde_json::from_value(document).map_err(|error| error.to_string())?;
    Selector::try_from(selector).map_err(|error| error.to_string())
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

/// The last bytes of a text of any length: a line may have megabytes.
async fn last(mut text: impl AsyncRead + Unpin, bytes: usize) -> std::io::Result<String> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let count = text.read(&mut chunk).await?;
        if count == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..count]);
        if kept.len() > 2 * bytes {
            kept.drain(..kept.len() - bytes);
        }
    }
    let mut from = kept.len().saturating_sub(bytes);
    // Not within a character.
    while kept.get(from).is_some_and(|byte| byte & 0xc0 == 0x80) {
        from += 1;
    }
    Ok(String::from_utf8_lossy(&kept[from..]).into_owned())
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
        401 | 403 => WorkloadError::Forbidden(with_mend(&said)),
        429 | 500.. => WorkloadError::Unavailable(said),
        _ => WorkloadError::Refused(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn the_end_of_a_log_is_kept_however_long_its_lines_are() {
        let text = format!("{}é the end", "x".repeat(1_000_000));
        for (bytes, expected) in [(8, " the end"), (9, " the end"), (10, "é the end"), (0, "")] {
            assert_eq!(last(futures::io::Cursor::new(text.as_bytes()), bytes).await.unwrap(), expected, "{bytes}");
        }
        assert_eq!(last(futures::io::Cursor::new(b"short"), 100).await.unwrap(), "short");
    }

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
