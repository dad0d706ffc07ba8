//! Everything but Linux, macOS above all: sysinfo for processes, `lsof` for ports.

use std::{io, net::IpAddr, os::unix::process::CommandExt, process::Command};

use nix::unistd::User;
use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

use super::{Listener, Proc};
use crate::host::Instance;

/// The second of the last boot.
pub fn boot_id() -> String {
    System::boot_time().map(|t| t.to_string()).unwrap_or_default()
}

fn refreshed(which: ProcessesToUpdate<'_>) -> io::Result<System> {
    let mut system = System::new().map_err(|e| io::Error::other(e.to_string()))?;
    let kind = ProcessRefreshKind::nothing()
        .with_cpu()
        .with_user(UpdateKind::Always)
        .with_cmd(UpdateKind::Always)
        .without_tasks();
    system.refresh_processes_specifics(which, true, kind);
    Ok(system)
}

pub fn processes() -> io::Result<Vec<Proc>> {
    let system = refreshed(ProcessesToUpdate::All)?;
    Ok(system.processes().values().filter_map(read).collect())
}

fn read(process: &Process) -> Option<Proc> {
    if matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead) {
        return None;
    }
    Some(Proc {
        pid: process.pid().as_u32(),
        parent: process.parent().map_or(0, Pid::as_u32),
        session: process.session_id().map(Pid::as_u32),
        start_time: process.start_time(),
        cpu_seconds: process.accumulated_cpu_time() as f64 / 1000.0,
    })
}

pub fn start_time(pid: u32) -> Option<u64> {
    let pid = Pid::from_u32(pid);
    let system = refreshed(ProcessesToUpdate::Some(&[pid])).ok()?;
    system.process(pid).and_then(read).map(|p| p.start_time)
}

pub fn uid_of(pid: u32) -> Option<u32> {
    let pid = Pid::from_u32(pid);
    let system = refreshed(ProcessesToUpdate::Some(&[pid])).ok()?;
    system.process(pid)?.user_id().map(|uid| **uid)
}

/// Each look runs a program.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux reads /proc"))]
pub fn listening_sockets(_: u16) -> Option<Vec<u64>> {
    None
}

/// Nothing tells of the end of a process that is no child: it is looked at again and again.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has pidfds"))]
pub async fn ended(_: &Instance) {}

/// In whole seconds: it may run for one more.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux reads /proc"))]
pub fn running_seconds(instance: &Instance) -> Option<f64> {
    let pid = Pid::from_u32(instance.pid);
    let system = refreshed(ProcessesToUpdate::Some(&[pid])).ok()?;
    let process = system.process(pid).filter(|process| process.start_time() == instance.start_time)?;
    Some(process.run_time() as f64 + 1.0)
}

#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux reads /proc"))]
pub fn command_line(pid: u32) -> Option<String> {
    let pid = Pid::from_u32(pid);
    let system = refreshed(ProcessesToUpdate::Some(&[pid])).ok()?;
    let words: Vec<_> = system.process(pid)?.cmd().iter().map(|w| w.to_string_lossy()).collect();
    Some(words.join(" ")).filter(|c| !c.is_empty())
}

#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux reads /proc"))]
pub fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let output = Command::new("lsof")
        .args(["-nP", &format!("-iTCP:{port}"), "-sTCP:LISTEN", "-Fpn"])
        .output()
        .map_err(|e| io::Error::other(format!("can't run lsof to find who listens on port {port}: {e}")))?;
    // lsof exits with 1 when there is nothing to list.
    Ok(parse_lsof(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines `p123` (a process) and `n127.0.0.1:11434` (one of its sockets).
fn parse_lsof(text: &str) -> Vec<Listener> {
    let mut pid = None;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(number) = line.strip_prefix('p') {
            pid = number.parse().ok();
        } else if let Some((host, _)) = line.strip_prefix('n').and_then(|n| n.rsplit_once(':')) {
            let host = host.trim_matches(['[', ']']);
            let address = match host {
                "*" => IpAddr::from([0, 0, 0, 0]),
                _ => match host.parse() {
                    Ok(address) => address,
                    Err(_) => continue,
                },
            };
            found.push(Listener { address, pid, uid: None });
        }
    }
    found
}

/// Tells the command to change to the user before it is run; std drops all other groups when root does so.
#[cfg_attr(target_os = "linux", expect(dead_code, reason = "Linux has initgroups"))]
pub fn become_user(user: &User, command: &mut Command) -> io::Result<()> {
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsof_names_each_socket_under_its_process() {
        let text = "p812\nf3\nn127.0.0.1:11434\nf4\nn[::1]:11434\np900\nf7\nn*:11434\nf8\nnlocalhost.strange\n";
        let at = |a: &str, pid| Listener { address: a.parse().unwrap(), pid: Some(pid), uid: None };
        assert_eq!(parse_lsof(text), [at("127.0.0.1", 812), at("::1", 812), at("0.0.0.0", 900)]);
        assert_eq!(parse_lsof(""), []);
    }
}
