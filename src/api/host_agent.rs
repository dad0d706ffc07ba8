//! HostAgent: an `ostler agent` on some machine.

// kube's printcolumn repeats its keys for each column.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{SecretRef, StatusBase, common::ORIGIN};

/// Where an agent listens, and what it is trusted by.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "HostAgent",
    plural = "hostagents",
    shortname = "ha",
    category = "ostler",
    namespaced,
    status = "HostAgentStatus",
    derive = "PartialEq",
    doc = "An agent on the host of inference servers, which can start and stop what its own file lists.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct HostAgentSpec {
    /// Where the agent listens: https://mac.example:9099.
    #[schemars(length(min = 8, max = 2048), regex(pattern = ORIGIN))]
    pub url: String,
    /// The agent's name in its own file (metadata.name of its AgentConfig): requests are for this agent alone. Absent: the name of
    /// this HostAgent.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub agent: Option<String>,
    /// Secret with the key `signingSecret` (requests are signed, as Standard Webhooks has it) or `token` (bearer).
    pub secret_ref: Option<SecretRef>,
    /// Secret whose key `ca.crt` has the certificates that the agent's own is checked against.
    pub ca_secret_ref: Option<SecretRef>,
    /// Leaves the agent alone: it is not asked, and its services are not healed through it.
    #[serde(default)]
    pub suspend: bool,
}

/// The one word for how an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, IntoStaticStr)]
pub enum HostAgentState {
    /// Not asked yet.
    Unheard,
    Reachable,
    Unreachable,
    Unauthorized,
    /// It answers, and does nothing that this leader asks for.
    Refusing,
    SecretMissing,
    Suspended,
}

impl HostAgentState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What the agent last reported.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostAgentStatus {
    #[serde(flatten)]
    pub base: StatusBase<HostAgentState>,
    /// Version of the agent.
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// The user that the agent runs as.
    #[schemars(length(max = 253))]
    pub user: Option<String>,
    /// The container runtime that it can reach, if any.
    #[schemars(length(max = 253))]
    pub container_runtime: Option<String>,
    /// How far the agent's clock is ahead of ours; written only past 5 seconds.
    #[schemars(range(min = -2147483648, max = 2147483647))]
    pub clock_skew_seconds: Option<i64>,
    /// The services of its file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub services: Vec<ServiceSummary>,
    /// Services that are held, by whom and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "atomic"))]
    pub held_services: Vec<HeldService>,
}

/// A service as the agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSummary {
    /// Name in the agent's file.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Running, Stopped, Starting, Foreign or Unknown.
    #[schemars(length(max = 64))]
    pub state: String,
    /// The user that it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub user: Option<String>,
}

/// A hold on a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldService {
    /// Name of the service.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Person, Suspend, Pause or Deferral.
    #[schemars(length(max = 64))]
    pub owner: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Since when.
    pub since: Time,
}
