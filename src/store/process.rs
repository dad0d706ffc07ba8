//! Which process this is, so that others can tell whether it still runs.

use std::{fs, sync::OnceLock};

use jiff::Timestamp;
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A process, as far as others can check on it. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessIdentity {
    /// Of the machine: a hash of its id and its name. The id alone is often copied with an image.
    pub host: String,
    /// Of the machine's boot.
    pub boot: String,
    /// Where `pid` means this process.
    pub pid_namespace: String,
    pub pid: u32,
    /// In the system's own unit: only equality means something.
    pub start_time: u64,
    /// When the process told who it is, by its own clock: no earlier than its container began.
    pub known_since: Timestamp,
    pub pod: Option<PodIdentity>,
}

/// The pod that a process runs in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodIdentity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl ProcessIdentity {
    /// This process.
    pub fn own() -> &'static Self {
        static OWN: OnceLock<ProcessIdentity> = OnceLock::new();
        OWN.get_or_init(|| {
            let pid = std::process::id();
            Self {
                host: host(),
                boot: boot(),
                pid_namespace: pid_namespace(),
                pid,
                start_time: start_time(pid).unwrap_or_default(),
                known_since: Timestamp::now(),
                pod: pod(),
            }
        })
    }

    /// Whether both see the same processes under the same ids.
    pub fn shares_pids_with(&self, other: &Self) -> bool {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        same(&self.boot, &other.boot) && same(&self.pid_namespace, &other.pid_namespace)
    }

    /// Whether both are one process.
    pub fn is(&self, other: &Self) -> bool {
        self.shares_pids_with(other) && (self.pid, self.start_time) == (other.pid, other.start_time)
    }

    /// Whether it surely ended. Asks about this machine's processes: for one that shares their ids.
    pub fn has_ended(&self) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        if pid <= 0 || self.start_time == 0 {
            return false;
        }
        // Another user's process may be hidden from `/proc`, not from this.
        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            return true;
        }
        start_time(self.pid).is_some_and(|now| now != self.start_time)
    }
}

fn host() -> String {
    let read = |path: &str| fs::read_to_string(path).ok();
    let id =
        read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id")).or_else(|| sysinfo::Product::uuid().ok());
    let Some(id) = id.filter(|id| !id.trim().is_empty()) else { return String::new() };
    let name = sysinfo::System::host_name().unwrap_or_default();
    let hash = Sha256::digest(format!("{}\n{name}", id.trim()));
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn pod() -> Option<PodIdentity> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    Some(PodIdentity { namespace: variable("POD_NAMESPACE")?, name: variable("POD_NAME")?, uid: variable("POD_UID")? })
}

#[cfg(target_os = "linux")]
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(target_os = "linux")]
fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default()
}

/// In ticks since the boot. 0 for a zombie: its sockets are closed. `None`: nobody knows.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the command's name may itself contain blanks and brackets; what follows begins with field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { Some(0) } else { fields.nth(18)?.parse().ok() }
}

/// The time of the last boot would move with the clock.
#[cfg(not(target_os = "linux"))]
fn boot() -> String {
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "kern.bootsessionuuid"]).output();
    output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn pid_namespace() -> String {
    "all".to_owned()
}

/// In seconds since 1970. `None`: nobody knows.
#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> Option<u64> {
    let pid = sysinfo::Pid::from_u32(pid);
    let mut system = sysinfo::System::new();
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[pid]), true);
    let process = system.process(pid)?;
    if process.status() == sysinfo::ProcessStatus::Zombie { Some(0) } else { Some(process.start_time()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_alive_until_it_ends_and_no_other_is_taken_for_it() {
        let own = ProcessIdentity::own();
        assert!(own.is(own) && !own.has_ended() && own.start_time > 0, "{own:?}");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("sleep");
        let other =
            ProcessIdentity { pid: child.id(), start_time: start_time(child.id()).expect("it runs"), ..own.clone() };
        assert!(other.shares_pids_with(own) && !other.is(own));
        assert!(!other.has_ended());
        let before = ProcessIdentity { start_time: other.start_time - 1, ..other.clone() };
        assert!(before.has_ended(), "another process has its id");
        child.kill().expect("kill");
        let begun = std::time::Instant::now();
        while !other.has_ended() {
            assert!(begun.elapsed().as_secs() < 10, "a zombie has no sockets");
        }
        child.wait().expect("wait");
        assert!(other.has_ended());
    }

    #[test]
    fn what_is_not_known_is_nothing_in_common() {
        let known = |boot: &str, namespace: &str| ProcessIdentity {
            boot: boot.into(),
            pid_namespace: namespace.into(),
            ..ProcessIdentity::default()
        };
        for (a, b, shares) in [
            (known("b", "n"), known("b", "n"), true),
            (known("b", "n"), known("c", "n"), false),
            (known("b", "n"), known("b", "m"), false),
            (known("", "n"), known("", "n"), false),
            (known("b", ""), known("b", ""), false),
        ] {
            assert_eq!(a.shares_pids_with(&b), shares, "{a:?} {b:?}");
        }
        assert!(!ProcessIdentity::default().has_ended());
    }
}
