//! AgentConfig: the file of a host agent. Never a CRD: it stays on the host, and lists all that the agent can do.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    common::{CONTAINER, LISTEN, SERVICE, WEBHOOK_URL},
    quantity,
};

/// What an agent looks after, where it listens and whom it believes.
#[serde_with::skip_serializing_none]
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ostler.dev",
    version = "v1alpha1",
    kind = "AgentConfig",
    plural = "agentconfigs",
    namespaced,
    derive = "PartialEq",
    doc = "The file of an agent: it can do only what is listed here."
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfigSpec {
    /// Address and port that the agent listens on. Port 0 takes a free one.
    #[serde(default = "default_listen")]
    #[schemars(length(min = 3, max = 64), regex(pattern = LISTEN))]
    pub listen: String,
    /// Certificate and key; needed for a bearer token on any address but loopback.
    pub tls: Option<AgentTls>,
    /// How callers prove who they are. With neither secret nor token the agent listens on loopback only.
    #[serde(default)]
    pub auth: AgentAuth,
    /// The container engine on this host, and which of its containers the agent may see and touch. Absent: none.
    pub docker: Option<AgentDocker>,
    /// Seconds between two checks of a service by the agent's own loop.
    #[serde(default = "default_self_check")]
    #[schemars(range(min = 1, max = 86400))]
    pub self_check_seconds: i32,
    /// The services that the agent starts, stops and checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub services: Vec<AgentService>,
}

/// Certificate and key in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentTls {
    /// The certificate and its chain; a relative path starts at this file's folder.
    #[schemars(length(min = 1, max = 4096))]
    pub cert_file: String,
    /// The private key; a relative path starts at this file's folder.
    #[schemars(length(min = 1, max = 4096))]
    pub key_file: String,
}

/// Files with secrets; each file has nothing else in it.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentAuth {
    /// File with the `whsec_` secret that callers sign with (Standard Webhooks).
    #[schemars(length(min = 1, max = 4096))]
    pub signing_secret_file: Option<String>,
    /// File with a bearer token, 16 characters or more.
    #[schemars(length(min = 1, max = 4096))]
    pub token_file: Option<String>,
}

/// A container engine with Docker's API, by its Unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentDocker {
    /// Path of the engine's socket. Absent: DOCKER_HOST, else the docker context in use (either must be a Unix socket), else the
    /// paths that engines use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub socket: Option<String>,
    /// Which containers: those that match any of these.
    #[serde(default)]
    pub allow: AgentDockerAllow,
    /// Folders that compose's files lie in. Labels of containers tell how a project was made, and anybody's image has labels: compose
    /// is run with files within these folders alone, and not at all where none is listed. A relative path starts at this file's
    /// folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 4096)), extend("x-kubernetes-list-type" = "set"))]
    pub compose_folders: Vec<String>,
    /// What runs compose, for services that are stopped or missing.
    #[serde(default = "default_compose")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 4096)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub compose_command: Vec<String>,
}

/// Containers that the agent may see, start, stop, restart and resize.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentDockerAllow {
    /// All containers of these compose projects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 128), regex(pattern = CONTAINER)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub compose_projects: Vec<String>,
    /// Containers of these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 255), regex(pattern = CONTAINER)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub names: Vec<String>,
    /// Containers that have all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub labels: BTreeMap<String, String>,
    /// Whether commands may be run in them.
    #[serde(default)]
    pub exec: bool,
}

/// Who is a service's parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceManager {
    /// The agent starts the process and is its parent.
    #[default]
    Process,
    /// Commands start and stop it: systemctl, launchctl, brew.
    Command,
    /// It is a container, and the engine of `spec.docker` is its parent.
    Container,
}

/// When the agent's own loop brings a service up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartPolicy {
    /// However it ended.
    #[default]
    Always,
    /// Unless it ended cleanly: exit code 0, or SIGHUP, SIGINT, SIGTERM or SIGPIPE, as systemd has it.
    OnFailure,
}

