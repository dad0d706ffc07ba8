//! Containers as they are looked at, wherever they run.

use jiff::Timestamp;

use crate::host::{ServiceDependency, StoppedBy};

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
