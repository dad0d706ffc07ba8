//! What the engine says of a container, turned into what is reported: pure.

use std::{collections::BTreeMap, fmt};

use bollard::models::{
    ContainerInspectResponse, ContainerState as EngineState, ContainerStateStatusEnum, ContainerSummary, Health,
    HealthStatusEnum, HostConfig,
};
use jiff::Timestamp;

use crate::host::{
    ComposeIdentity, ContainerHealth, ContainerReport, ContainerState, DependencyCondition, ServiceDependency, mask,
};

/// Compose's labels.
pub mod label {
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const NUMBER: &str = "com.docker.compose.container-number";
    pub const DIRECTORY: &str = "com.docker.compose.project.working_dir";
    pub const FILES: &str = "com.docker.compose.project.config_files";
    pub const ENV_FILES: &str = "com.docker.compose.project.environment_file";
    pub const HASH: &str = "com.docker.compose.config-hash";
    pub const ONEOFF: &str = "com.docker.compose.oneoff";
    pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
}

/// How long a container may take to stop unless it says otherwise, in seconds.
const STOP_GRACE: u64 = 10;
/// How much of a failing health check's output is kept, in bytes.
const HEALTH_OUTPUT: usize = 512;

/// How many dependencies of a service are read.
const MOST_DEPENDENCIES: usize = 64;

/// One container as the engine has it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerFacts {
    /// What events tell (who stopped it, how often it ran out of memory) is not in here yet.
    pub report: ContainerReport,
    pub labels: BTreeMap<String, String>,
    /// Memory and swap together, in bytes; 0: not counted, or as the engine thinks; -1: no limit.
    pub memory_swap: i64,
    /// Seconds between the signal to stop and the kill.
    pub stop_grace: u64,
    pub secrets: ContainerSecrets,
    /// The id of its image.
    pub image: String,
}

/// Values of a container's variables that are secrets; its `Debug` tells nothing.
#[derive(Clone, Default, PartialEq)]
pub struct ContainerSecrets(Vec<String>);

impl ContainerSecrets {
    pub fn mask(&self, text: &str) -> String {
        mask::masked(text, &self.0)
    }
}

impl fmt::Debug for ContainerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerSecrets({})", self.0.len())
    }
}