/// A service on the agent's host.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.manager != 'Command' || has(self.stop)",
     "message": "manager: Command needs stop: set stop to the command that stops the service", "fieldPath": ".stop"},
    {"rule": "self.manager != 'Command' || has(self.status) || has(self.check)",
     "message": "manager: Command needs check or status: set one, for else nobody can tell whether the service is up", "fieldPath": ".check"},
    {"rule": "self.manager == 'Command' || (!has(self.stop) && !has(self.status) && !has(self.restartCommand))",
     "message": "stop, status and restartCommand belong to manager: Command; a Process is stopped by SIGTERM, a container by its engine: remove them, or set manager: Command", "fieldPath": ".manager"},
    {"rule": "(self.manager == 'Container') != has(self.start)",
     "message": "start says what starts a Process, or what command does; a container is started by its engine: set start, or remove it under manager: Container", "fieldPath": ".start"},
    {"rule": "(self.manager == 'Container') == has(self.container)",
     "message": "container says which one a service with manager: Container is, and belongs to no other: set both or neither", "fieldPath": ".container"},
    {"rule": "self.manager != 'Container' || (!self.adopt && !has(self.outOfMemoryPatterns))",
     "message": "adopt and outOfMemoryPatterns are for processes; of a container the engine tells: remove them", "fieldPath": ".manager"},
    {"rule": "!self.adopt || has(self.check)",
     "message": "adopt: true needs check: set check, whose port tells which process to take over", "fieldPath": ".adopt"}
]))]
pub struct AgentService {
    /// Name of the service, as backends refer to it.
    #[schemars(length(min = 1, max = 63), regex(pattern = SERVICE))]
    pub name: String,
    /// Process: the agent is its parent. Command: commands start and stop it. Container: the container engine does.
    #[serde(default)]
    pub manager: ServiceManager,
    /// What starts it (manager: Process and Command).
    pub start: Option<AgentCommand>,
    /// Which container it is (manager: Container): one that `spec.docker.allow` permits.
    pub container: Option<AgentContainer>,
    /// What stops it (manager: Command).
    pub stop: Option<AgentCommand>,
    /// What restarts it (manager: Command); without it, stop and start.
    pub restart_command: Option<AgentCommand>,
    /// What exits with 0 while it is up (manager: Command).
    pub status: Option<AgentCommand>,
    /// A URL that answers while it is up; any answer below 500 will do.
    pub check: Option<AgentCheck>,
    /// For how many seconds after its start a service may fail its check: until then it is starting, and nobody restarts it for
    /// that, through restarts of the agent too.
    #[serde(default = "default_startup")]
    #[schemars(range(min = 1, max = 3600))]
    pub startup_seconds: i32,
    /// How many seconds after SIGTERM a process is sent SIGKILL.
    #[serde(default = "default_stop_grace")]
    #[schemars(range(min = 1, max = 3600))]
    pub stop_grace_seconds: i32,
    /// Where its output goes (manager: Process).
    #[serde(default)]
    pub log: AgentLog,
    /// Texts in its log that mean that the device ran out of memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 256)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub out_of_memory_patterns: Vec<String>,
    /// When the agent's own loop brings it up again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether the agent may take over, and kill, a process on its port that it did not start.
    #[serde(default)]
    pub adopt: bool,
}

/// A container by its name, or a service of a compose project.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.name) != has(self.service) && has(self.service) == has(self.projectDirectory)",
     "message": "a container is named by its name, or by projectDirectory and service: set the one or the other"}
]))]
pub struct AgentContainer {
    /// The container's name.
    #[schemars(length(min = 1, max = 255), regex(pattern = CONTAINER))]
    pub name: Option<String>,
    /// The folder of the compose project; a relative path starts at this file's folder.
    #[schemars(length(min = 1, max = 4096))]
    pub project_directory: Option<String>,
    /// The service of that project.
    #[schemars(length(min = 1, max = 255), regex(pattern = CONTAINER))]
    pub service: Option<String>,
}

/// A command as a list of arguments; no shell reads it.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentCommand {
    /// The program, found in PATH unless it is a path, and its arguments. Just `ostler` is the program that runs the agent.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(max = 4096)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub command: Vec<String>,
    /// The user that it runs as; another than the agent's own needs an agent that runs as root.
    #[schemars(length(min = 1, max = 64))]
    pub user: Option<String>,
    /// The folder that it runs in; a relative path starts at this file's folder. Absent: this file's folder.
    #[schemars(length(min = 1, max = 4096))]
    pub working_directory: Option<String>,
    /// Variables added to the agent's own environment (whose OSTLER_ variables are left out). With `user`, only PATH and LANG are the
    /// agent's, and HOME, USER and LOGNAME are the user's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128, "additionalProperties" = {"type": "string", "maxLength": 32768}))]
    pub environment: BTreeMap<String, String>,
    /// After how many seconds a command that has not ended is killed. Not for the start of a Process, which goes on running.
    #[serde(default = "default_command_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
}

/// How a service is asked whether it is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentCheck {
    /// The URL; its port also tells which process serves.
    #[schemars(length(min = 8, max = 2048), regex(pattern = WEBHOOK_URL))]
    pub url: String,
    /// Seconds to wait for an answer.
    #[serde(default = "default_check_timeout")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,
}

/// Output of a process, appended to a file that is rotated by copy and truncate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentLog {
    /// The file; a relative path starts at this file's folder. Absent: NAME.log in the agent's state folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub file: Option<String>,
    /// The size past which it is rotated.
    #[serde(default = "default_log_bytes")]
    #[schemars(length(min = 1, max = 24), regex(pattern = quantity::PATTERN))]
    pub max_bytes: String,
    /// How many old files are kept (file.1 is the newest).
    #[serde(default = "default_log_files")]
    #[schemars(range(min = 0, max = 100))]
    pub files: i32,
}

impl Default for AgentLog {
    fn default() -> Self {
        Self { file: None, max_bytes: default_log_bytes(), files: default_log_files() }
    }
}

fn default_compose() -> Vec<String> {
    ["docker", "compose"].map(str::to_owned).into()
}

fn default_listen() -> String {
    "127.0.0.1:9099".into()
}

fn default_self_check() -> i32 {
    300
}

fn default_startup() -> i32 {
    600
}

fn default_stop_grace() -> i32 {
    15
}

fn default_command_timeout() -> i32 {
    60
}

fn default_check_timeout() -> i32 {
    5
}

fn default_log_bytes() -> String {
    "50Mi".into()
}

fn default_log_files() -> i32 {
    3
}
