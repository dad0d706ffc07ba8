//! The Helm chart: that Kubernetes takes what it renders, and that its controller may do what it needs and no more.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;

use crate::real::{ApiServer, Chart};

#[test]
fn real_chart_passes_its_linter_and_every_manifest_is_one_that_kubernetes_takes() {
    let server = ApiServer::shared();
    let cases: &[&[&str]] = &[
        &[],
        &["replicas=1", "metrics.annotations=false", r#"externalUrl="https://ostler.example:8443""#],
        &[r#"watchNamespaces=["default","kube-system"]"#, r#"secretNamespaces=["default","kube-public"]"#],
        &["rbac.workloadRecovery=false", r#"serviceAccount={"create":true,"name":"mine","annotations":{"a":"b"}}"#],
        &["rbac.containers=false", "rbac.patchWorkloads=true"],
        &["rbac.workerPools=false", r#"sealing={"existingSecret":"ostler-key"}"#],
        &["rbac.create=false", r#"serviceAccount={"create":false,"name":"theirs"}"#],
        &[
            r#"imagePullSecrets=[{"name":"registry"}]"#,
            r#"podAnnotations={"a":"b"}"#,
            r#"podLabels={"c":"d"}"#,
            r#"nodeSelector={"kubernetes.io/os":"linux"}"#,
            r#"tolerations=[{"key":"a","operator":"Exists"}]"#,
            r#"affinity={"nodeAffinity":{}}"#,
            r#"priorityClassName="system-cluster-critical""#,
            r#"extraEnv=[{"name":"OTEL_EXPORTER_OTLP_ENDPOINT","value":"http://collector:4318"}]"#,
        ],
    ];
    for case in cases {
        let chart = Chart::new("default", case);
        chart.lint().unwrap_or_else(|complaint| panic!("{case:?}: {complaint}"));
        let manifests = chart.render(&[]).unwrap_or_else(|complaint| panic!("{case:?}: {complaint}"));
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        server.try_kubectl(&apply, &manifests).unwrap_or_else(|complaint| panic!("{case:?}: {complaint}\n{manifests}"));
    }
}

#[test]
fn real_chart_refuses_what_it_does_not_know_and_says_what_it_lacks() {
    let cases = [
        ("replicaCount=3", "replicaCount"),
        (r#"watchNamespaces=["Not A Name"]"#, "watchNamespaces"),
        (r#"externalUrl="https://ostler.example/below""#, "externalUrl"),
        (r#"database={"existingSecret":"","key":"url"}"#, "name the Secret that holds the URL"),
        (r#"serviceAccount={"create":false}"#, "say which service account to use"),
    ];
    for (value, word) in cases {
        let complaint = Chart::new("default", &[value]).render(&[]).expect_err(value);
        assert!(complaint.contains(word), "{value}: {complaint}");
    }
}

/// Asks, as administrator, what the chart's service account of one namespace may do.
struct Rights {
    reviews: Api<SubjectAccessReview>,
    account: String,
}

impl Rights {
    async fn of(server: &ApiServer, home: &str) -> Self {
        let client = ApiServer::client(server.kubeconfig(), home).await;
        Self { reviews: Api::all(client), account: format!("system:serviceaccount:{home}:ostler") }
    }

    /// `resource` is `plural.group` or `plural.group/subresource`; the core group has no name.
    async fn allow(&self, namespace: &str, verb: &str, resource: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.account.clone()),
                groups: Some(vec!["system:serviceaccounts".into(), "system:authenticated".into()]),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(namespace.into()),
                    verb: Some(verb.into()),
                    group: Some(group.into()),
                    resource: Some(plural.into()),
                    subresource: Some(subresource.into()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = self.reviews.create(&Default::default(), &review).await.expect("review the access");
        answer.status.expect("an answer").allowed
    }
}

const NEEDED: &[(&str, &str)] = &[
    ("list", "llmbackends.ostler.dev"),
    ("watch", "hostagents.ostler.dev"),
    ("patch", "llmbackends.ostler.dev/status"),
    ("patch", "hostagents.ostler.dev/status"),
    ("create", "events.events.k8s.io"),
    ("patch", "events.events.k8s.io"),
    ("list", "pods"),
    ("delete", "pods"),
    ("get", "deployments.apps"),
    ("get", "statefulsets.apps"),
    ("get", "daemonsets.apps"),
    ("list", "replicasets.apps"),
    ("watch", "experts.ostler.dev"),
    ("list", "taskqueues.ostler.dev"),
    ("patch", "workerpools.ostler.dev/status"),
    ("patch", "taskschedules.ostler.dev/status"),
    ("get", "configmaps"),
    ("create", "deployments.apps"),
    ("patch", "deployments.apps"),
    ("patch", "pods"),
    ("watch", "containerhealthchecks.ostler.dev"),
    ("patch", "containerhealthchecks.ostler.dev/status"),
    ("watch", "callers.ostler.dev"),
    ("patch", "callers.ostler.dev/status"),
    ("get", "pods/log"),
    ("patch", "pods/resize"),
];

const NEVER: &[(&str, &str)] = &[
    ("patch", "llmbackends.ostler.dev"),
    ("update", "llmbackends.ostler.dev/status"),
    ("delete", "llmbackends.ostler.dev"),
    ("create", "hostagents.ostler.dev"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("delete", "deployments.apps"),
    ("patch", "statefulsets.apps"),
    ("patch", "containerhealthchecks.ostler.dev"),
    ("patch", "callers.ostler.dev"),
    ("update", "deployments.apps"),
    ("list", "deployments.apps"),
    ("list", "configmaps"),
    ("patch", "workerpools.ostler.dev"),
    ("create", "roles.rbac.authorization.k8s.io"),
    ("impersonate", "users"),
];

#[tokio::test]
async fn real_chart_grants_what_the_controller_needs_and_no_more() {
    let server = ApiServer::shared();
    server.install_crds();
    let (home, other) = (server.namespace(), server.namespace());
    Chart::new(&home, &[]).service_account(server);
    let rights = Rights::of(server, &home).await;
    for namespace in [&home, &other] {
        for (verb, resource) in NEEDED {
            assert!(rights.allow(namespace, verb, resource).await, "needs to {verb} {resource}");
        }
        for (verb, resource) in NEVER {
            assert!(!rights.allow(namespace, verb, resource).await, "must not {verb} {resource}");
        }
    }
    assert!(rights.allow(&home, "get", "secrets").await);
    assert!(!rights.allow(&other, "get", "secrets").await, "to watch a namespace is not to read its secrets");
    assert!(rights.allow(&home, "create", "tokenreviews.authentication.k8s.io").await);
    assert!(rights.allow(&home, "create", "subjectaccessreviews.authorization.k8s.io").await);
}

#[tokio::test]
async fn real_chart_bound_to_namespaces_reaches_no_other() {
    let server = ApiServer::shared();
    server.install_crds();
    let (home, watched, secrets, other) =
        (server.namespace(), server.namespace(), server.namespace(), server.namespace());
    let values = [format!(r#"watchNamespaces=["{watched}"]"#), format!(r#"secretNamespaces=["{secrets}"]"#)];
    Chart::new(&home, &[&values[0], &values[1]]).service_account(server);
    let rights = Rights::of(server, &home).await;
    for (verb, resource) in NEEDED {
        assert!(rights.allow(&watched, verb, resource).await, "needs to {verb} {resource}");
        for namespace in [&home, &secrets, &other] {
            assert!(!rights.allow(namespace, verb, resource).await, "{verb} {resource} in {namespace}");
        }
    }
    for (namespace, readable) in [(&home, true), (&watched, true), (&secrets, true), (&other, false)] {
        assert_eq!(rights.allow(namespace, "get", "secrets").await, readable, "secrets of {namespace}");
    }
}

#[tokio::test]
async fn real_chart_without_recovery_and_pools_touches_no_workload() {
    let server = ApiServer::shared();
    let home = server.namespace();
    let without = ["rbac.workloadRecovery=false", "rbac.workerPools=false", "rbac.containers=false"];
    Chart::new(&home, &without).service_account(server);
    let rights = Rights::of(server, &home).await;
    for (verb, resource) in [
        ("delete", "pods"),
        ("list", "pods"),
        ("get", "deployments.apps"),
        ("create", "deployments.apps"),
        ("patch", "pods"),
        ("list", "replicasets.apps"),
    ] {
        assert!(!rights.allow(&home, verb, resource).await, "must not {verb} {resource}");
    }
}

fn files(folder: &str) -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    entries
        .map(|entry| {
            let path = entry.expect("read the folder").path();
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text)
        })
        .collect()
}

#[test]
fn the_chart_carries_the_crds_of_the_repository() {
    assert_eq!(files("crds"), files("charts/ostler/crds"), "run: cp crds/* charts/ostler/crds/");
}
