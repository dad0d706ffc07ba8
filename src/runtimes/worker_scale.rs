//! The Deployment that somebody made for a pool: seen and scaled, and nothing else.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    api::{ListParams, Patch, PatchParams},
    core::Selector,
};
use serde_json::json;

use super::{WorkerPods, WorkersSeen, WorkloadError, kubernetes::answer, pod_trouble::trouble, worker_pods::MANAGER};

impl WorkerPods {
    /// The Deployment that somebody made for a pool. It needs `get` on deployments and `list` on pods.
    pub async fn seen_workload(&self, namespace: &str, name: &str) -> Result<WorkersSeen, WorkloadError> {
        let about = format!("Deployment {namespace}/{name}");
        let found = answer(&about, self.cluster.api::<Deployment>(namespace)?.get(name)).await?;
        let spec = found.spec.clone().unwrap_or_default();
        let replicas = spec.replicas.unwrap_or(1);
        let available = found.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        let mut trouble_of_pods = None;
        if available < replicas {
            let selector = Selector::try_from(spec.selector)
                .map_err(|error| WorkloadError::Refused(format!("{about}: its selector: {error}")))?;
            let selected = ListParams::default().labels_from(&selector).match_any();
            let pods = self.cluster.api::<Pod>(namespace)?;
            let pods = answer(&format!("list pods of {namespace}"), pods.list(&selected)).await?;
            trouble_of_pods = trouble(&found, &pods.items);
        }
        Ok(WorkersSeen {
            generation: found.metadata.generation.unwrap_or_default(),
            replicas,
            trouble: trouble_of_pods,
        })
    }

    /// Scales a Deployment that somebody made, and changes nothing else of it. It needs `patch` on deployments/scale.
    pub async fn scale(&self, namespace: &str, name: &str, replicas: i32) -> Result<(), WorkloadError> {
        let api = self.cluster.api::<Deployment>(namespace)?;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        answer(&format!("Deployment {namespace}/{name}"), api.patch_scale(name, &params, &patch)).await.map(drop)
    }
}
