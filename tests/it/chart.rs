//! The Helm chart: that Kubernetes takes what it renders, and that its controller may do what it needs and no more.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use ostler::cli::doctor;
use serde_json::Value;

use crate::real::{ApiServer, Chart};

/// Everything that the chart can bring and that needs no other operator.
const MORE: &[&str] = &[
    r#"workers=[{"pool":"smart"},{"pool":"big","replicas":0,"drainSeconds":60,"resources":{"limits":{"memory":"1Gi"}}}]"#,
    "gateway.enabled=true",
    "api.expose=true",
    r#"tls.secretName="certificate""#,
    r#"networkPolicy.metricsFrom=[{"namespaceSelector":{}}]"#,
    r#"networkPolicy.gatewayFrom=[{"podSelector":{}}]"#,
    r#"networkPolicy.egress={"enabled":true,"cidrs":["10.0.0.0/8"]}"#,
    "metrics.dashboard.enabled=true",
    r#"global={"of":"a parent chart"}"#,
];

#[test]
fn real_chart_passes_its_linter_and_every_manifest_is_one_that_kubernetes_takes() {
    let server = ApiServer::shared();
    let cases: &[&[&str]] = &[
        &[],
        &["replicas=1", "metrics.annotations=false", r#"mode="Observe""#],
        &["replicas=1", "metrics.annotations=false", r#"externalUrl="https://ostler.example:8443""#],
        &[r#"watchNamespaces=["default","kube-system"]"#, r#"secretNamespaces=["default","kube-public"]"#],
        &["clusterWide=true", r#"serviceAccount={"create":true,"name":"mine","annotations":{"a":"b"}}"#],
        &["readLogs=true", "patchWorkloads=true", "rbac.aggregate=true", "crds.keep=false"],
        &["makeWorkers=true", r#"sealing={"existingSecret":"ostler-key"}"#, "crds.enabled=false"],
        &["rbac.create=false", r#"serviceAccount={"create":false,"name":"theirs"}"#, "networkPolicy.enabled=false"],
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
        MORE,
    ];
    for case in cases {
        let chart = Chart::new("default", case);
        chart.lint().unwrap_or_else(|complaint| panic!("{case:?}: {complaint}"));
        let manifests = chart.render(&[]).unwrap_or_else(|complaint| panic!("{case:?}: {complaint}"));
        assert_eq!(Ok(&manifests), chart.render(&[]).as_ref(), "rendered again: the same");
        // Definitions that other tests have applied are whoever's: forced.
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"];
        server.try_kubectl(&apply, &manifests).unwrap_or_else(|complaint| panic!("{case:?}: {complaint}\n{manifests}"));
    }
}

/// Those of operators that are not there: their fields are checked by those operators' own tools elsewhere.
#[test]
fn real_chart_brings_monitors_alerts_and_certificates_where_they_are_asked_for() {
    let values = [
        r#"metrics.podMonitor={"enabled":true,"interval":"15s","labels":{"release":"prometheus"}}"#,
        r#"metrics.prometheusRule={"enabled":true,"runbooks":"https://docs.example/runbooks"}"#,
        "gateway.enabled=true",
        r#"tls.certManager={"issuerRef":{"name":"ca","kind":"Issuer"},"dnsNames":["llm.example"]}"#,
    ];
    let manifests = Chart::new("team", &values).render(&[]).expect("render");
    let of = |kind: &str| {
        let line = format!("\nkind: {kind}\n");
        let document = manifests.split("\n---\n").find(|document| document.contains(&line));
        serde_saphyr::from_str::<Value>(document.unwrap_or_else(|| panic!("no {kind}"))).expect("YAML")
    };
    let monitor = of("PodMonitor");
    assert_eq!(monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"], true);
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let rules = of("PrometheusRule")["spec"]["groups"][0]["rules"].clone();
    assert!(rules.as_array().is_some_and(|rules| rules.len() > 10), "{rules}");
    assert_eq!(rules[0]["annotations"]["runbook_url"], "https://docs.example/runbooks/OstlerHasNoLeader.md");
    let certificate = of("Certificate")["spec"].clone();
    assert_eq!(certificate["secretName"], "ostler-tls");
    let names = certificate["dnsNames"].to_string();
    assert!(names.contains("ostler-gateway.team.svc") && names.contains("llm.example"), "{names}");
    assert!(manifests.contains("{secretName: ostler-tls, defaultMode: 420}"), "the gateway has it");
}

#[test]
fn real_chart_refuses_what_it_does_not_know_and_says_what_it_lacks() {
    let cases = [
        ("replicaCount=3", "replicaCount"),
        (r#"watchNamespaces=["Not A Name"]"#, "watchNamespaces"),
        (r#"mode="Watch""#, "mode"),
        (r#"workers=[{"replicas":1}]"#, "pool"),
        (r#"networkPolicy.egress.cidrs=["everywhere"]"#, "cidrs"),
        (r#"externalUrl="https://ostler.example/below""#, "externalUrl"),
        (r#"database={"existingSecret":"","key":"url"}"#, "name the Secret that holds the URL"),
        (r#"serviceAccount={"create":false}"#, "say which service account to use"),
        ("gateway.enabled=true", "gateway.enabled: only by TLS"),
        ("api.expose=true", "api.expose: only by TLS"),
    ];
    for (value, word) in cases {
        let complaint = Chart::new("default", &[value]).render(&[]).expect_err(value);
        assert!(complaint.contains(word), "{value}: {complaint}");
    }
}

#[test]
fn real_chart_tells_what_is_off_and_the_line_that_turns_it_on() {
    let off = Chart::new("team", &[]).notes();
    for value in Chart::ABILITIES.iter().chain(&["clusterWide", "rbac.aggregate"]) {
        assert!(off.contains(&format!("--set {value}=true")), "{value}: {off}");
    }
    assert!(off.contains("Ostler watches team.") && off.contains("'secretNamespaces={team}'"), "{off}");
    let on = Chart::able("team", &["other"]).with("clusterWide=true").notes();
    assert!(!Chart::ABILITIES.iter().any(|ability| on.contains(&format!("{ability}=true"))), "{on}");
    assert!(on.contains("all namespaces") && on.contains("are read in: team, other."), "{on}");
}

#[test]
fn real_chart_exposes_nothing_but_health_unless_told() {
    let manifests = Chart::new("team", &[]).render(&[]).expect("render");
    assert!(!manifests.contains("kind: Service\n") && manifests.contains("--listen=127.0.0.1:9180"), "{manifests}");
    let policy = Chart::new("team", &[]).render(&["networkpolicy.yaml"]).expect("render");
    assert!(policy.contains("ingress: []"), "{policy}");
    let exposed = Chart::new("team", MORE).render(&[]).expect("render");
    for argument in
        ["--listen=127.0.0.1:9180", "--expose=0.0.0.0:9443", "--address=0.0.0.0:9181", "--tls-cert=/tls/tls.crt"]
    {
        assert!(exposed.contains(argument), "{argument}");
    }
    assert!(!exposed.contains("0.0.0.0:9180"), "the API is in the clear on loopback only");
}

#[test]
fn real_chart_keeps_definitions_only_where_it_is_told() {
    let kinds = ostler::api::Kind::ALL.len();
    for (value, keeps) in [("crds.keep=true", true), ("crds.keep=false", false)] {
        let crds = Chart::new("team", &[value]).render(&["crds.yaml"]).expect("render");
        assert_eq!(crds.matches("kind: CustomResourceDefinition").count(), kinds);
        for annotation in ["helm.sh/resource-policy: keep", "argocd.argoproj.io/sync-options: Prune=false"] {
            assert_eq!(crds.matches(annotation).count(), if keeps { kinds } else { 0 }, "{value}: {annotation}");
        }
        assert_eq!(crds.matches("ostler.dev/release: ").count(), kinds);
    }
    assert!(
        !Chart::new("team", &["crds.enabled=false"]).render(&[]).expect("render").contains("CustomResourceDefinition")
    );
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

/// What a watched namespace always needs.
const NEEDED: &[(&str, &str)] = &[
    ("list", "llmbackends.ostler.dev"),
    ("watch", "hostagents.ostler.dev"),
    ("patch", "llmbackends.ostler.dev/status"),
    ("patch", "hostagents.ostler.dev/status"),
    ("create", "events.events.k8s.io"),
    ("patch", "events.events.k8s.io"),
    ("watch", "experts.ostler.dev"),
    ("list", "taskqueues.ostler.dev"),
    ("patch", "workerpools.ostler.dev/status"),
    ("patch", "taskschedules.ostler.dev/status"),
    ("watch", "containerhealthchecks.ostler.dev"),
    ("patch", "containerhealthchecks.ostler.dev/status"),
    ("watch", "callers.ostler.dev"),
    ("patch", "callers.ostler.dev/status"),
];

/// What each value of the chart adds; several may add the same.
const ADDED: &[(&str, &[(&str, &str)])] = &[
    (
        "restartWorkloads",
        &[
            ("list", "pods"),
            ("delete", "pods"),
            ("get", "deployments.apps"),
            ("get", "statefulsets.apps"),
            ("get", "daemonsets.apps"),
            ("list", "replicasets.apps"),
        ],
    ),
    ("readLogs", &[("get", "pods/log"), ("list", "pods"), ("get", "deployments.apps"), ("list", "replicasets.apps")]),
    ("resizePods", &[("patch", "pods/resize"), ("list", "pods"), ("get", "deployments.apps")]),
    ("patchWorkloads", &[("patch", "deployments.apps"), ("patch", "statefulsets.apps"), ("patch", "daemonsets.apps")]),
    ("scaleWorkers", &[("get", "deployments.apps"), ("patch", "deployments.apps/scale"), ("list", "pods")]),
    (
        "makeWorkers",
        &[
            ("get", "deployments.apps"),
            ("create", "deployments.apps"),
            ("patch", "deployments.apps"),
            ("list", "pods"),
            ("patch", "pods"),
        ],
    ),
    ("readConfigMaps", &[("get", "configmaps")]),
];

/// Whatever is switched on.
const NEVER: &[(&str, &str)] = &[
    ("patch", "llmbackends.ostler.dev"),
    ("update", "llmbackends.ostler.dev/status"),
    ("delete", "llmbackends.ostler.dev"),
    ("create", "hostagents.ostler.dev"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("create", "secrets"),
    ("create", "pods"),
    ("create", "pods/exec"),
    ("delete", "deployments.apps"),
    ("update", "deployments.apps"),
    ("list", "deployments.apps"),
    ("list", "configmaps"),
    ("patch", "containerhealthchecks.ostler.dev"),
    ("patch", "callers.ostler.dev"),
    ("patch", "workerpools.ostler.dev"),
    ("create", "roles.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("impersonate", "users"),
];

/// What some value adds, and these don't.
fn not_added_by(values: &[&str]) -> Vec<(&'static str, &'static str)> {
    let of = |wanted: bool| {
        ADDED
            .iter()
            .filter(move |(value, _)| values.contains(value) == wanted)
            .flat_map(|(_, rights)| rights.iter().copied())
    };
    let added: Vec<_> = of(true).collect();
    // Whoever may act on pods may look at what runs them.
    let looks = ["restartWorkloads", "readLogs", "resizePods", "patchWorkloads"].iter().any(|one| values.contains(one));
    let is_look = |(verb, resource): &(&str, &str)| {
        looks
            && matches!(
                (*verb, *resource),
                ("list", "pods" | "replicasets.apps")
                    | ("get", "deployments.apps" | "statefulsets.apps" | "daemonsets.apps")
            )
    };
    of(false).filter(|right| !added.contains(right) && !is_look(right)).collect()
}

#[tokio::test]
async fn real_chart_grants_its_own_namespace_and_nothing_that_is_not_asked_for() {
    let server = ApiServer::shared();
    server.install_crds();
    let (home, other) = (server.namespace(), server.namespace());
    Chart::new(&home, &[]).service_account(server);
    let rights = Rights::of(server, &home).await;
    for (verb, resource) in NEEDED {
        assert!(rights.allow(&home, verb, resource).await, "needs to {verb} {resource}");
        assert!(!rights.allow(&other, verb, resource).await, "must not {verb} {resource} elsewhere");
    }
    for namespace in [&home, &other] {
        for (verb, resource) in not_added_by(&[]).iter().chain(NEVER).chain(&[("get", "secrets")]) {
            assert!(!rights.allow(namespace, verb, resource).await, "must not {verb} {resource}");
        }
    }
    assert!(rights.allow(&home, "create", "tokenreviews.authentication.k8s.io").await);
    assert!(rights.allow(&home, "create", "subjectaccessreviews.authorization.k8s.io").await);
}

#[tokio::test]
async fn real_chart_adds_for_each_value_its_rights_and_no_others() {
    let server = ApiServer::shared();
    server.install_crds();
    for (value, added) in ADDED {
        let (home, other) = (server.namespace(), server.namespace());
        Chart::new(&home, &[&format!("{value}=true")]).service_account(server);
        let rights = Rights::of(server, &home).await;
        for (verb, resource) in *added {
            assert!(rights.allow(&home, verb, resource).await, "{value}: needs to {verb} {resource}");
            assert!(!rights.allow(&other, verb, resource).await, "{value}: must not {verb} {resource} elsewhere");
        }
        for (verb, resource) in not_added_by(&[*value]).iter().chain(NEVER).chain(&[("get", "secrets")]) {
            assert!(!rights.allow(&home, verb, resource).await, "{value}: must not {verb} {resource}");
        }
        // What `ostler doctor` takes for needed is what the chart gives.
        for &(verb, group, resource) in doctor::rights::of_ability(value) {
            let (plural, sub) = resource.split_once('/').unwrap_or((resource, ""));
            let named = format!("{plural}.{group}/{sub}").replace("./", "/");
            let named = named.trim_end_matches(['/', '.']);
            assert!(rights.allow(&home, verb, named).await, "{value}: {verb} {named}");
        }
    }
}

#[tokio::test]
async fn real_chart_reaches_the_namespaces_that_are_named_and_all_only_where_it_is_said() {
    let server = ApiServer::shared();
    server.install_crds();
    let (home, watched, secrets, other) =
        (server.namespace(), server.namespace(), server.namespace(), server.namespace());
    let values = [format!(r#"watchNamespaces=["{watched}"]"#), format!(r#"secretNamespaces=["{secrets}"]"#)];
    Chart::new(&home, &[&values[0], &values[1], "restartWorkloads=true"]).service_account(server);
    let rights = Rights::of(server, &home).await;
    for (verb, resource) in NEEDED.iter().chain(&[("delete", "pods")]) {
        for (namespace, reached) in [(&home, true), (&watched, true), (&secrets, false), (&other, false)] {
            assert_eq!(rights.allow(namespace, verb, resource).await, reached, "{verb} {resource} in {namespace}");
        }
    }
    for (namespace, readable) in [(&home, false), (&watched, false), (&secrets, true), (&other, false)] {
        assert_eq!(rights.allow(namespace, "get", "secrets").await, readable, "secrets of {namespace}");
    }
    let wide = server.namespace();
    let own = format!(r#"secretNamespaces=["{wide}"]"#);
    Chart::new(&wide, &["clusterWide=true", &own]).service_account(server);
    let rights = Rights::of(server, &wide).await;
    for (verb, resource) in NEEDED {
        assert!(rights.allow(&other, verb, resource).await, "clusterWide: {verb} {resource}");
    }
    for (verb, resource) in not_added_by(&[]).iter().chain(&[("get", "secrets")]) {
        assert!(!rights.allow(&other, verb, resource).await, "clusterWide: must not {verb} {resource}");
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
    let mut crds = files("crds");
    crds.remove("kustomization.yaml");
    assert_eq!(crds, files("charts/ostler/files/crds"), "run: cp crds/ostler* charts/ostler/files/crds/");
}
