//! Containers as they are looked at, wherever they run.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    api::DockerTarget,
    host::{
        ComposeService, ComposeServices, ContainerHealth, ContainerList, ContainerReport, ContainerSelector,
        ContainerState, ContainerTarget, ServiceDependency, StoppedBy,
    },
};

/// One container, or the place of one that is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name; of a pod's container, POD/CONTAINER.
    pub name: String,
    /// Another one is another container: the engine's id, or the pod's uid.
    pub instance: String,
    /// What its limit of memory is remembered by: its name; of a pod's container that alone, for its replicas are alike.
    pub alike: String,
    pub life: ContainerLife,
    pub health: ProbeHealth,
    pub started_at: Option<Timestamp>,
    /// How often its runtime started it again by itself.
    pub restarts: i64,
    /// How often it ran out of memory, as far as its runtime tells of this instance.
    pub oom_count: u64,
    pub last_oom_at: Option<Timestamp>,
    /// In bytes; absent: none.
    pub memory_limit: Option<i64>,
    /// In bytes; absent: nobody measures it.
    pub memory_peak: Option<i64>,
    /// How its compose file differs from what it was made from.
    pub drift: Option<String>,
    /// Something is being done about it at its host.
    pub under_operation: bool,
    /// What its own runtime starts again.
    pub restarts_on: RestartsOn,
    /// It is to run to its end once.
    pub one_shot: bool,
    /// Services of its compose project that must come before it.
    pub depends_on: Vec<ServiceDependency>,
}

/// Which ends make a runtime start a container again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartsOn {
    #[default]
    Nothing,
    Failure,
    AnyEnd,
}

impl RestartsOn {
    /// By the name of a policy, as Docker and Kubernetes have it.
    pub fn of(policy: &str) -> Self {
        match policy {
            "no" | "Never" => Self::Nothing,
            "on-failure" | "OnFailure" => Self::Failure,
            _ => Self::AnyEnd,
        }
    }
}

/// Where it is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerLife {
    Running,
    /// Its own runtime is about to start it again.
    Restarting(ContainerEnd),
    Ended(ContainerEnd),
    /// It exists and does nothing, because a person said so.
    Paused,
    Missing,
    /// What is lacking.
    ImageMissing(String),
    /// What it waits for, before its first start.
    Pending(String),
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerEnd {
    pub exit_code: Option<i64>,
    /// By the runtime's own flag.
    pub out_of_memory: bool,
    pub at: Option<Timestamp>,
    pub by: Option<StoppedBy>,
    /// What the runtime said when it could not start it.
    pub error: Option<String>,
}

/// Whether a running one is well, by its runtime's checks and by the check's own probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProbeHealth {
    /// Nobody asks it.
    #[default]
    Unasked,
    Starting,
    Well,
    /// What its checks said.
    Failing(String),
}

impl Container {
    /// Whether it lived on when it last ran out of memory: a process in it was killed, not its first one.
    pub fn outlived_out_of_memory(&self, at: Timestamp) -> bool {
        self.life == ContainerLife::Running && self.started_at.is_some_and(|started| started < at)
    }

    /// Nothing but a name.
    pub fn missing(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            alike: name.clone(),
            name,
            instance: String::new(),
            life: ContainerLife::Missing,
            health: ProbeHealth::Unasked,
            started_at: None,
            restarts: 0,
            oom_count: 0,
            last_oom_at: None,
            memory_limit: None,
            memory_peak: None,
            drift: None,
            under_operation: false,
            restarts_on: RestartsOn::AnyEnd,
            one_shot: false,
            depends_on: Vec::new(),
        }
    }
}

/// What the agent is asked for.
pub fn agent_selector(target: &DockerTarget) -> ContainerSelector {
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
pub fn agent_containers(
    target: &DockerTarget,
    list: &ContainerList,
) -> (Vec<Container>, BTreeMap<String, ContainerTarget>) {
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
