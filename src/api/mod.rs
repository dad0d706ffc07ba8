//! The custom resources as Rust types: no I/O, no dependency on the rest.
//!
//! The types carry everything the CRDs say (bounds, defaults, CEL rules), so `crds/`, the API server and the folder of
//! manifests all refuse the same things. [`crds`] turns them into CustomResourceDefinitions.

mod agent_config;
mod caller;
mod common;
mod container_health_check;
mod container_health_check_status;
mod crds;
mod expert;
mod host_agent;
mod kind;
mod llm_backend;
mod llm_backend_status;
mod model;
mod notifier;
pub mod quantity;
mod selector;
mod status;
mod task_queue;
mod task_schedule;
mod worker_pool;

pub use agent_config::{
    AgentAuth, AgentCheck, AgentCommand, AgentConfig, AgentConfigSpec, AgentContainer, AgentDocker, AgentDockerAllow,
    AgentLog, AgentService, AgentTls, RestartPolicy, ServiceManager,
};
pub use caller::{AnswerCache, Caller, CallerAlias, CallerClass, CallerSpec, CallerState, CallerStatus, LOCAL_CALLER};
pub use common::{
    Condition, ConditionStatus, LocalRef, Mode, RECONCILE_REQUESTED_AT, RequiredKind, Requirement, SecretRef, Webhook,
    WorkloadKind, WorkloadRef, condition, number_of, set_condition, url_wording,
};
pub use container_health_check::{
    CheckTarget, ComposeTarget, ContainerHealthCheck, ContainerHealthCheckSpec, ContainerProbe, DesiredState,
    DockerTarget, ExecProbe, HttpProbe, ManualStop, MemoryPolicy, OutOfMemory, PodTarget, RestartBackoff,
};
pub use container_health_check_status::{
    ContainerHealthCheckState, ContainerHealthCheckStatus, ContainerStatusEntry, ContainerWord,
};
pub use crds::{RELEASE, agent_config_definition, agent_config_schema, crds};
pub use expert::{Expert, ExpertSpec, ExpertState, ExpertStatus, Handler, Parameters, TextKind, TextRef};
pub use host_agent::{HeldService, HostAgent, HostAgentSpec, HostAgentState, HostAgentStatus, ServiceSummary};
pub use kind::{Kind, ObjectKey};
pub use llm_backend::{
    Canary, CanaryWhen, Concurrency, EngineKind, LLMBackend, LLMBackendSpec, Overflow, Probe, Recovery,
};
pub use llm_backend_status::{BackendState, LLMBackendStatus, ModelStatus, RecoveryRecord, RecoveryStatus, StepTally};
pub use model::Model;
pub use notifier::{
    MinSeverity, Notifier, NotifierSpec, NotifierState, NotifierStatus, NotifierType, QuietHours, Smtp, SmtpTls,
};
pub use selector::{LabelSelector, SelectorOperator, SelectorRule};
pub use status::{ResourceStatus, StatusBase};
pub use task_queue::{
    AssignmentPolicy, ClaimedBy, RetentionPolicy, Retry, TaskQueue, TaskQueueSpec, TaskQueueState, TaskQueueStatus,
};
#[cfg(test)]
pub use task_schedule::{BACKWARDS, CRON};
pub use task_schedule::{
    ConcurrencyPolicy, RUN_CONTROL, RUN_REQUESTED_AT, ScheduledMessage, TaskSchedule, TaskScheduleSpec,
    TaskScheduleState, TaskScheduleStatus, TaskTemplate,
};
pub use worker_pool::{
    LimitedBy, PoolConcurrency, Replicas, SecretKeyRef, WorkerPool, WorkerPoolSpec, WorkerPoolState, WorkerPoolStatus,
    WorkerResources, WorkerTemplate, WorkerVariable,
};

/// API group of every kind.
pub const GROUP: &str = "ostler.dev";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every manifest.
pub const API_VERSION: &str = "ostler.dev/v1alpha1";
/// Field manager of everything that Ostler writes.
pub const FIELD_MANAGER: &str = "ostler";
