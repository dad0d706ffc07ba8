//! What travels about containers: which, and how they are.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Which containers are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ContainerSelector {
    /// By name; one that does not exist is reported as missing.
    Names(Vec<String>),
    /// Those that have all of these labels; none can be missing.
    Labels(BTreeMap<String, String>),
    /// Services of a compose project; one without a container is reported as missing.
    Compose(ComposeServices),
}

impl ContainerSelector {
    /// For errors: what was asked for, shortened.
    pub fn shown(&self) -> String {
        let text = match self {
            Self::Names(names) => names.join(", "),
            Self::Labels(labels) => labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
            Self::Compose(project) => project.project_directory.clone(),
        };
        text.chars().take(200).collect()
    }
}

/// Services of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComposeServices {
    /// The project's folder on the agent's host, absolute.
    pub project_directory: String,
    /// Its files, as given to compose. Empty: as the containers' labels tell, else what compose finds in the folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Empty: every service that the project has containers of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

/// One container, or the place of one that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ContainerTarget {
    /// A container's name.
    Name(String),
    /// A service of a compose project: its first container.
    Service(ComposeService),
}

/// A service of a compose project.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComposeService {
    pub project_directory: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    pub service: String,
}

impl ContainerTarget {
    /// What people call it: the container's name, or `SERVICE` of its project.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Service(service) => &service.service,
        }
    }
}

/// Body of `POST /v1/containers`. Asks only, so it needs no epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerQuery {
    pub selector: ContainerSelector,
}

/// Reply of `POST /v1/containers`: what the engine has of those that were asked for, never older than a minute. With the
/// engine away there is no such reply, but a refusal (`EngineUnavailable`): nothing that could be taken for "all gone".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerList {
    /// As in the agent's report: as long as it is the same, so are the containers (peaks of memory aside).
    pub revision: u64,
    /// When the engine last confirmed this, by the agent's clock.
    pub observed_at: Timestamp,
    /// In the order of their names.
    pub containers: Vec<ContainerReport>,
    /// What was named and does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ContainerTarget>,
}

/// What the engine says of a container's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, and never started; with `error`, its start failed.
    Created,
    Running,
    /// Somebody paused it: it exists, and does nothing.
    Paused,
    /// The engine's own restart policy is about to start it again.
    Restarting,
    Removing,
    Exited,
    /// The engine could not remove it.
    Dead,
    #[serde(other)]
    Unknown,
}

/// The engine's own health check, if the container has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ContainerHealth {
    Starting,
    Healthy,
    Unhealthy,
    #[serde(other)]
    Unknown,
}

/// Who stopped a container that does not run, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum StoppedBy {
    /// A stop through the engine's API that was not the agent's, and no shutdown of the engine: a person's wish.
    Person,
    /// An operation of this agent.
    Agent,
    /// The engine went down, and its containers with it.
    Engine,
    #[serde(other)]
    Unknown,
}

impl StoppedBy {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStop {
    pub by: StoppedBy,
    pub at: Timestamp,
}

/// One container, as the engine has it and as its events told.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    /// The engine's id, 64 hexadecimal digits: another one is another container.
    pub id: String,
    /// Without the engine's leading slash.
    pub name: String,
    pub image: String,
    pub compose: Option<ComposeIdentity>,
    pub state: ContainerState,
    pub health: Option<ContainerHealth>,
    /// What its failing health check last said: bounded, secrets masked.
    pub health_output: Option<String>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// When its last run ended; absent while it runs.
    pub finished_at: Option<Timestamp>,
    /// Of its last run; absent while it runs and when it never ran.
    pub exit_code: Option<i64>,
    /// The kernel killed its last run for want of memory: with exit code 137 that is what ended it. Absent while it runs.
    #[serde(default)]
    pub oom_killed: bool,
    /// What the engine said when it could not start it: no such image, no such mount.
    pub error: Option<String>,
    /// Its image is not on this host.
    #[serde(default)]
    pub image_missing: bool,
    /// How often the engine's own restart policy started it since a person or the agent last did.
    #[serde(default)]
    pub restart_count: i64,
    /// The engine's own restart policy: `no`, `always`, `unless-stopped`, `on-failure`.
    #[serde(default)]
    pub restart_policy: String,
    /// It is to run to its end once: its compose file says `restart: "no"`, or another service waits for its success.
    #[serde(default)]
    pub one_shot: bool,
    /// Services of its compose project that must come before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ServiceDependency>,
    /// In bytes; absent: none.
    pub memory_limit: Option<i64>,
    /// The most memory that it was seen to use under this id, in bytes, page cache left out.
    pub memory_peak: Option<i64>,
    /// How often it ran out of memory, as far as the agent saw under this id.
    #[serde(default)]
    pub oom_count: u64,
    pub last_oom_at: Option<Timestamp>,
    /// How its compose file differs from what it was made from, as the last Up found.
    pub drift: Option<String>,
    /// Who stopped its last run, if somebody did. Absent while it runs.
    pub stopped: Option<ContainerStop>,
    /// The operation that runs or waits now.
    pub operation: Option<String>,
}

