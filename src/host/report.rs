//! What an agent reports of its host and its services.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{mask::one_line, messages::HoldOwner};

/// Reply of `GET /v1/report`: everything that the agent knows of its host.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentReport {
    pub name: String,
    pub version: String,
    /// The user that the agent runs as: only root starts services of other users.
    pub user: String,
    /// The agent's clock. The reader computes the skew.
    pub time: Timestamp,
    pub started_at: Timestamp,
    /// The agent's own loop only says what it would do.
    #[serde(default)]
    pub observe: bool,
    pub container_runtime: Option<ContainerRuntime>,
    /// Another number means that something about the containers that the agent may see has changed.
    pub containers_revision: Option<u64>,
    /// Of the file system that holds the agent's state.
    pub disk: Option<DiskSpace>,
    /// Rises with each notable change ([`ServiceReport::notable`]) of a service; absent in agents that can't be waited for.
    /// Comparable only between reports with the same `started_at`.
    pub revision: Option<u64>,
    #[serde(default)]
    pub services: Vec<ServiceReport>,
}

impl AgentReport {
    pub fn service(&self, name: &str) -> Option<&ServiceReport> {
        self.services.iter().find(|s| s.name == name)
    }

    /// Whatever answers, its words fit into a status.
    pub(super) fn bounded(mut self) -> Self {
        for service in &mut self.services {
            service.last_failure = service.last_failure.take().map(|text| one_line(&text, MAX_FAILURE_CHARS));
            if let Some(check) = &mut service.last_check {
                check.detail = one_line(&check.detail, MAX_FAILURE_CHARS);
            }
        }
        self
    }

    /// What callers react to, of each service.
    pub fn notable(&self) -> Vec<ServiceReport> {
        self.services.iter().map(ServiceReport::notable).collect()
    }
}

/// The container engine on the agent's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRuntime {
    pub name: String,
    /// As it last said; empty while it has not answered yet.
    pub version: String,
    /// Why nothing is known of its containers now, and since when; absent while it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who is the service's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Manager {
    /// The agent.
    Process,
    /// Something with commands: systemctl, launchctl, brew.
    Command,
    /// A container engine.
    Container,
    /// One that this reader does not know.
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
pub enum ServiceState {
    Running,
    Stopped,
    /// Its process runs, and has not yet answered a check since it was started.
    Starting,
    /// Something else owns its port: left alone unless the file says `adopt: true`.
    Foreign,
    #[serde(other)]
    Unknown,
}

impl ServiceState {
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A process that can't be mistaken for a later one with the same pid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// 0 for a container, whose pid may be one of a virtual machine.
    pub pid: u32,
    /// Opaque: equal for as long as the process is the same one (Linux: clock ticks since boot).
    pub start_time: u64,
}

#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    pub name: String,
    pub manager: Manager,
    pub state: ServiceState,
    pub instance: Option<Instance>,
    /// The user that its process runs as.
    pub user: Option<String>,
    /// The user that the agent's file wants it to run as, if it names one.
    pub wanted_user: Option<String>,
    /// CPU time of its whole process tree in seconds: while it rises the server works, a hung one shows none.
    pub cpu_seconds: Option<f64>,
    /// For how long its process has been running at most: a length, so that clocks need not agree.
    pub running_seconds: Option<f64>,
    /// When the agent first saw the port of the check accept a connection to this instance, by the agent's clock. Absent until
    /// then, and for a service without a check.
    pub accepting_since: Option<Timestamp>,
    pub last_exit: Option<LastExit>,
    /// Why it is down or was last, for people: at most [`MAX_FAILURE_CHARS`] characters without control characters or secrets.
    /// Absent once it is up again.
    pub last_failure: Option<String>,
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Who listens on the port of the check's URL.
    pub port_owner: Option<PortOwner>,
    /// Starts that the agent's own loop did after a failure: a controller counts them as attempts.
    #[serde(default)]
    pub self_starts: SelfStarts,
    #[serde(default)]
    pub failed_starts_in_row: u32,
    /// After five failed starts in a row the loop waits for a passing check or for an operation.
    #[serde(default)]
    pub gave_up: bool,
    /// When a lack of memory was last seen: a pattern in its log, or a kill by the kernel.
    pub out_of_memory_at: Option<Timestamp>,
    pub last_check: Option<CheckReport>,
    /// The operation that runs or waits now.
    pub operation: Option<String>,
}

/// The longest `last_failure`.
pub const MAX_FAILURE_CHARS: usize = 300;

impl ServiceReport {
    /// The part that callers react to: all but times, CPU, the port's owner and the details of checks.
    pub fn notable(&self) -> Self {
        Self {
            cpu_seconds: None,
            running_seconds: None,
            port_owner: None,
            self_starts: SelfStarts { last: None, ..self.self_starts },
            last_check: self.last_check.as_ref().map(|check| CheckReport {
                ok: check.ok,
                at: Timestamp::UNIX_EPOCH,
                detail: String::new(),
            }),
            ..self.clone()
        }
    }