impl ContainerFacts {
    /// Reads an inspection; `None` if it lacks what every engine says.
    pub fn read(seen: ContainerInspectResponse) -> Option<Self> {
        let config = seen.config.unwrap_or_default();
        let host = seen.host_config.unwrap_or_default();
        let state = seen.state.unwrap_or_default();
        let labels: BTreeMap<_, _> = config.labels.unwrap_or_default().into_iter().collect();
        let secrets = ContainerSecrets(mask::secrets_of(config.env.iter().flatten().map(String::as_str)));
        let mut report = ContainerReport {
            id: seen.id?,
            name: seen.name?.trim_start_matches('/').to_owned(),
            image: config.image.unwrap_or_default(),
            compose: compose_identity(&labels),
            state: state_of(state.status),
            health: None,
            health_output: None,
            created_at: seen.created?.parse().ok()?,
            started_at: time(state.started_at.as_deref()),
            finished_at: None,
            exit_code: None,
            oom_killed: false,
            error: state.error.clone().filter(|e| !e.is_empty()).map(|e| secrets.mask(&e)),
            image_missing: false,
            restart_count: seen.restart_count.unwrap_or(0),
            restart_policy: restart_policy(&host),
            one_shot: false,
            depends_on: dependencies(labels.get(label::DEPENDS_ON).map_or("", String::as_str)),
            memory_limit: host.memory.filter(|&bytes| bytes > 0),
            memory_peak: None,
            oom_count: 0,
            last_oom_at: None,
            drift: None,
            stopped: None,
            operation: None,
        };
        end_of_run(&mut report, &state);
        health(&mut report, state.health.as_ref(), &secrets);
        Some(Self {
            report,
            labels,
            memory_swap: host.memory_swap.unwrap_or(0),
            stop_grace: config.stop_timeout.and_then(|s| u64::try_from(s).ok()).unwrap_or(STOP_GRACE),
            secrets,
            image: seen.image.unwrap_or_default(),
        })
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Made by `docker compose run`: no part of what should be up.
    pub fn is_oneoff(&self) -> bool {
        self.label(label::ONEOFF).is_some_and(|v| v.eq_ignore_ascii_case("true"))
    }

    /// Whether its own runtime leaves it down once it has ended, and it ended by itself with an error.
    pub fn failed_for_good(&self) -> bool {
        let report = &self.report;
        report.state == ContainerState::Exited
            && report.restart_policy == "no"
            && report.exit_code.is_some_and(|code| code != 0)
    }

    pub fn runs(&self) -> bool {
        self.report.state == ContainerState::Running
    }

    /// Whether a line of the engine's list says the same: else it is looked at again.
    pub fn agrees_with(&self, line: &ContainerSummary) -> bool {
        let state = line.state.as_ref().map(|s| s.to_string().to_lowercase());
        let named = line.names.iter().flatten().any(|n| n.trim_start_matches('/') == self.report.name);
        named && state.is_none_or(|s| state_of_word(&s) == self.report.state)
    }
}

/// Exit code and flags are of the last run: while a container runs, the engine still shows some of the run before.
fn end_of_run(report: &mut ContainerReport, state: &EngineState) {
    let ended = matches!(report.state, ContainerState::Exited | ContainerState::Dead | ContainerState::Restarting);
    if ended && report.started_at.is_some() {
        report.finished_at = time(state.finished_at.as_deref());
        report.exit_code = state.exit_code;
        report.oom_killed = state.oom_killed.unwrap_or(false);
    }
    let failed_start = report.state == ContainerState::Created && report.error.is_some();
    if failed_start {
        report.exit_code = state.exit_code;
    }
}

fn health(report: &mut ContainerReport, health: Option<&Health>, secrets: &ContainerSecrets) {
    if report.state != ContainerState::Running {
        return;
    }
    report.health = match health.and_then(|h| h.status) {
        None | Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) => None,
        Some(HealthStatusEnum::STARTING) => Some(ContainerHealth::Starting),
        Some(HealthStatusEnum::HEALTHY) => Some(ContainerHealth::Healthy),
        Some(HealthStatusEnum::UNHEALTHY) => Some(ContainerHealth::Unhealthy),
    };
    if report.health == Some(ContainerHealth::Unhealthy) {
        let last = health.and_then(|h| h.log.as_ref()?.last()?.output.as_deref());
        report.health_output = last.map(|text| mask::tail(&secrets.mask(text.trim()), HEALTH_OUTPUT).to_owned());
    }
}

fn state_of(status: Option<ContainerStateStatusEnum>) -> ContainerState {
    status.map_or(ContainerState::Unknown, |s| state_of_word(&s.to_string().to_lowercase()))
}

fn state_of_word(word: &str) -> ContainerState {
    match word {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running,
        "paused" => ContainerState::Paused,
        "restarting" => ContainerState::Restarting,
        "removing" => ContainerState::Removing,
        "exited" => ContainerState::Exited,
        "dead" => ContainerState::Dead,
        _ => ContainerState::Unknown,
    }
}

fn restart_policy(host: &HostConfig) -> String {
    let name = host.restart_policy.as_ref().and_then(|p| p.name).map(|n| n.to_string()).unwrap_or_default();
    if name.is_empty() { "no".to_owned() } else { name }
}

/// `db:service_healthy:false,migrate:service_completed_successfully:true`
fn dependencies(text: &str) -> Vec<ServiceDependency> {
    let one = |part: &str| {
        let (service, rest) = part.split_once(':')?;
        let condition = DependencyCondition::of(rest.split(':').next().unwrap_or_default());
        (!service.is_empty()).then(|| ServiceDependency { service: service.to_owned(), condition })
    };
    text.split(',').take(MOST_DEPENDENCIES).filter_map(one).collect()
}

/// The engine writes year 1 for never.
fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse::<Timestamp>().ok().filter(|t| t.as_second() > 0)
}

