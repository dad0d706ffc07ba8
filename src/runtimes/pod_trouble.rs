//! Why pods don't run, in the words of the kubelet and the scheduler. The same trouble is always told in the same words, whatever
//! moment of a restart or a pull it is looked at.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerStatus, Pod},
};

/// Why a pod does not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodTrouble {
    /// `ImagePullBackOff`, `CreateContainerConfigError`, `Unschedulable`, `CrashLoopBackOff`, ...
    pub reason: String,
    pub message: String,
}

/// How much of a message is told.
const LONGEST: usize = 400;

/// What keeps the pods of a Deployment from running: that of most of them, else why there are none. `None`: nothing does.
pub fn trouble(deployment: &Deployment, pods: &[Pod]) -> Option<PodTrouble> {
    let mut all: Vec<PodTrouble> =
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).filter_map(of_pod).collect();
    all.sort();
    let most = all.chunk_by(|a, b| a.reason == b.reason).max_by_key(|same| same.len());
    most.map(|same| same[0].clone()).or_else(|| of_deployment(deployment))
}

/// A quota, an admission policy or a missing right keeps pods from being made.
fn of_deployment(deployment: &Deployment) -> Option<PodTrouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|one| one.type_ == "ReplicaFailure" && one.status == "True")?;
    let reason = failure.reason.clone().unwrap_or_else(|| "ReplicaFailure".to_owned());
    Some(PodTrouble { reason, message: cut(failure.message.as_deref().unwrap_or_default()) })
}

fn of_pod(pod: &Pod) -> Option<PodTrouble> {
    let status = pod.status.as_ref()?;
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    if let Some(found) = containers().find_map(of_container) {
        return Some(found);
    }
    if let Some(reason) = status.reason.as_ref().filter(|_| status.phase.as_deref() == Some("Failed")) {
        return Some(PodTrouble {
            reason: reason.clone(),
            message: cut(status.message.as_deref().unwrap_or_default()),
        });
    }
    let unscheduled =
        status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    unscheduled.map(|one| PodTrouble {
        reason: one.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()),
        message: cut(one.message.as_deref().unwrap_or_default()),
    })
}

fn of_container(container: &ContainerStatus) -> Option<PodTrouble> {
    if container.ready {
        return None;
    }
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            let why = message.split_once("ErrImagePull: ").map_or(message, |(_, why)| why);
            let why = if why.starts_with("Back-off pulling image") { "" } else { why };
            let image = &container.image;
            return Some(PodTrouble {
                reason: "ImagePullBackOff".into(),
                message: cut(format!("can't pull image {image}: {why}").trim_end_matches([':', ' '])),
            });
        }
        "" | "CrashLoopBackOff" | "ContainerCreating" | "PodInitializing" => {}
        other => return Some(PodTrouble { reason: other.to_owned(), message: cut(message) }),
    }
    // Between two runs it waits, runs or has just ended: what is told is how it last ended.
    let ended = [state, container.last_state.as_ref()].into_iter().flatten().find_map(|one| one.terminated.as_ref())?;
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let last_line = ended.message.as_deref().unwrap_or_default().lines().last().unwrap_or_default().trim();
    let said = if last_line.is_empty() { String::new() } else { format!(": {last_line}") };
    Some(PodTrouble {
        reason: if reason == "OOMKilled" { reason.to_owned() } else { "CrashLoopBackOff".to_owned() },
        message: cut(&format!(
            "container {} ends again and again with code {} ({reason}){said}",
            container.name, ended.exit_code
        )),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

/// `pod-1: ImagePullBackOff: can't pull image r/i:1`
impl std::fmt::Display for PodTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.reason),
            message => write!(f, "{}: {message}", self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn container(ready: bool, state: Value, last: Value) -> Value {
        json!({"containerStatuses": [{
            "name": "worker", "image": "r/i:1", "imageID": "", "ready": ready, "restartCount": 1, "state": state, "lastState": last,
        }]})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        container(false, json!({"waiting": {"reason": reason, "message": message}}), json!({}))
    }

    fn told(pods: Vec<Value>) -> Option<String> {
        let pods: Vec<Pod> = pods.into_iter().map(pod).collect();
        trouble(&Deployment::default(), &pods).map(|found| found.to_string())
    }

    #[test]
    fn each_trouble_is_told_in_the_words_of_whoever_met_it() {
        let unscheduled = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."},
        ]});
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."});
        for (status, expected) in [
            (
                waiting("CreateContainerConfigError", "secret \"ostler-database\" not found"),
                "CreateContainerConfigError: secret \"ostler-database\" not found",
            ),
            (waiting("InvalidImageName", "couldn't parse"), "InvalidImageName: couldn't parse"),
            (unscheduled, "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."),
            (evicted, "Evicted: The node was low on memory."),
        ] {
            assert_eq!(told(vec![status]).as_deref(), Some(expected));
        }
        for fine in [
            json!({"phase": "Pending"}),
            waiting("ContainerCreating", ""),
            container(true, json!({"running": {}}), json!({"terminated": {"exitCode": 1}})),
            container(false, json!({"running": {}}), json!({})),
        ] {
            assert_eq!(told(vec![fine.clone()]), None, "{fine}");
        }
    }

    #[test]
    fn the_phases_of_one_trouble_are_told_alike() {
        let why = "rpc error: code = NotFound desc = no such image";
        let pulls = [
            waiting("ErrImagePull", why),
            waiting("ImagePullBackOff", &format!("Back-off pulling image \"r/i:1\": ErrImagePull: {why}")),
        ];
        for status in pulls {
            assert_eq!(told(vec![status]).unwrap(), format!("ImagePullBackOff: can't pull image r/i:1: {why}"));
        }
        let ended = json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "starting\nno database\n"}});
        let crashes = [
            container(false, ended.clone(), json!({})),
            container(
                false,
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}),
                ended.clone(),
            ),
            container(false, json!({"running": {}}), ended),
        ];
        for status in crashes {
            let expected = "CrashLoopBackOff: container worker ends again and again with code 2 (Error): no database";
            assert_eq!(told(vec![status]).unwrap(), expected);
        }
    }

    #[test]
    fn what_most_pods_have_is_told_and_without_pods_why_there_are_none() {
        let missing = || waiting("CreateContainerConfigError", "secret \"s\" not found");
        let told = told(vec![waiting("InvalidImageName", "x"), missing(), missing()]).unwrap();
        assert!(told.starts_with("CreateContainerConfigError"), "{told}");
        let deployment: Deployment = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Progressing", "status": "True"},
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: compute"},
        ]}}))
        .unwrap();
        assert_eq!(trouble(&deployment, &[]).unwrap().to_string(), "FailedCreate: exceeded quota: compute");
    }
}
