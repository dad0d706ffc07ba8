//! A backend in the cluster that refuses gets another pod; the plugin's way in.

use std::time::Duration;

use super::{HEALING, Installed, Team, until};

const ENGINE: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: engine}
spec:
  selector: {matchLabels: {app: engine}}
  template:
    metadata: {labels: {app: engine}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: engine
        image: local/ostler:test
        imagePullPolicy: Never
        args: [simulate, --engine=ollama, "--listen=0.0.0.0:11434", --model=tiny]
        readinessProbe: {tcpSocket: {port: 11434}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: engine}
spec: {selector: {app: engine}, ports: [{port: 11434}]}
"#;

/// What this test asks.
struct Healing(Team);

impl std::ops::Deref for Healing {
    type Target = Team;

    fn deref(&self) -> &Team {
        &self.0
    }
}

impl Healing {
    /// Name and uid of the engine's pods that are not on their way out.
    fn engine_pods(&self) -> String {
        let template = "{{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} {{end}}{{end}}";
        self.kubectl(&["get", "pods", "--selector=app=engine", &format!("--output=go-template={template}")])
    }

    /// A loop that is thought stuck fails the liveness probe after a minute: a controller must outlive that.
    fn await_a_minute_without_restarts(&self) {
        let Installed { cluster, system, .. } = self.installed;
        let of = |field: &str| {
            let path = format!("--output=jsonpath={{.items[*].{field}}}");
            let selector = "--selector=app.kubernetes.io/component=controller";
            cluster.api.kubectl(&["--namespace", system, "get", "pods", selector, &path])
        };
        until("controllers to be 80 s old", Duration::from_secs(120), || {
            let restarts = of("status.containerStatuses[*].restartCount");
            assert_eq!(restarts, "0 0", "no controller is restarted\n{}", self.story());
            let born = of("status.startTime");
            let young = born.split(' ').map(|time| time.parse::<jiff::Timestamp>().expect("a time"));
            let age = young.map(|time| jiff::Timestamp::now().duration_since(time).as_secs()).min().unwrap_or_default();
            if age >= 80 { Ok(()) } else { Err(format!("{age} s")) }
        });
    }

    /// The way in is a port-forward; who may what is the cluster's to say.
    fn answers_as_a_plugin(&self) {
        let admin = self.installed.cluster.api.kubeconfig();
        let (code, screen) = self.plugin(admin, &["status", "--check"]);
        assert!(code == 0 && screen.contains("✓ engine"), "{code} {screen}");
        let (_, events) = self.plugin(admin, &["events", "llm/engine"]);
        assert!(events.contains("llmbackend/engine"), "{events}");

        let (code, said) = self.plugin(admin, &["suspend", "llm/engine"]);
        assert!(code == 0 && said.contains("spec.suspend: true"), "{code} {said}");
        assert_eq!(self.kubectl(&["get", "llm", "engine", "--output=jsonpath={.spec.suspend}"]), "true");
        until("suspended", Duration::from_secs(30), || match self.plugin(admin, &["status"]) {
            (0, screen) if screen.contains("! engine") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(self.plugin(admin, &["resume", "llm/engine"]).0, 0);
        self.await_ready();
        assert_eq!(self.plugin(admin, &["reconcile", "llm/engine"]).0, 0);
        until("the request echoed", Duration::from_secs(30), || {
            match self.kubectl(&["get", "llm", "engine", "--output=jsonpath={.status.lastHandledReconcileAt}"]) {
                echo if echo.is_empty() => Err("no echo".to_owned()),
                _ => Ok(()),
            }
        });

        // Somebody who may forward ports and nothing else of ours.
        let Installed { cluster, system, .. } = self.installed;
        let visitor = cluster.api.service_account(system, "visitor");
        let role = ["create", "role", "visitor", "--verb=get,list,create", "--resource=pods,pods/portforward"];
        let account = format!("--serviceaccount={system}:visitor");
        let binding = ["create", "rolebinding", "visitor", "--role=visitor", &account];
        for args in [&role[..], &binding] {
            cluster.api.kubectl(&[&["--namespace", system], args].concat());
        }
        let (code, said) = self.plugin(&visitor, &["status"]);
        assert!(code == 1 && said.contains("may not list llmbackends"), "{code} {said}");
    }

    fn await_ready(&self) {
        until("the backend to be Ready", Duration::from_secs(90), || {
            let line = self.kubectl(&["get", "llm", "engine", "--no-headers"]);
            match line.split_whitespace().nth(1) {
                Some("True") => Ok(()),
                _ => Err(format!("{line}\n{}", self.story())),
            }
        });
    }
}

#[tokio::test]
async fn real_chart_installed_serves_and_replaces_the_pod_of_a_backend_that_refuses() {
    // Blocks while it is installed.
    let installed = tokio::task::spawn_blocking(|| Installed::of(HEALING));
    let ostler = Healing(installed.await.expect("installed"));
    ostler.apply(ENGINE);
    ostler.kubectl(&["rollout", "status", "deployment/engine", "--timeout=60s"]);
    let address = ostler.kubectl(&["get", "service", "engine", "--output=jsonpath={.spec.clusterIP}"]);
    let backend = format!(
        r#"
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {{name: engine}}
spec:
  engine: Ollama
  url: http://{address}:11434
  models: [{{name: tiny}}]
  probe: {{periodSeconds: 1, failureThreshold: 3, startupSeconds: 30}}
  recovery: {{workloadRef: {{kind: Deployment, name: engine}}}}
"#
    );
    ostler.apply(&backend);
    ostler.await_ready();

    ostler.answers_as_a_plugin();

    ostler::net::install_crypto();
    let before = ostler.engine_pods();
    let faults = format!("http://{address}:11434/simulate/faults");
    let set = reqwest::Client::new().put(&faults).body(r#"["refuse"]"#).send().await.expect("reach the engine");
    assert!(set.status().is_success(), "{}: {set:?}", faults);
    until("another pod", Duration::from_secs(90), || match ostler.engine_pods() {
        pods if pods.trim().is_empty() || pods == before => Err(format!("{pods}\n{}", ostler.story())),
        _ => Ok(()),
    });
    ostler.await_ready();

    ostler.await_a_minute_without_restarts();
}
