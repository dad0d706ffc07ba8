//! Workloads in a real cluster.

use std::time::Duration;

use ostler::{
    api::{WorkloadKind, WorkloadRef},
    runtimes::{PodSeen, WorkloadError, Workloads},
};

use crate::real::{ApiServer, Chart, Cluster};

fn workload(kind: WorkloadKind, name: &str) -> WorkloadRef {
    WorkloadRef { kind, name: name.to_owned() }
}

fn manifests(namespace: &str) -> String {
    let of = |kind: &str, name: &str, more: &str| {
        format!(
            r#"
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  {more}
  selector: {{matchLabels: {{app: same}}, matchExpressions: [{{key: of, operator: In, values: [{name}]}}]}}
  template:
    metadata: {{labels: {{app: same, of: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {{name: main, image: "local/busybox:1", imagePullPolicy: Never, command: [sleep, "3600"]}}
"#
        )
    };
    let bare = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: bare, namespace: {namespace}, labels: {{app: same, of: set}}, ownerReferences: []}}
spec:
  containers:
  - {{name: main, image: "local/busybox:1", imagePullPolicy: Never, command: [sleep, "3600"]}}
"#
    );
    [
        of("Deployment", "many", "replicas: 2"),
        of("StatefulSet", "set", "replicas: 1\n  serviceName: set"),
        of("DaemonSet", "each", ""),
        bare,
    ]
    .join("---")
}

/// Polls until the workload has as many ready pods as it should.
async fn ready(workloads: &Workloads, namespace: &str, of: &WorkloadRef, not: Option<&str>) -> Vec<PodSeen> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    loop {
        let seen = workloads.pods(namespace, of).await.expect("the pods");
        let fresh: Vec<PodSeen> = seen
            .pods
            .iter()
            .filter(|pod| pod.ready && !pod.deleting && Some(pod.uid.as_str()) != not)
            .cloned()
            .collect();
        if seen.desired > 0 && fresh.len() == usize::try_from(seen.desired).expect("not negative") {
            return fresh;
        }
        assert!(tokio::time::Instant::now() < deadline, "{of:?}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn real_workloads_pods_are_found_by_owner_and_replaced_by_uid() {
    let cluster = Cluster::shared();
    let namespace = cluster.api.namespace();
    cluster.api.apply(&manifests(&namespace));
    // As the controller: what the chart grants must do.
    let account = Chart::able(&namespace, &[]).service_account(&cluster.api);
    let client = ApiServer::client(&account, &namespace).await;
    let workloads = Workloads::new(Some(client));
    for (kind, name, count) in [
        (WorkloadKind::Deployment, "many", 2),
        (WorkloadKind::StatefulSet, "set", 1),
        (WorkloadKind::DaemonSet, "each", 1),
    ] {
        let of = workload(kind, name);
        let pods = ready(&workloads, &namespace, &of, None).await;
        assert_eq!(pods.len(), count, "{kind:?}");
        assert!(pods.iter().all(|pod| pod.name.starts_with(name) && pod.node.is_some()), "{pods:?}");

        let victim = &pods[0];
        let other = workloads.delete_pod(&namespace, &victim.name, "00000000-0000-0000-0000-000000000000").await;
        assert!(matches!(&other, Err(error) if error.is_gone()), "another uid: {other:?}");
        workloads.delete_pod(&namespace, &victim.name, &victim.uid).await.expect("delete");
        let after = ready(&workloads, &namespace, &of, Some(&victim.uid)).await;
        assert_eq!(after.len(), count, "{kind:?}");
    }
    let missing = workloads.pods(&namespace, &workload(WorkloadKind::Deployment, "none")).await;
    assert!(matches!(missing, Err(WorkloadError::NotFound(_))), "{missing:?}");
    let gone = workloads.delete_pod(&namespace, "none", "0").await;
    assert!(matches!(&gone, Err(error) if error.is_gone()), "{gone:?}");
}
