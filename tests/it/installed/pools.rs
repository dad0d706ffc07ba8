//! Pods of a WorkerPool that a real kubelet, or the scheduler, does not run.

use std::time::Duration;

use super::{CONTAINERS, Installed, until};

const POOLS: &str = "
apiVersion: ostler.dev/v1alpha1
kind: TaskQueue
metadata: {name: failing}
spec: {}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: unsecret}
spec: {queueRefs: [{name: failing}]}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: unplaced}
spec: {queueRefs: [{name: failing}], template: {resources: {requests: {cpu: '900'}}}}
---
apiVersion: ostler.dev/v1alpha1
kind: WorkerPool
metadata: {name: unpulled}
spec: {queueRefs: [{name: failing}], template: {image: 'local/none:1'}}
";

#[tokio::test]
async fn real_kubelet_pods_of_a_pool_that_do_not_run_are_told_with_their_own_reason() {
    // Blocks while it is installed.
    let team = tokio::task::spawn_blocking(|| Installed::of(CONTAINERS)).await.expect("installed");
    team.apply(POOLS);
    // This namespace has no Secret with the database's URL, and the node no such image.
    for (pool, reason) in [
        ("unsecret", "CreateContainerConfigError: secret \"ostler-database\" not found"),
        ("unplaced", "Unschedulable: "),
        ("unpulled", "ErrImageNeverPull: "),
    ] {
        let field = |path: &str| team.field(&format!("wp/{pool}"), path);
        until(&format!("{pool} to be told"), Duration::from_secs(90), || {
            match field(".status.conditions[?(@.type=='Ready')].message") {
                said if said.contains(reason) && said.contains("0 of 1 pods have reported") => Ok(()),
                said => Err(format!("{said}\n{}", team.story())),
            }
        });
        assert_eq!(field(".status.state"), "PodsFailing");
    }
    team.kubectl(&["delete", "wp", "unsecret", "unplaced", "unpulled"]);
}