/// Which service of which project a container is, if its labels are as compose writes them: all of them. An image can have labels,
/// too.
pub fn compose_identity(labels: &BTreeMap<String, String>) -> Option<ComposeIdentity> {
    let text = |name: &str| labels.get(name).filter(|value| !value.is_empty());
    let number = text(label::NUMBER)?.parse().ok().filter(|number| *number > 0)?;
    let origin = ComposeFiles::of(labels)?;
    let (project, service) = (text(label::PROJECT)?.clone(), text(label::SERVICE)?.clone());
    Some(ComposeIdentity { project, service, number, project_directory: origin.directory })
}

/// From what compose made a project's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComposeFiles {
    pub directory: String,
    pub files: Vec<String>,
    pub env_files: Vec<String>,
}

impl ComposeFiles {
    /// `None`: labels lack, or they name what is no file of this machine.
    pub fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        let list = |name: &str| -> Vec<String> {
            let text = labels.get(name).map_or("", String::as_str);
            text.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect()
        };
        let directory = folder(labels.get(label::DIRECTORY)?).to_owned();
        let origin = Self { directory, files: list(label::FILES), env_files: list(label::ENV_FILES) };
        (!origin.files.is_empty() && origin.paths().all(is_plain_path)).then_some(origin)
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        [&self.directory].into_iter().chain(&self.files).chain(&self.env_files).map(String::as_str)
    }
}

/// An absolute path that means what it says: no URL, no option, no way back up.
fn is_plain_path(path: &str) -> bool {
    path.len() <= 4096
        && path.starts_with('/')
        && !path.contains("://")
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| part != "..")
}

/// A folder's path without the slash at its end.
pub fn folder(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if !path.is_empty() => "/",
        trimmed => trimmed,
    }
}

#[cfg(test)]
pub mod tests {
    use bollard::models::{ContainerConfig, RestartPolicy};
    use serde_json::json;

    use super::*;

