//! Processes whose parent the agent is: found by their record, seen with their port, started, stopped.

use std::{io::Read, net::IpAddr, path::Path, process::Stdio, time::Duration};

use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use super::{error::ServiceError, launch::Launcher, log};
use crate::{
    agent::{
        config::{CheckSpec, CommandSpec, LogSpec},
        exec::{Record, complaint_path, has_become},
        keep::{self, StateError},
        os::{self, Listener, Proc, Processes, Signal},
    },
    host::{Instance, PortOwner},
    telemetry::crash_point,
};

/// How long a new process may take to write its record.
const RECORD_TIME: Duration = Duration::from_secs(10);
/// How long the kernel may take after SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(10);
/// How long children may outlive their parent after SIGTERM.
const ORPHAN_TIME: Duration = Duration::from_secs(2);
/// How much is read of why a program was not run, in bytes.
const MAX_COMPLAINT: u64 = 4096;

/// Who listens on the port of a check's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSight {
    pub owner: PortOwner,
    /// It belongs to the service's own process tree.
    pub own: bool,
}

impl PortSight {
    /// For an error: who it is.
    pub fn describe(&self) -> String {
        describe(&self.owner)
    }
}

/// Pid, program and user of a port's owner, as far as they are known.
fn describe(owner: &PortOwner) -> String {
    let user = owner.user.as_ref().map(|user| format!(" of user {user}")).unwrap_or_default();
    let program = owner.command.as_deref().and_then(|c| c.split_ascii_whitespace().next());
    let program = program.map(|p| format!(" {}", p.rsplit('/').next().unwrap_or(p))).unwrap_or_default();
    match owner.pid {
        Some(pid) => format!("pid {pid}{program}{user}"),
        None => format!("a process{user} that this agent can't see"),
    }
}

/// Who has a port, for a failure's text; `None`: nobody, or it can't be told.
pub fn holder(address: IpAddr, port: u16) -> Option<String> {
    let listener = os::listener(address, port).ok()??;
    Some(describe(&owner(&listener, port)))
}

fn owner(listener: &Listener, port: u16) -> PortOwner {
    let uid = listener.pid.and_then(os::uid_of).or(listener.uid);
    PortOwner {
        port,
        pid: listener.pid,
        user: uid.map(os::user_name),
        command: listener.pid.and_then(os::command_line),
    }
}

/// The recorded process, if it still runs.
pub fn own(record: &Path) -> Result<Option<Instance>, StateError> {
    Ok(read_record(record)?.and_then(|r| r.alive().cloned()))
}

pub fn read_record(record: &Path) -> Result<Option<Record>, StateError> {
    keep::read(record)
}

/// Whether the recorded process runs, and an agent started it.
pub fn own_started(record: &Path) -> Result<bool, StateError> {
    Ok(read_record(record)?.is_some_and(|r| !r.adopted && r.alive().is_some()))
}

/// Services of an agent's state folder whose processes run, and that an agent started: by name, with the pid of each.
pub fn running_in(folder: &Path) -> Vec<(String, u32)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut running: Vec<(String, u32)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".process")?.to_owned();
            let record = read_record(&path).ok()??;
            let instance = record.alive().filter(|_| !record.adopted)?;
            Some((name, instance.pid))
        })
        .collect();
    running.sort();
    running
}

/// Takes over a process that the agent did not start.
pub fn adopt(record: &Path, pid: u32) -> Result<Option<Instance>, StateError> {
    let Some(instance) = os::instance_of(pid) else {
        return Ok(None);
    };
    let written = Record { instance: instance.clone(), boot: os::boot_id(), adopted: true };
    keep::write(record, &written)?;
    Ok(Some(instance))
}

/// What is left of a recorded process that is gone: children that outlived it. They are the service's, too.
pub fn leftovers<'a>(record: Option<&Record>, processes: &'a Processes) -> Vec<&'a Proc> {
    match record {
        Some(record) if record.boot == os::boot_id() && record.alive().is_none() => processes.orphans(&record.instance),
        _ => Vec::new(),
    }
}

