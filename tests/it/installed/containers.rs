//! Containers of pods on a real kubelet: out of memory, crash loops, and who only waits for something else.

use std::time::Duration;

use super::{CONTAINERS, Installed, Team, until};

const LONG: Duration = Duration::from_secs(240);

/// It needs 50 MB for a moment, and then serves. Before that it runs for long enough to be seen running.
const EAT: &str = "sleep 20; head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null || exit $?; echo full; while :; do sleep 1; done";

async fn team() -> Team {
    // Blocks while it is installed.
    tokio::task::spawn_blocking(|| Installed::of(CONTAINERS)).await.expect("installed")
}

/// A Deployment of one pod, and a check of it.
fn manifests(name: &str, resources: &str, script: &str, check: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: local/busybox:1
        imagePullPolicy: Never
        command: [sh, -c, "{script}"]
        resources: {{{resources}}}
---
apiVersion: ostler.dev/v1alpha1
kind: ContainerHealthCheck
metadata: {{name: {name}}}
spec:
  target: {{kubernetes: {{workloadRef: {{kind: Deployment, name: {name}}}}}}}
{check}
"#
    )
}

impl Team {
    /// A Deployment of one pod, and a check of it.
    fn kept(&self, name: &str, resources: &str, script: &str, check: &str) {
        self.apply(&manifests(name, resources, script, check));
    }

    /// As whoever deploys does it: what is declared wins.
    fn deploy_again(&self, manifests: &str) {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.try_kubectl(&args, manifests).unwrap_or_else(|complaint| panic!("apply: {complaint}"));
    }

    /// The uids of its pods.
    fn uids(&self, name: &str) -> String {
        let selector = format!("--selector=app={name}");
        self.kubectl(&["get", "pods", &selector, "--output=jsonpath={.items[*].metadata.uid}"])
    }

    fn of_pod(&self, name: &str, path: &str) -> String {
        let (selector, path) = (format!("--selector=app={name}"), format!("--output=jsonpath={{.items[0]{path}}}"));
        self.kubectl(&["get", "pods", &selector, &path])
    }

    fn until_check(&self, name: &str, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let what = format!("chc/{name}");
        until(&format!("{what} {path}"), LONG, || match self.field(&what, path) {
            seen if wanted(&seen) => Ok(()),
            seen => Err(format!("{seen}\n{}\n{}", self.field(&what, ".status"), self.story())),
        });
        self.field(&what, path)
    }

    /// Until it had the memory that it needs, and is well.
    fn until_full(&self, name: &str) {
        let logs = ["logs", &format!("--selector=app={name}")];
        until(&format!("{name} full"), LONG, || match self.try_kubectl(&logs, "") {
            Ok(said) if said.contains("full") => Ok(()),
            other => Err(format!("{other:?}\n{}", self.story())),
        });
        self.until_check(name, ".status.state", |state| state == "Healthy");
    }

    /// What the controllers wrote about objects whose name begins so.
    fn writes_about(&self, name: &str) -> Vec<String> {
        let all = self.installed.cluster.api.writes(&self.installed.system);
        let about = |write: &String| write.split(' ').nth(2).is_some_and(|object| object.starts_with(name));
        all.into_iter().filter(|write| about(write) && !write.contains(" events ")).collect()
    }
}