    /// An inspection with some state, of project `knowledge` in `/srv/knowledge`.
    pub fn inspection(id: &str, service: &str, state: serde_json::Value) -> ContainerInspectResponse {
        let labels = json!({
            label::PROJECT: "knowledge", label::SERVICE: service, label::NUMBER: "1", label::HASH: "h1",
            label::DIRECTORY: "/srv/knowledge", label::FILES: "/srv/knowledge/compose.yaml", label::ONEOFF: "False",
        });
        ContainerInspectResponse {
            id: Some(id.to_owned()),
            name: Some(format!("/knowledge-{service}-1")),
            created: Some("2026-03-01T02:00:00.123456789Z".to_owned()),
            state: serde_json::from_value(state).unwrap(),
            config: Some(ContainerConfig {
                image: Some("nightly:1".to_owned()),
                labels: serde_json::from_value(labels).unwrap(),
                env: Some(vec!["DB_PASSWORD=correct-horse".to_owned()]),
                ..Default::default()
            }),
            host_config: Some(HostConfig {
                memory: Some(20 << 20),
                memory_swap: Some(40 << 20),
                restart_policy: Some(RestartPolicy { name: None, maximum_retry_count: None }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn an_end_is_told_by_its_code_and_flag_and_only_once_it_has_ended() {
        let at = "2026-03-01T03:00:00Z";
        let state = |status: &str, code: i64, oom: bool| json!({"Status": status, "ExitCode": code, "OOMKilled": oom, "StartedAt": at, "FinishedAt": at, "Error": ""});
        for (name, state, exit_code, out_of_memory) in [
            ("out of memory", state("exited", 137, true), Some(137), true),
            ("killed from outside", state("exited", 137, false), Some(137), false),
            ("a child was killed, it ended by itself", state("exited", 1, true), Some(1), false),
            ("clean", state("exited", 0, false), Some(0), false),
            ("runs again, with the flag of before", state("running", 0, true), None, false),
            ("about to be started by the engine", state("restarting", 137, true), Some(137), true),
        ] {
            let facts = ContainerFacts::read(inspection("a1", "nightly", state)).unwrap();
            assert_eq!(
                (facts.report.exit_code, facts.report.ended_out_of_memory()),
                (exit_code, out_of_memory),
                "{name}"
            );
            assert_eq!(facts.report.finished_at.is_some(), exit_code.is_some(), "{name}");
        }
    }

    #[test]
    fn never_is_no_time_and_a_name_has_no_slash() {
        let never = "0001-01-01T00:00:00Z";
        let state = json!({"Status": "created", "ExitCode": 0, "StartedAt": never, "FinishedAt": never});
        let facts = ContainerFacts::read(inspection("a1", "nightly", state)).unwrap();
        let report = &facts.report;
        assert_eq!((report.started_at, report.finished_at, report.exit_code), (None, None, None));
        assert_eq!((report.name.as_str(), report.restart_policy.as_str()), ("knowledge-nightly-1", "no"));
        assert_eq!(report.compose.as_ref().unwrap().project_directory, "/srv/knowledge");
        assert_eq!(report.memory_limit, Some(20 << 20));
    }

    #[test]
    fn a_container_is_of_a_service_only_by_all_of_composes_labels() {
        let whole = inspection("a1", "db", json!({})).config.unwrap().labels.unwrap();
        let with = |changes: &[(&str, Option<&str>)]| {
            let mut labels: BTreeMap<String, String> = whole.clone().into_iter().collect();
            for (name, value) in changes {
                match value {
                    Some(value) => labels.insert((*name).to_owned(), (*value).to_owned()),
                    None => labels.remove(*name),
                };
            }
            compose_identity(&labels).map(|found| (found.project, found.service, found.number))
        };
        let db = Some(("knowledge".to_owned(), "db".to_owned(), 1));
        assert_eq!(with(&[]), db);
        assert_eq!(with(&[(label::ENV_FILES, Some("/srv/knowledge/.env"))]), db);
        for name in [label::PROJECT, label::SERVICE, label::NUMBER, label::DIRECTORY, label::FILES] {
            assert_eq!(with(&[(name, None)]), None, "without {name}");
            assert_eq!(with(&[(name, Some(""))]), None, "with an empty {name}");
        }
        for (name, value) in [
            (label::NUMBER, "0"),
            (label::NUMBER, "-1"),
            (label::FILES, "oci://evil.example/x"),
            (label::FILES, "https://evil.example/compose.yaml"),
            (label::FILES, "/srv/knowledge/compose.yaml,-"),
            (label::FILES, "-f"),
            (label::FILES, "compose.yaml"),
            (label::FILES, "/srv/knowledge/../../etc/x.yaml"),
            (label::DIRECTORY, "knowledge"),
            (label::DIRECTORY, "/srv/\nknowledge"),
            (label::ENV_FILES, "--env-file=/etc/shadow"),
            (label::ENV_FILES, "../secrets"),
        ] {
            assert_eq!(with(&[(name, Some(value))]), None, "{name}={value}");
        }
    }

    #[test]
    fn what_compose_wrote_of_dependencies_is_read() {
        use DependencyCondition::{Completed, Healthy, Started};
        let read = dependencies(
            "db:service_healthy:false,migrate:service_completed_successfully:true,cache:service_started:,:x,odd",
        );
        let read: Vec<_> = read.iter().map(|one| (one.service.as_str(), one.condition)).collect();
        assert_eq!(read, [("db", Healthy), ("migrate", Completed), ("cache", Started)]);
        assert!(dependencies("").is_empty());
    }

    #[test]
    fn what_a_failing_health_check_says_is_masked() {
        let state = json!({"Status": "running", "StartedAt": "2026-03-01T03:00:00Z", "Health": {"Status": "unhealthy",
            "Log": [{"Output": "old"}, {"Output": "login with correct-horse failed\n"}]}});
        let facts = ContainerFacts::read(inspection("a1", "nightly", state)).unwrap();
        assert_eq!(facts.report.health, Some(ContainerHealth::Unhealthy));
        assert_eq!(facts.report.health_output.as_deref(), Some("login with *** failed"));
        assert!(!format!("{facts:?}").contains("correct-horse"));
    }
}
