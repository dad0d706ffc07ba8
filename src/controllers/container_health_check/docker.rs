//! Containers of a Docker engine, as its host's agent tells of them.

use std::collections::BTreeMap;

use crate::{
    api::DockerTarget,
    host::{
        ComposeService, ComposeServices, ContainerHealth, ContainerList, ContainerReport, ContainerSelector,
        ContainerState, ContainerTarget,
    },
};

use super::container::{Container, ContainerEnd, ContainerLife, ProbeHealth, RestartsOn};

/// What the agent is asked for.
pub fn selector(target: &DockerTarget) -> ContainerSelector {
    if let Some(compose) = &target.compose {
        return ContainerSelector::Compose(ComposeServices {
            project_directory: compose.project_directory.clone(),
            files: compose.files.clone(),
            services: compose.services.clone(),
        });
    }
    match (&target.names, &target.labels) {
        (Some(names), _) => ContainerSelector::Names(names.clone()),
        (None, labels) => ContainerSelector::Labels(labels.clone().unwrap_or_default()),
    }
}

/// The containers, and how the agent is to be told of each.
pub fn containers(target: &DockerTarget, list: &ContainerList) -> (Vec<Container>, BTreeMap<String, ContainerTarget>) {
    let mut targets = BTreeMap::new();
    let mut all = Vec::new();
    for report in &list.containers {
        let (name, named) = identity(target, report);
        targets.insert(name.clone(), named);
        all.push(container(name, report));
    }
    for missing in &list.missing {
        targets.insert(missing.name().to_owned(), missing.clone());
        all.push(Container::missing(missing.name()));
    }
    (all, targets)
}

/// A service's only container goes by the service, so that it is the same one when it is missing.
fn identity(target: &DockerTarget, report: &ContainerReport) -> (String, ContainerTarget) {
    match (&target.compose, &report.compose) {
        (Some(compose), Some(identity)) if identity.number == 1 => {
            let service = ComposeService {
                project_directory: compose.project_directory.clone(),
                files: compose.files.clone(),
                service: identity.service.clone(),
            };
            (identity.service.clone(), ContainerTarget::Service(service))
        }
        _ => (report.name.clone(), report.target()),
    }
}

fn container(name: String, report: &ContainerReport) -> Container {
    let end = || ContainerEnd {
        exit_code: report.exit_code,
        out_of_memory: report.ended_out_of_memory(),
        at: report.finished_at,
        by: report.stopped.as_ref().map(|stopped| stopped.by),
        error: report.error.clone().filter(|error| !error.is_empty()),
    };
    let life = match report.state {
        ContainerState::Running => ContainerLife::Running,
        ContainerState::Paused => ContainerLife::Paused,
        ContainerState::Restarting => ContainerLife::Restarting(end()),
        _ if report.image_missing => {
            ContainerLife::ImageMissing(format!("its image {} is not on the host", report.image))
        }
        ContainerState::Created | ContainerState::Exited | ContainerState::Dead => ContainerLife::Ended(end()),
        ContainerState::Removing => ContainerLife::Pending("it is being removed".into()),
        ContainerState::Unknown => ContainerLife::Pending("its engine says something that is not known here".into()),
    };
    let health = match report.health {
        None | Some(ContainerHealth::Unknown) => ProbeHealth::Unasked,
        Some(ContainerHealth::Starting) => ProbeHealth::Starting,
        Some(ContainerHealth::Healthy) => ProbeHealth::Well,
        Some(ContainerHealth::Unhealthy) => {
            let said = report.health_output.as_deref().unwrap_or_default().trim();
            ProbeHealth::Failing(format!("its engine's health check fails: {said}"))
        }
    };
    Container {
        alike: name.clone(),
        name,
        instance: report.id.clone(),
        life,
        health,
        started_at: report.started_at,
        restarts: report.restart_count,
        oom_count: report.oom_count,
        last_oom_at: report.last_oom_at,
        memory_limit: report.memory_limit,
        memory_peak: report.memory_peak,
        drift: report.drift.clone(),
        under_operation: report.operation.is_some(),
        restarts_on: RestartsOn::of(if report.restart_policy.is_empty() { "no" } else { &report.restart_policy }),
        one_shot: report.one_shot,
        depends_on: report.depends_on.clone(),
    }
}
