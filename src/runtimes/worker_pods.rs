//! The pods of worker pools: one Deployment each, by server-side apply.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Cluster, WorkloadError,
    kubernetes::answer,
    pod_trouble::{PodTrouble, trouble},
};
use crate::api::{API_VERSION, WorkerTemplate, WorkerVariable};

/// Field manager of the Deployments: theirs alone, apart from that of statuses.
pub(super) const MANAGER: &str = "ostler-worker-pool";
/// Label of a pool's pods: the pool's name, cut where it is longer than a label may be.
pub const POOL: &str = "ostler.dev/worker-pool";
/// Of several pods the one with the lowest cost is deleted first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const LONGEST_LABEL: usize = 63;

/// What every pool's pods are made from, beside its own template: said to the controller by the chart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerPodSettings {
    pub image: Option<String>,
    pub image_pull_policy: Option<String>,
    pub image_pull_secrets: Vec<String>,
    /// Secret and key of the database's URL, in the pool's namespace.
    pub database_secret: Option<(String, String)>,
    /// Secret and key of OSTLER_KEY, in the pool's namespace.
    pub key_secret: Option<(String, String)>,
    pub log: String,
}

/// A pool's Deployment as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersWanted {
    pub namespace: String,
    pub pool: String,
    /// Of the pool: its Deployment goes with it.
    pub uid: String,
    pub replicas: i32,
    pub drain_seconds: i32,
    pub template: WorkerTemplate,
}

/// A pool's Deployment as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkersSeen {
    pub generation: i64,
    pub replicas: i32,
    /// What keeps its pods from running.
    pub trouble: Option<PodTrouble>,
}

/// Makes and scales the pods of worker pools. It needs `get`, `create` and `patch` on deployments, `list` and `patch` on pods.
pub struct WorkerPods {
    pub(super) cluster: Cluster,
    settings: WorkerPodSettings,
}

impl WorkerPods {
    /// `None`: there is no cluster here, and nobody makes pods.
    pub fn new(client: Option<Client>, settings: WorkerPodSettings) -> Self {
        Self { cluster: Cluster(client), settings }
    }

    /// Whether there is a cluster, and the chart said what pods are made from: else workers are somebody else's to start.
    pub fn makes(&self) -> bool {
        self.cluster.0.is_some() && self.settings.database_secret.is_some()
    }

    async fn trouble(
        &self,
        namespace: &str,
        pool: &str,
        deployment: &Deployment,
    ) -> Result<Option<PodTrouble>, WorkloadError> {
        let api = self.cluster.api::<Pod>(namespace)?;
        // From the API server's memory: it is asked every few seconds.
        let selected = ListParams::default().labels(&format!("{POOL}={}", label(pool))).match_any();
        let pods = answer(&format!("list pods of {namespace}"), api.list(&selected)).await?.items;
        Ok(trouble(deployment, &pods))
    }

    /// `None`: there is no Deployment yet.
    pub async fn seen(&self, namespace: &str, pool: &str) -> Result<Option<WorkersSeen>, WorkloadError> {
        let api = self.cluster.api::<Deployment>(namespace)?;
        let about = format!("Deployment {namespace}/{}", name_of(pool));
        let found = match answer(&about, api.get(&name_of(pool))).await {
            Ok(found) => found,
            Err(WorkloadError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let available = found.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        let trouble = if available < replicas { self.trouble(namespace, pool, &found).await? } else { None };
        let generation = found.metadata.generation.unwrap_or_default();
        Ok(Some(WorkersSeen { generation, replicas, trouble }))
    }

    /// The manifest of a Deployment; the error tells which setting is missing.
    pub fn manifest(&self, wanted: &WorkersWanted) -> Result<Value, WorkloadError> {
        if self.cluster.0.is_none() {
            return Err(WorkloadError::NoCluster);
        }
        manifest(&self.settings, wanted)
    }

    /// Applies a manifest; returns its generation from now on.
    pub async fn apply(&self, namespace: &str, manifest: &Value) -> Result<i64, WorkloadError> {
        let api = self.cluster.api::<Deployment>(namespace)?;
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default();
        let params = PatchParams::apply(MANAGER).force();
        let about = format!("Deployment {namespace}/{name}");
        let applied = answer(&about, api.patch(name, &params, &Patch::Apply(manifest))).await?;
        Ok(applied.metadata.generation.unwrap_or_default())
    }

    /// Whether no process of a pod that was there at `since` runs any more: the pod with that uid is gone, or its containers have ended,
    /// or began later. A pod that is only being deleted may still run.
    pub async fn has_ended(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        since: Timestamp,
    ) -> Result<bool, WorkloadError> {
        let api = self.cluster.api::<Pod>(namespace)?;
        let one = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = answer(&format!("pod {namespace}/{name}"), api.list(&one)).await?.items;
        Ok(found
            .iter()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid))
            .is_none_or(|pod| no_container_since(pod, since)))
    }

