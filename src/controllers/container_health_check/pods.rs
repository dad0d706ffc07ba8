//! Containers of pods, as their kubelets tell of them.

use std::collections::BTreeMap;

use crate::runtimes::{ContainersSeen, PodContainer, PodLife, Terminated};

use super::container::{Container, ContainerEnd, ContainerLife, ProbeHealth, RestartsOn};

/// The containers, and the pods' own words for each.
pub fn containers(seen: &ContainersSeen) -> (Vec<Container>, BTreeMap<String, PodContainer>) {
    let mut all: Vec<Container> = seen.containers.iter().map(container).collect();
    let known = seen.containers.iter().map(|one| (name(one), one.clone())).collect();
    let lacking = seen.desired.map_or(0, |desired| usize::try_from(desired).unwrap_or(0).saturating_sub(seen.pods));
    for number in 1..=lacking {
        let mut missing = Container::missing(format!("pod that is not there {number}"));
        missing.life = ContainerLife::Pending("its workload has not made it".into());
        all.push(missing);
    }
    (all, known)
}

fn name(one: &PodContainer) -> String {
    format!("{}/{}", one.pod, one.container)
}

fn container(one: &PodContainer) -> Container {
    let out_of_memory = |end: &Terminated| end.reason == "OOMKilled";
    let end = |end: &Terminated| ContainerEnd {
        exit_code: Some(end.exit_code.into()),
        out_of_memory: out_of_memory(end),
        at: end.at,
        ..ContainerEnd::default()
    };
    let last = one.last.as_ref();
    let life = match &one.life {
        PodLife::Running { .. } => ContainerLife::Running,
        PodLife::Terminated(ended) => ContainerLife::Ended(end(ended)),
        PodLife::Waiting { reason, message } => match reason.as_str() {
            "CrashLoopBackOff" => ContainerLife::Restarting(last.map(end).unwrap_or_default()),
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                ContainerLife::ImageMissing(said(reason, message))
            }
            _ if last.is_some() => ContainerLife::Restarting(last.map(end).unwrap_or_default()),
            _ => ContainerLife::Pending(said(reason, message)),
        },
    };
    let oom = match &one.life {
        PodLife::Terminated(ended) if out_of_memory(ended) => Some(ended),
        _ => last.filter(|ended| out_of_memory(ended)),
    };
    // A kubelet counts restarts, not what they were for: the number of this container's last end, if that was for memory.
    let ends = one.restarts + i32::from(!matches!(one.life, PodLife::Running { .. }));
    let count = u64::try_from(ends).unwrap_or_default().max(1);
    Container {
        name: name(one),
        alike: one.container.clone(),
        instance: one.uid.clone(),
        health: match (&one.life, one.ready) {
            (PodLife::Running { .. }, true) => ProbeHealth::Well,
            (PodLife::Running { .. }, false) => ProbeHealth::Starting,
            _ => ProbeHealth::Unasked,
        },
        life,
        started_at: match &one.life {
            PodLife::Running { since } => *since,
            _ => None,
        },
        restarts: one.restarts.into(),
        oom_count: if oom.is_some() { count } else { 0 },
        last_oom_at: oom.and_then(|ended| ended.at),
        memory_limit: one.memory_limit,
        memory_peak: None,
        drift: None,
        under_operation: false,
        restarts_on: RestartsOn::of(&one.restart_policy),
        // Nothing but its kubelet starts a pod's container.
        one_shot: one.restart_policy == "Never",
        depends_on: Vec::new(),
    }
}

fn said(reason: &str, message: &str) -> String {
    if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
}
