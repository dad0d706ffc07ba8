//! How the containers of a ContainerHealthCheck are.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::StatusBase;

/// The one word for how the containers are; the worst of them decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum ContainerHealthCheckState {
    /// Not looked at yet, or just started.
    Proving,
    /// All are as declared.
    Healthy,
    /// Some are not, and are being healed.
    Degraded,
    /// They are not mended while what they depend on is not ready.
    WaitingForDependency,
    /// A person stopped some.
    HeldByPerson,
    /// Some ran out of memory, and a person must raise the limit.
    OutOfMemory,
    /// Some end again soon after each start.
    CrashLooping,
    /// Some were to run to their end once and failed: a person must look.
    Failed,
    /// More are unhealthy than maxUnhealthy allows: nothing is done.
    TooManyUnhealthy,
    /// Nothing matches the target.
    NothingSelected,
    /// What tells about them does not answer: nothing is known, nothing is done.
    Unknown,
    /// The target can't be used as it is declared.
    Refused,
    /// It depends on itself.
    DependencyCycle,
    /// Somebody took back what was changed in the workload; it is not changed again.
    FieldContested,
    Suspended,
}

/// The one word for how a container is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr,
)]
pub enum ContainerWord {
    /// As declared.
    Healthy,
    /// It ran to its end with exit code 0, and nothing is to start it again.
    Completed,
    /// It was just started.
    Starting,
    /// It is down because a person stopped it.
    HeldByPerson,
    /// It runs, and should not.
    ShouldBeStopped,
    /// It runs, and its checks fail.
    Unhealthy,
    /// It ended.
    Exited,
    /// It was to run to its end once, and ended with an error: it is not started again.
    Failed,
    /// Something outside killed it: 137 without the runtime's flag for memory.
    Killed,
    /// It ran out of memory.
    OutOfMemory,
    /// It ends again soon after each start.
    CrashLooping,
    /// There is none.
    Missing,
    /// Its image can't be had.
    ImageMissing,
    /// It waits for a node, a volume or its image.
    Pending,
}

/// How the containers are.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerHealthCheckStatus {
    #[serde(flatten)]
    pub base: StatusBase<ContainerHealthCheckState>,
    /// How many containers match.
    #[schemars(range(min = 0, max = 1000000))]
    pub total: Option<i32>,
    /// How many of them are not as declared.
    #[schemars(range(min = 0, max = 1000000))]
    pub unhealthy: Option<i32>,
    /// The containers that are not as declared, and those that something was done about, the worst first; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub containers: Vec<ContainerStatusEntry>,
    /// What a person may apply to raise a limit: a patch to paste.
    #[schemars(length(max = 4096))]
    pub proposal: Option<String>,
}

/// One container, with the evidence.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatusEntry {
    /// Its name; of a pod's container, POD/CONTAINER.
    #[schemars(length(max = 512))]
    pub name: String,
    /// The one word for how it is.
    pub state: ContainerWord,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
    /// Of its last run.
    #[schemars(range(min = -2147483648_i64, max = 4294967295_i64))]
    pub exit_code: Option<i64>,
    /// How often it was seen to run out of memory.
    #[schemars(range(min = 0, max = 1000000))]
    pub out_of_memory_count: Option<i32>,
    /// Its limit of memory.
    #[schemars(length(max = 24))]
    pub memory_limit: Option<String>,
    /// The most memory that it was seen to use.
    #[schemars(length(max = 24))]
    pub memory_peak: Option<String>,
    /// The limit that it should have.
    #[schemars(length(max = 24))]
    pub proposed_memory_limit: Option<String>,
    /// Attempts since it was last well.
    #[schemars(range(min = 0, max = 1000000))]
    pub attempts: Option<i32>,
    /// When it may be tried again.
    pub next_attempt_time: Option<Time>,
    /// What was last done about it, and what came of it.
    #[schemars(length(max = 1024))]
    pub last_action: Option<String>,
    /// The beginning of its last run's log.
    #[schemars(length(max = 2048))]
    pub log_head: Option<String>,
    /// The end of its last run's log.
    #[schemars(length(max = 8192))]
    pub log_tail: Option<String>,
}
