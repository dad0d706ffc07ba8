//! WorkerPool: worker processes that do the tasks of some queues.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use super::{
    LocalRef, Mode, StatusBase, WorkloadRef,
    common::{KEY, NAME},
    quantity,
};

/// Worker processes that do the tasks of some queues: how many, how much at once, and what their pods are made from.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    plural = "workerpools",
    shortname = "wp",
    category = "ostler",
    namespaced,
    status = "WorkerPoolStatus",
    derive = "PartialEq",
    doc = "Worker processes that do the tasks of some queues.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
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
    {"rule": "self.replicas.min <= self.replicas.max",
     "message": "replicas.min is above replicas.max: lower min or raise max", "fieldPath": ".replicas"},
    {"rule": "self.concurrency.min <= self.concurrency.max",
     "message": "concurrency.min is above concurrency.max: lower min or raise max", "fieldPath": ".concurrency"},
    {"rule": "!has(self.workloadRef) || self.workloadRef.kind == 'Deployment'",
     "message": "workloadRef: only a Deployment is scaled; set kind: Deployment", "fieldPath": ".workloadRef"}
]))]
pub struct WorkerPoolSpec {
    /// The queues whose tasks it does.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub queue_refs: Vec<LocalRef>,
    /// Between how many and how many processes, in a cluster: as many as the tasks that can run and the servers' limits can use.
    #[serde(default)]
    pub replicas: Replicas,
    /// How many tasks a process does at once.
    #[serde(default)]
    pub concurrency: PoolConcurrency,
    /// Seconds that a process may take to finish its tasks when it is told to stop; also the pods' termination grace.
    #[serde(default = "default_drain")]
    #[schemars(range(min = 1, max = 86400))]
    pub drain_seconds: i32,
    /// The Deployment of its worker processes, in a cluster: it is scaled, and nothing else. Absent: the controller makes one of `template`, if
    /// the chart lets it (makeWorkers).
    pub workload_ref: Option<WorkloadRef>,
    /// What its pods are made from, in a cluster and without `workloadRef`.
    #[serde(default)]
    pub template: WorkerTemplate,
    /// Enforce makes and scales pods; Observe says what it would do.
    #[serde(default)]
    pub mode: Mode,
    /// Its processes take no more tasks, and nothing is scaled.
    #[serde(default)]
    pub suspend: bool,
}

/// How many processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Replicas {
    /// Also while nothing waits.
    #[schemars(range(min = 0, max = 1000))]
    pub min: i32,
    /// However much waits.
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// Fewer are run only once this many seconds have wanted no more.
    #[schemars(range(min = 1, max = 86400))]
    pub scale_down_seconds: i32,
}

impl Default for Replicas {
    fn default() -> Self {
        Self { min: 1, max: 1, scale_down_seconds: 300 }
    }
}

/// How many tasks a process does at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolConcurrency {
    /// Tasks at once at most.
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// The adaptive limit never goes below this.
    #[schemars(range(min = 1, max = 1000))]
    pub min: i32,
    /// Do less while its machine, or its cgroup, is short of CPU or memory.
    pub adaptive: bool,
    /// Above this use of CPU it does less.
    #[schemars(range(min = 1, max = 100))]
    pub cpu_percent: i32,
    /// Above this use of memory it does less.
    #[schemars(range(min = 1, max = 100))]
    pub memory_percent: i32,
}

impl Default for PoolConcurrency {
    fn default() -> Self {
        Self { max: 15, min: 1, adaptive: true, cpu_percent: 85, memory_percent: 85 }
    }
}

/// An image's reference, as far as its characters tell.
const IMAGE: &str = r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$";

/// What a pool's pods are made from.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerTemplate {
    /// The image. Absent: that of the controller.
    #[schemars(length(min = 1, max = 1024), regex(pattern = IMAGE))]
    pub image: Option<String>,
    /// What a pod gets and is held to. Absent: 100m and 128Mi are asked for, at most 512Mi of memory given.
    pub resources: Option<WorkerResources>,
    /// Variables added to the pods' environment; OSTLER_ ones are the controller's to set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<WorkerVariable>,
}

/// CPU and memory, as pods have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerResources {
    /// What a pod is sure to have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = {"type": "string", "minLength": 1, "maxLength": 24, "pattern": quantity::CPU_OR_MEMORY}))]
    pub requests: BTreeMap<String, String>,
    /// What it never gets more of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = {"type": "string", "minLength": 1, "maxLength": 24, "pattern": quantity::CPU_OR_MEMORY}))]
    pub limits: BTreeMap<String, String>,
}

/// A variable of a pod's environment.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.value) != has(self.secretKeyRef)",
     "message": "a variable has one source: set value or secretKeyRef", "fieldPath": ".value"},
    {"rule": "!self.name.startsWith('OSTLER_')",
     "message": "variables that begin with OSTLER_ are the controller's: name it otherwise, or remove it", "fieldPath": ".name"}
]))]
pub struct WorkerVariable {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 32768))]
    pub value: Option<String>,
    /// The Secret that keeps its value.
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub name: String,
    /// The key.
    #[schemars(length(min = 1, max = 253), regex(pattern = KEY))]
    pub key: String,
}

fn default_drain() -> i32 {
    300
}

/// The one word for how a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum WorkerPoolState {
    /// Its processes do tasks, or could.
    Running,
    /// Pods come or go.
    Scaling,
    /// No process of it has reported.
    Waiting,
    /// Its pods don't run; the message has their own reason.
    PodsFailing,
    /// One of its queues is not there.
    QueueMissing,
    /// Its pods can't be made.
    Refused,
    Suspended,
}

/// How the pool is. How much each process does changes by itself: `ostler status` shows that.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    #[serde(flatten)]
    pub base: StatusBase<WorkerPoolState>,
    /// How many processes there are to be.
    #[schemars(range(min = 0, max = 10000))]
    pub replicas: Option<i32>,
    /// How many have reported.
    #[schemars(range(min = 0, max = 10000))]
    pub ready_replicas: Option<i32>,
    /// Tasks at once that all of them could do when this status was written.
    #[schemars(range(min = 0, max = 1000000))]
    pub effective_concurrency: Option<i32>,
    /// What kept them from doing more when this status was written.
    pub limited_by: Option<LimitedBy>,
}

/// What keeps a pool from doing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, EnumString, IntoStaticStr)]
pub enum LimitedBy {
    /// `concurrency.max` of its processes.
    Concurrency,
    /// `replicas.max`.
    Replicas,
    Cpu,
    Memory,
    /// Less than 5 % of a disk is free.
    Disk,
    /// The slots of the servers.
    Backends,
    /// There are no more that can run.
    Tasks,
    Draining,
}

impl LimitedBy {
    /// As workers report it.
    pub fn parse(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}