#[tokio::test]
async fn real_kubelet_out_of_memory_is_resized_in_place_or_only_proposed_and_a_crash_loop_is_neither() {
    let team = team().await;
    let memory = |policy: &str| format!("  outOfMemory: {{policy: {policy}, minIncrease: 200Mi, max: 300Mi}}");
    // Guaranteed: requests must go on being equal to limits.
    team.kept("grows", "limits: {cpu: 200m, memory: 20Mi}", EAT, &memory("Resize"));
    team.kept("asks", "limits: {memory: 20Mi}", EAT, &memory("Propose"));
    team.kept("loops", "limits: {memory: 20Mi}", "exit 3", &memory("Resize"));

    let pod = team.uids("grows");
    team.until_check("grows", ".status.containers[0].memoryLimit", |limit| limit == "220Mi");
    team.until_full("grows");
    assert_eq!(team.uids("grows"), pod, "the same pod\n{}", team.story());
    let resources = team.of_pod("grows", ".status.containerStatuses[0].resources");
    assert_eq!(resources.matches("230686720").count() + resources.matches("220Mi").count(), 2, "{resources}");
    assert_eq!(team.of_pod("grows", ".status.qosClass"), "Guaranteed");
    let counted = team.field("chc/grows", ".status.containers[0].outOfMemoryCount");
    assert!(counted.parse::<u32>().is_ok_and(|count| count >= 1), "{counted}");

    let proposal = team.until_check("asks", ".status.proposal", |proposal| proposal.contains("220Mi"));
    assert!(proposal.contains("- name: main"), "{proposal}");
    team.until_check("asks", ".status.state", |state| state == "OutOfMemory");
    let written = team.writes_about("asks");
    let is_status = |write: &String| write.starts_with("patch containerhealthchecks/status asks ");
    assert!(!written.is_empty() && written.iter().all(is_status), "nothing but status: {written:?}");

    team.until_check("loops", ".status.state", |state| state == "CrashLooping");
    let entry = team.field("chc/loops", ".status.containers[0]");
    assert!(entry.contains(r#""exitCode":3"#) && entry.contains(r#""memoryLimit":"20Mi""#), "{entry}");
    assert!(team.writes_about("loops-").is_empty(), "its kubelet restarts it: {:?}", team.writes_about("loops-"));
}

#[tokio::test]
async fn real_kubelet_a_deployment_that_waits_for_a_backend_is_not_restarted_while_that_is_down() {
    let team = team().await;
    team.apply(
        "
apiVersion: ostler.dev/v1alpha1
kind: LLMBackend
metadata: {name: away}
spec: {engine: Ollama, url: 'http://192.0.2.1:11434', models: [{name: tiny}]}
",
    );
    let probe = "  probe: {http: {url: 'http://HOST:8080/'}, periodSeconds: 1, failureThreshold: 2, startupSeconds: 1}";
    let waits = format!("{probe}\n  dependsOn: [{{kind: LLMBackend, name: away}}]");
    team.kept("waits", "", "while :; do sleep 1; done", &waits);
    let message = ".status.conditions[?(@.type=='Ready')].message";
    team.until_check("waits", message, |said| said.contains("probe fails") && said.contains("LLMBackend away"));
    assert_eq!(team.field("chc/waits", ".status.state"), "WaitingForDependency");
    let pod = team.uids("waits");
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(team.uids("waits"), pod, "left alone");

    // Without the backend as its excuse it is replaced.
    team.kubectl(&["patch", "chc", "waits", "--type=merge", "--patch", r#"{"spec": {"dependsOn": null}}"#]);
    until("another pod", LONG, || match team.uids("waits") {
        uids if uids.is_empty() || uids.contains(&pod) => Err(format!("{uids}\n{}", team.story())),
        _ => Ok(()),
    });
}

#[tokio::test]
async fn real_kubelet_a_limit_is_written_into_the_workload_once_and_whoever_takes_it_back_is_not_fought() {
    let team = team().await;
    let policy = "  outOfMemory: {policy: PatchWorkload, minIncrease: 200Mi, max: 300Mi}";
    let declared = manifests("written", "limits: {memory: 20Mi}", EAT, policy);
    team.apply(&declared);
    let limit = ".spec.template.spec.containers[0].resources.limits.memory";
    until("the limit in the template", LONG, || match team.field("deployment/written", limit) {
        seen if seen == "230686720" || seen == "220Mi" => Ok(()),
        seen => Err(format!("{seen}\n{}", team.story())),
    });
    let managers = team.kubectl(&["get", "deployment/written", "--show-managed-fields", "--output=json"]);
    assert!(managers.contains(r#""manager": "ostler-memory""#), "a field manager of its own");
    team.until_full("written");

    team.deploy_again(&declared);
    team.until_check("written", ".status.state", |state| state == "FieldContested");
    assert_eq!(team.field("deployment/written", limit), "20Mi");
    let patched =
        || team.writes_about("written").iter().filter(|w| w.contains("deployments") && w.ends_with(" 200")).count();
    assert_eq!(patched(), 1, "{:?}", team.writes_about("written"));
}