    /// Whether a hold refuses a controller's Restart.
    pub fn held(&self) -> bool {
        self.holds.iter().any(|h| h.owner.binds_controllers())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub owner: HoldOwner,
    #[serde(default)]
    pub reason: String,
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// How the last process of a service ended.
#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    #[serde(default)]
    pub out_of_memory: bool,
    pub at: Timestamp,
    /// The agent was not its parent (it found the process again after its own restart), so that nobody told it how.
    #[serde(default)]
    pub unknown: bool,
    /// The agent itself stopped it, on somebody's request.
    #[serde(default)]
    pub requested: bool,
}

impl LastExit {
    /// In words without times.
    pub fn describe(&self) -> String {
        let how = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "nobody saw how".to_owned(),
        };
        if self.out_of_memory { format!("out of memory, {how}") } else { how }
    }
}

#[serde_with::skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortOwner {
    pub port: u16,
    /// Absent when the owner belongs to somebody whose processes the agent may not see.
    pub pid: Option<u32>,
    pub user: Option<String>,
    pub command: Option<String>,
}

/// Starts by the agent's own loop after a failure, since the agent first knew the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfStarts {
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
}

/// Result of the last check of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    pub ok: bool,
    pub at: Timestamp,
    #[serde(default)]
    pub detail: String,
}

/// Of one file system, as users without privileges may use it. A percentage alone would say nothing: 5 % of a large disk is room
/// for years, half of a small one may not take one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl DiskSpace {
    /// What a worker writes before the database is back: answers of a few MiB at most.
    pub const FOR_RESULTS: u64 = 1 << 30;
    /// A model or an image.
    pub const FOR_DOWNLOADS: u64 = 10 << 30;

    /// Of the file system that holds `path`; `None` where the system can't tell.
    pub fn of(path: &Path) -> Option<Self> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        (stat.blocks() > 0)
            .then(|| Self { free_bytes: bytes(stat.blocks_available()), total_bytes: bytes(stat.blocks()) })
    }

    /// Less free than `enough`, and less than 5 % of the whole: a small disk need not have as much.
    pub const fn is_short_of(self, enough: u64) -> bool {
        self.free_bytes < enough && self.free_bytes < self.total_bytes / 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_this_reader_does_not_know_is_unknown() {
        assert_eq!(serde_json::from_str::<ServiceState>(r#""Hibernating""#).unwrap(), ServiceState::Unknown);
    }

    #[test]
    fn times_and_cpu_are_not_notable_and_a_failing_check_is() {
        let report = |fields: serde_json::Value| -> ServiceReport {
            let mut all = serde_json::json!({"name": "llm", "manager": "Process", "state": "Running", "cpuSeconds": 1.0,
                "lastCheck": {"ok": true, "at": "2026-01-01T00:00:00Z", "detail": "HTTP 200"}});
            for (name, value) in fields.as_object().unwrap() {
                all[name] = value.clone();
            }
            serde_json::from_value(all).unwrap()
        };
        let base = report(serde_json::json!({})).notable();
        for (fields, same) in [
            (serde_json::json!({"cpuSeconds": 2.0, "runningSeconds": 3.0}), true),
            (serde_json::json!({"lastCheck": {"ok": true, "at": "2026-01-02T00:00:00Z"}}), true),
            (serde_json::json!({"lastCheck": {"ok": false, "at": "2026-01-01T00:00:00Z"}}), false),
            (serde_json::json!({"acceptingSince": "2026-01-01T00:00:00Z"}), false),
            (serde_json::json!({"instance": {"pid": 7, "startTime": 9}}), false),
        ] {
            assert_eq!(report(fields.clone()).notable() == base, same, "{fields}");
        }
    }

    #[test]
    fn it_reads_this_machine() {
        let space = DiskSpace::of(&std::env::temp_dir()).expect("it can be told");
        assert!(space.total_bytes > 1 << 20 && space.free_bytes <= space.total_bytes, "{space:?}");
        assert_eq!(DiskSpace::of(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn it_is_short_only_where_both_bounds_are_crossed() {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        for (free_bytes, total_bytes, results, downloads) in [
            (12 * GIB, 252 * GIB, false, false),
            (9 * GIB, 252 * GIB, false, true),
            (GIB, 252 * GIB, false, true),
            (GIB - 1, 252 * GIB, true, true),
            // A small disk.
            (GIB / 2, 4 * GIB, false, false),
            (MIB, 12 * MIB, false, false),
            (MIB / 2, 12 * MIB, true, true),
            (0, 12 * MIB, true, true),
        ] {
            let space = DiskSpace { free_bytes, total_bytes };
            assert_eq!(space.is_short_of(DiskSpace::FOR_RESULTS), results, "{space:?}");
            assert_eq!(space.is_short_of(DiskSpace::FOR_DOWNLOADS), downloads, "{space:?}");
        }
    }
}
