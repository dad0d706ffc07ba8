//! ContainerHealthCheck: containers that must be up, or must be down.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    ContainerHealthCheckStatus, LabelSelector, LocalRef, Mode, Requirement, WorkloadRef,
    common::{CONTAINER, WEBHOOK_URL},
    quantity,
};

/// Which containers must be up or down, how that is seen, and what may be done about it.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "ContainerHealthCheck",
    plural = "containerhealthchecks",
    shortname = "chc",
    category = "ostler",
    namespaced,
    status = "ContainerHealthCheckStatus",
    derive = "PartialEq",
    doc = "Containers that must be up, or must be down.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Unhealthy", type_ = "integer", json_path = ".status.unhealthy"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.desiredState == 'Running' || has(self.target.docker)",
     "message": "only a container of Docker can be kept stopped: scale the workload to zero, or set target.docker", "fieldPath": ".desiredState"},
    {"rule": "!has(self.probe) || !has(self.probe.exec) || has(self.target.docker)",
     "message": "probe.exec is Docker's only: set a livenessProbe in the pod, or set probe.http", "fieldPath": ".probe"},
    {"rule": "self.outOfMemory.policy != 'PatchWorkload' || (has(self.target.kubernetes) && has(self.target.kubernetes.workloadRef))",
     "message": "PatchWorkload changes a workload: set target.kubernetes.workloadRef, or set policy to Resize", "fieldPath": ".outOfMemory"}
]))]
pub struct ContainerHealthCheckSpec {
    /// Which containers.
    pub target: CheckTarget,
    /// Whether they must be up or down.
    #[serde(default)]
    pub desired_state: DesiredState,
    /// What to do about a container that a person stopped through its engine.
    #[serde(default)]
    pub manual_stop: ManualStop,
    /// How a running container is asked whether it is well, beside its runtime's own checks.
    pub probe: Option<ContainerProbe>,
    /// What must be ready before they are started, and while they are restarted: what only suffers from something else is
    /// left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub depends_on: Vec<Requirement>,
    /// How often it is tried.
    #[serde(default)]
    pub restart: RestartBackoff,
    /// What to do when one runs out of memory.
    #[serde(default)]
    pub out_of_memory: OutOfMemory,
    /// With more unhealthy ones than this, as a number or a percentage of all, nothing is done: something else is wrong.
    /// Absent: no limit.
    #[serde(default)]
    #[schemars(schema_with = "number_or_percent")]
    pub max_unhealthy: Option<IntOrString>,
    /// Seconds without action after there were more unhealthy ones than maxUnhealthy.
    #[serde(default = "default_cooldown")]
    #[schemars(range(min = 1, max = 86400))]
    pub storm_cooldown_seconds: i32,
    /// Enforce acts; Observe says what it would do.
    #[serde(default)]
    pub mode: Mode,
    /// They are neither looked at nor touched.
    #[serde(default)]
    pub suspend: bool,
}

/// Which containers: of a cluster or of a host.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.kubernetes) != has(self.docker)",
     "message": "set exactly one of target.kubernetes and target.docker"}
]))]
pub struct CheckTarget {
    /// Pods of this namespace.
    pub kubernetes: Option<PodTarget>,
    /// Containers of a Docker engine, through the agent on its host.
    pub docker: Option<DockerTarget>,
}

/// Pods of the same namespace.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.selector) != has(self.workloadRef)",
     "message": "set exactly one of selector and workloadRef"}
]))]
pub struct PodTarget {
    /// By their labels.
    #[schemars(extend("minProperties" = 1))]
    pub selector: Option<LabelSelector>,
    /// Those of a workload.
    pub workload_ref: Option<WorkloadRef>,
}

/// Containers of a Docker engine.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.names), has(self.labels), has(self.compose)].filter(x, x).size() == 1",
     "message": "set exactly one of names, labels and compose"}
]))]
pub struct DockerTarget {
    /// The agent on the engine's host. Its file must allow them.
    pub host_agent_ref: LocalRef,
    /// By name: one that does not exist is missing.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 253), regex(pattern = CONTAINER)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub names: Option<Vec<String>>,
    /// Those that have all of these labels.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub labels: Option<BTreeMap<String, String>>,
    /// Services of a compose project.
    pub compose: Option<ComposeTarget>,
}

/// A path: neither an option of compose nor a remote file (`oci://…`).
const COMPOSE_FILE: &str = r"^[^-\x00-\x20\x7f:]([^\x00-\x1f\x7f:]|:[^/\x00-\x1f\x7f])*$";