/// What ended by a lack of memory, ended so soon after that was told.
const AROUND_THE_END: SignedDuration = SignedDuration::from_secs(1);

impl ContainerReport {
    /// Whether a lack of memory ended its last run: 137 with the runtime's flag. Without the flag, 137 is a kill from outside,
    /// unless the runtime told of this run's lack of memory just before it ended, or even afterwards: then it has no flag.
    pub fn ended_out_of_memory(&self) -> bool {
        let told = || {
            let (oom, end) = self.last_oom_at.zip(self.finished_at)?;
            Some(oom >= end - AROUND_THE_END && self.started_at.is_none_or(|start| oom >= start))
        };
        self.exit_code == Some(137) && (self.oom_killed || told() == Some(true))
    }

    /// How to name it in an operation.
    pub fn target(&self) -> ContainerTarget {
        ContainerTarget::Name(self.name.clone())
    }
}

/// What compose wrote on a container that it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComposeIdentity {
    pub project: String,
    pub service: String,
    /// From 1; more than one where a service is scaled.
    pub number: u32,
    pub project_directory: String,
}

/// A service of the same compose project that another one depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDependency {
    pub service: String,
    pub condition: DependencyCondition,
}

/// How a service must be before those that depend on it may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DependencyCondition {
    Started,
    Healthy,
    Completed,
}

impl DependencyCondition {
    /// As compose writes it.
    pub fn of(word: &str) -> Self {
        match word {
            "service_healthy" => Self::Healthy,
            "service_completed_successfully" => Self::Completed,
            _ => Self::Started,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_older_reader_does_not_know_is_unknown() {
        assert_eq!(serde_json::from_value::<ContainerState>(json!("Frozen")).unwrap(), ContainerState::Unknown);
        assert_eq!(serde_json::from_value::<StoppedBy>(json!("Cat")).unwrap(), StoppedBy::Unknown);
    }

    #[test]
    fn a_lack_of_memory_is_the_engines_flag_or_its_event_around_the_end() {
        for (exit_code, flag, oom_at, expected) in [
            (137, true, None, true),
            (137, false, None, false),
            (137, false, Some("2026-03-01T02:59:59.5Z"), true),
            (137, false, Some("2026-03-01T03:00:00.2Z"), true),
            (137, false, Some("2026-03-01T02:59:30Z"), false),
            (137, false, Some("2026-03-01T01:59:59Z"), false),
            (1, false, Some("2026-03-01T03:00:00Z"), false),
        ] {
            let report: ContainerReport = serde_json::from_value(json!({
                "id": "a1", "name": "search", "image": "search:1", "state": "Exited", "createdAt": "2026-03-01T01:00:00Z",
                "startedAt": "2026-03-01T02:00:00Z", "finishedAt": "2026-03-01T03:00:00Z", "exitCode": exit_code,
                "oomKilled": flag, "lastOomAt": oom_at,
            }))
            .unwrap();
            assert_eq!(report.ended_out_of_memory(), expected, "{exit_code} {flag} {oom_at:?}");
        }
        let soon_started: ContainerReport = serde_json::from_value(json!({
            "id": "a1", "name": "search", "image": "search:1", "state": "Exited", "createdAt": "2026-03-01T01:00:00Z",
            "startedAt": "2026-03-01T03:00:00Z", "finishedAt": "2026-03-01T03:00:00.5Z", "exitCode": 137,
            "lastOomAt": "2026-03-01T02:59:59.9Z",
        }))
        .unwrap();
        assert!(!soon_started.ended_out_of_memory(), "that was the run before");
    }
}