/// Who listens where the check asks; `None` when nobody does, or the check asks another host.
pub fn port(
    check: &CheckSpec,
    record: Option<&Record>,
    processes: &Processes,
) -> Result<Option<PortSight>, ServiceError> {
    let Some(address) = check.local_address() else {
        return Ok(None);
    };
    let port = check.port();
    let listener = os::listener(address, port).map_err(|e| ServiceError::Look(e.to_string()))?;
    Ok(listener.map(|l| {
        let mut tree = leftovers(record, processes);
        if let Some(instance) = record.and_then(Record::alive) {
            tree.extend(processes.tree(instance.pid));
        }
        PortSight { own: l.pid.is_some_and(|pid| tree.iter().any(|p| p.pid == pid)), owner: owner(&l, port) }
    }))
}

/// A process that was begun.
#[derive(Debug)]
pub struct SpawnedProcess {
    pub instance: Instance,
    pub child: Child,
    /// Why it has not become its program: it is about to end.
    pub failed: Option<String>,
}

/// Starts a process; its record is on disk when this returns, and it has become its program.
pub async fn spawn(
    launcher: &Launcher,
    start: &CommandSpec,
    record: &Path,
    output: &LogSpec,
) -> Result<SpawnedProcess, ServiceError> {
    let file = log::open(&output.file, start.user.as_deref())
        .and_then(|out| Ok((out.try_clone()?, out)))
        .map_err(|e| StateError::io("open the log", &output.file, e))?;
    // An old one would be taken for this start's.
    let _ = std::fs::remove_file(complaint_path(record));
    let mut child = launcher
        .command(start, Some(record))
        .stdout(Stdio::from(file.0))
        .stderr(Stdio::from(file.1))
        .spawn()
        .map_err(|e| launcher.not_spawned(&e))?;
    crash_point("agent.after-spawn-before-record");
    let pid = child.id();
    let deadline = Instant::now() + RECORD_TIME;
    loop {
        if let Some(written) = read_record(record)?
            && Some(written.instance.pid) == pid
            && written.boot == os::boot_id()
        {
            crash_point("agent.after-record");
            while !has_become(record) && Instant::now() < deadline {
                sleep(Duration::from_millis(2)).await;
            }
            return Ok(SpawnedProcess { instance: written.instance, child, failed: complaint(record) });
        }
        let ended = child.try_wait().map_err(|e| ServiceError::Look(e.to_string()))?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.start_kill();
            return Err(ServiceError::Spawn {
                cause: complaint(record)
                    .unwrap_or_else(|| format!("can't run {}: it wrote no record; see its log", start.argv.join(" "))),
            });
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Why the program was not run, when the process ended before it became the program.
pub fn complaint(record: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(complaint_path(record)).ok()?.take(MAX_COMPLAINT).read_to_string(&mut text).ok()?;
    Some(text).filter(|c| !c.is_empty())
}

/// SIGTERM to a process, or what is left of it, and all that it started, SIGKILL after the grace; returns when none of them is left.
pub async fn stop(instance: &Instance, grace: Duration) -> Result<(), ServiceError> {
    let mut known = Vec::new();
    signal_all(instance, &mut known, Signal::SIGTERM)?;
    let gone = wait_gone(grace, || !os::is_alive(instance)).await;
    if gone && wait_gone(ORPHAN_TIME, || !known.iter().any(os::is_alive)).await {
        return Ok(());
    }
    let deadline = Instant::now() + KILL_TIME;
    loop {
        // Again and again: something may have been started meanwhile.
        signal_all(instance, &mut known, Signal::SIGKILL)?;
        if wait_gone(Duration::from_millis(200), || !known.iter().any(os::is_alive)).await {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(ServiceError::Unkillable { pid: instance.pid });
        }
    }
}

/// Signals the tree as it is now, and what was in it before and still runs.
fn signal_all(root: &Instance, known: &mut Vec<Instance>, signal: Signal) -> Result<(), ServiceError> {
    let processes = Processes::read().map_err(|e| ServiceError::Look(e.to_string()))?;
    let tree = match processes.instance(root) {
        Some(_) => processes.tree(root.pid),
        None => processes.orphans(root),
    };
    for process in tree {
        let instance = Instance { pid: process.pid, start_time: process.start_time };
        if !known.contains(&instance) {
            known.push(instance);
        }
    }
    for instance in known.iter().filter(|i| processes.instance(i).is_some()) {
        if let Err(cause) = os::signal(instance.pid, signal)
            && cause.raw_os_error() != Some(nix::errno::Errno::ESRCH as i32)
        {
            return Err(ServiceError::Signal { pid: instance.pid, cause: cause.to_string() });
        }
    }
    Ok(())
}

async fn wait_gone(within: Duration, gone: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !gone() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(25)).await;
    }
    true
}