/// Services of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComposeTarget {
    /// The project's folder on the agent's host, absolute.
    #[schemars(length(min = 1, max = 4096), regex(pattern = r"^(/|[A-Za-z]:)[^\x00-\x1f\x7f]*$"))]
    pub project_directory: String,
    /// Its files, as they are given to compose. Absent: as the containers' labels tell, else what compose finds in the folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 4096), regex(pattern = COMPOSE_FILE)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub files: Vec<String>,
    /// Its services. Absent: every one that the project has containers of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 253), regex(pattern = CONTAINER)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub services: Vec<String>,
}

/// Whether containers must be up or down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    #[default]
    Running,
    Stopped,
}

/// What to do about a container that a person stopped through its engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManualStop {
    /// It stays stopped, and the check says so, until somebody starts it or resumes the check.
    #[default]
    Hold,
    /// It is started again.
    Restart,
}

/// How a running container is asked whether it is well.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.http) != has(self.exec)",
     "message": "set exactly one of http and exec"}
]))]
pub struct ContainerProbe {
    /// A request that is answered with a status below 400.
    pub http: Option<HttpProbe>,
    /// A command in the container that ends with 0.
    pub exec: Option<ExecProbe>,
    /// Seconds between two.
    #[serde(default = "default_period")]
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
    /// Seconds that one may take.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 8))]
    pub timeout_seconds: i32,
    /// Failures in a row after which it is unhealthy.
    #[serde(default = "default_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
    /// Seconds after its start in which failures don't count.
    #[serde(default = "default_startup")]
    #[schemars(range(min = 1, max = 3600))]
    pub startup_seconds: i32,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpProbe {
    /// The address that the controller asks. `HOST` in it stands for the pod's IP, or the host of the agent's url.
    #[schemars(length(min = 8, max = 2048), regex(pattern = WEBHOOK_URL))]
    pub url: String,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecProbe {
    /// Program and arguments; no shell reads them. The agent's file must permit it.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
}

/// How often a container is started or restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.backoffSeconds <= self.maxBackoffSeconds",
     "message": "backoffSeconds is above maxBackoffSeconds: lower it or raise maxBackoffSeconds", "fieldPath": ".backoffSeconds"}
]))]
pub struct RestartBackoff {
    /// Seconds between the first attempt and the second; doubled for each further one.
    #[schemars(range(min = 1, max = 3600))]
    pub backoff_seconds: i32,
    /// Seconds that it is never doubled beyond.
    #[schemars(range(min = 1, max = 86400))]
    pub max_backoff_seconds: i32,
    /// Seconds of health after which attempts are forgotten.
    #[schemars(range(min = 1, max = 86400))]
    pub reset_after_seconds: i32,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self { backoff_seconds: 10, max_backoff_seconds: 300, reset_after_seconds: 600 }
    }
}

/// What to do when a container runs out of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.policy == 'Propose' || has(self.max)",
     "message": "a limit that is raised by itself needs an end: set outOfMemory.max, or set policy to Propose", "fieldPath": ".max"}
]))]
pub struct OutOfMemory {
    /// Who changes the limit.
    pub policy: MemoryPolicy,
    /// By how much it is raised each time, in percent of what it is.
    #[schemars(range(min = 1, max = 1000))]
    pub increase_percent: i32,
    /// Minimum increase of the limit, as a quantity.
    #[schemars(length(min = 1, max = 24), regex(pattern = quantity::PATTERN))]
    pub min_increase: String,
    /// It is never raised beyond this: then it is a person's turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 24), regex(pattern = quantity::PATTERN))]
    pub max: Option<String>,
}

impl Default for OutOfMemory {
    fn default() -> Self {
        Self { policy: MemoryPolicy::Propose, increase_percent: 20, min_increase: "100Mi".into(), max: None }
    }
}

/// Who changes a limit of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MemoryPolicy {
    /// A person: status has the patch to paste.
    #[default]
    Propose,
    /// Ostler, in place: a new container is made as its manifest says, and resized again.
    Resize,
    /// Ostler, in the workload, as a field manager of its own.
    PatchWorkload,
}

fn number_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true, "minimum": 0, "maximum": 10000, "maxLength": 4,
        "pattern": "^(100|[0-9]{1,2})%$"
    })
}

fn default_cooldown() -> i32 {
    300
}

fn default_period() -> i32 {
    10
}

fn default_timeout() -> i32 {
    2
}

fn default_threshold() -> i32 {
    3
}

fn default_startup() -> i32 {
    60
}