    /// Lets the idle pods of a pool go first: what each has in flight, by name. Writes only what differs.
    pub async fn prefer_idle(
        &self,
        namespace: &str,
        pool: &str,
        in_flight: &[(String, i32)],
    ) -> Result<(), WorkloadError> {
        let api = self.cluster.api::<Pod>(namespace)?;
        let selected = ListParams::default().labels(&format!("{POOL}={}", label(pool)));
        for pod in answer(&format!("list pods of {namespace}"), api.list(&selected)).await?.items {
            let name = pod.name_any();
            let busy = in_flight.iter().find(|(host, _)| *host == name).map_or(0, |(_, n)| *n).to_string();
            if pod.annotations().get(DELETION_COST) == Some(&busy) {
                continue;
            }
            let patch = json!({"metadata": {"annotations": {DELETION_COST: busy}}});
            let (about, params, patch) =
                (format!("pod {namespace}/{name}"), PatchParams::default(), Patch::Merge(&patch));
            match answer(&about, api.patch(&name, &params, &patch)).await {
                Ok(_) | Err(WorkloadError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether no container of a pod runs that began by `since`.
fn no_container_since(pod: &Pod, since: Timestamp) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let all = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let mut all = all.into_iter().flatten().flatten().peekable();
    all.peek().is_some()
        && all.all(|container| {
            let state = container.state.unwrap_or_default();
            if let Some(running) = state.running {
                // The kubelet tells seconds.
                return running.started_at.is_some_and(|at| at.0 > since + SignedDuration::from_secs(1));
            }
            state.terminated.is_some() || container.last_state.is_some_and(|last| last.terminated.is_some())
        })
}

fn manifest(settings: &WorkerPodSettings, wanted: &WorkersWanted) -> Result<Value, WorkloadError> {
    let lacking = |what: &str| WorkloadError::Refused(what.to_owned());
    let WorkersWanted { namespace, pool, uid, replicas, drain_seconds, template } = wanted;
    let image = template.image.as_ref().or(settings.image.as_ref()).ok_or_else(|| {
        lacking("no image is known for its pods: set template.image, or OSTLER_WORKER_IMAGE of the controller, as the chart does")
    })?;
    let (secret, key) = settings.database_secret.as_ref().ok_or_else(|| {
        lacking("no Secret with the database's URL is known: set OSTLER_WORKER_DATABASE_SECRET of the controller, as the chart does")
    })?;
    let from_secret = |name: &str, secret: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}});
    let mut env = vec![
        from_secret("OSTLER_DATABASE_URL", secret, key),
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
        json!({"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}),
        json!({"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}),
        json!({"name": "OSTLER_LOG", "value": settings.log}),
        json!({"name": "OSTLER_SPOOL_DIR", "value": "/data/spool"}),
    ];
    env.extend(settings.key_secret.as_ref().map(|(secret, key)| from_secret("OSTLER_KEY", secret, key)));
    env.extend(template.env.iter().map(variable));
    let labels = json!({
        "app.kubernetes.io/name": "ostler", "app.kubernetes.io/component": "worker", "app.kubernetes.io/managed-by": "ostler",
        POOL: label(pool),
    });
    let mut container = json!({
        "name": "worker",
        "image": image,
        "args": ["worker", "--pool", pool, "--namespace", namespace, "--listen", "0.0.0.0:9180", "--log-format", "json"],
        "env": env,
        "ports": [{"name": "http", "containerPort": 9180}],
        "startupProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 3},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 3},
        "resources": resources(template),
        // Why it ended, for the status of its pool.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        // Finished results wait here while the database is away.
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    if let Some(policy) = &settings.image_pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": drain_seconds,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    if !settings.image_pull_secrets.is_empty() {
        let secrets: Vec<Value> = settings.image_pull_secrets.iter().map(|name| json!({"name": name})).collect();
        pod["imagePullSecrets"] = json!(secrets);
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name_of(pool), "namespace": namespace, "labels": labels,
            "ownerReferences": [{
                "apiVersion": API_VERSION, "kind": "WorkerPool", "name": pool, "uid": uid, "controller": true, "blockOwnerDeletion": false,
            }],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {POOL: label(pool)}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }))
}

fn resources(template: &WorkerTemplate) -> Value {
    match &template.resources {
        Some(resources) => json!({"requests": resources.requests, "limits": resources.limits}),
        None => json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}),
    }
}

fn variable(variable: &WorkerVariable) -> Value {
    let WorkerVariable { name, value, secret_key_ref } = variable;
    match secret_key_ref {
        Some(from) => json!({"name": name, "valueFrom": {"secretKeyRef": {"name": from.name, "key": from.key}}}),
        None => json!({"name": name, "value": value.clone().unwrap_or_default()}),
    }
}

/// The Deployment of a pool.
fn name_of(pool: &str) -> String {
    label(&format!("ostler-worker-{pool}"))
}

/// A name as a label may have it: a long one is cut, and told apart by its hash.
fn label(name: &str) -> String {
    if name.len() <= LONGEST_LABEL {
        return name.to_owned();
    }
    use sha2::Digest;
    let hash = sha2::Sha256::digest(name.as_bytes());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{hash}", name[..LONGEST_LABEL - 9].trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> WorkersWanted {
        WorkersWanted {
            namespace: "team".into(),
            pool: "smart".into(),
            uid: "u".into(),
            replicas: 2,
            drain_seconds: 30,
            template: WorkerTemplate::default(),
        }
    }

    fn settings() -> WorkerPodSettings {
        WorkerPodSettings {
            image: Some("ostler:1".into()),
            database_secret: Some(("db".into(), "url".into())),
            log: "info".into(),
            ..WorkerPodSettings::default()
        }
    }

    #[test]
    fn a_pool_s_deployment_runs_workers_of_it_and_goes_with_it() {
        let made = manifest(&settings(), &wanted()).unwrap();
        let pod = &made["spec"]["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], 30);
        assert_eq!(
            pod["containers"][0]["args"],
            json!([
                "worker",
                "--pool",
                "smart",
                "--namespace",
                "team",
                "--listen",
                "0.0.0.0:9180",
                "--log-format",
                "json"
            ])
        );
        assert_eq!(pod["containers"][0]["image"], "ostler:1");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(made["spec"]["replicas"], 2);
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        let parsed: Deployment = serde_json::from_value(made).unwrap();
        assert_eq!(parsed.metadata.name.as_deref(), Some("ostler-worker-smart"));
    }

    #[test]
    fn a_pod_has_ended_when_no_container_runs_that_was_there_before() {
        let since: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let running = |at: &str| json!({"state": {"running": {"startedAt": at}}});
        let before = running("2026-03-01T11:59:58Z");
        let after = running("2026-03-01T12:00:09Z");
        let ended = json!({"state": {"terminated": {"exitCode": 137}}});
        let again = json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 137}}});
        let first = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        for (containers, gone, why) in [
            (vec![before.clone()], false, "it runs"),
            (vec![after.clone()], true, "another process runs in its place"),
            (vec![ended.clone()], true, "its container ended"),
            (vec![again], true, "it ended and waits for the next start"),
            (vec![first], false, "nothing of it is known to have ended"),
            (vec![after, before], false, "one of its containers runs on"),
            (vec![running("2026-03-01T12:00:01Z")], false, "seconds are rounded"),
            (vec![], false, "nobody says"),
        ] {
            let with = |mut container: Value| {
                for (key, value) in [
                    ("name", json!("c")),
                    ("image", json!("i")),
                    ("imageID", json!("")),
                    ("ready", json!(true)),
                    ("restartCount", json!(0)),
                ] {
                    container[key] = value;
                }
                container
            };
            let containers: Vec<Value> = containers.into_iter().map(with).collect();
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": containers}})).unwrap();
            assert_eq!(no_container_since(&pod, since), gone, "{why}");
        }
    }

    #[test]
    fn what_the_chart_must_say_is_asked_for() {
        for (settings, word) in [
            (WorkerPodSettings { image: None, ..settings() }, "template.image"),
            (WorkerPodSettings { database_secret: None, ..settings() }, "OSTLER_WORKER_DATABASE_SECRET"),
        ] {
            let said = manifest(&settings, &wanted()).unwrap_err().to_string();
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn a_long_name_fits_a_label_and_stays_its_own() {
        let (a, b) = ("a".repeat(200), format!("{}b", "a".repeat(199)));
        assert_eq!(label("short"), "short");
        assert!(label(&a).len() <= LONGEST_LABEL && label(&a) != label(&b));
    }
}
