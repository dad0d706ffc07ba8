//! Linux: `/proc`.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::CString,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    process::Command,
    sync::OnceLock,
};

use nix::unistd::{User, initgroups, setgid, setuid};
use parking_lot::Mutex;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use super::{Listener, Proc, sockets::sockets};
use crate::host::Instance;

/// USER_HZ, the unit of times in `/proc/PID/stat`: 100 on every architecture that Rust has a std for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Different after each boot, so that a pid and start time of an earlier boot can't be mistaken.
pub fn boot_id() -> String {
    static OWN: OnceLock<String> = OnceLock::new();
    let read =
        || fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default();
    OWN.get_or_init(read).clone()
}

pub fn processes() -> io::Result<Vec<Proc>> {
    Ok(pids()?.filter_map(read).collect())
}

pub fn start_time(pid: u32) -> Option<u64> {
    read(pid).map(|p| p.start_time)
}

/// Both count from the boot. A start is kept in whole ticks.
pub fn running_seconds(instance: &Instance) -> Option<f64> {
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_ascii_whitespace().next()?.parse().ok()?;
    let started = instance.start_time as f64 / TICKS_PER_SECOND;
    (started <= uptime + 1.0).then(|| (uptime - started).max(0.0) + 1.0 / TICKS_PER_SECOND)
}

/// Returns when the kernel tells of the process's end, or can't.
pub async fn ended(instance: &Instance) {
    let pid = i32::try_from(instance.pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(Ok(fd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK)) else { return };
    // Opened for whoever has the pid: it must still be the same process.
    if start_time(instance.pid) != Some(instance.start_time) {
        return;
    }
    // No pipe, but what waits for one waits for anything that can be polled, without unsafe code of ours.
    if let Ok(fd) = pipe::Receiver::from_owned_fd_unchecked(fd) {
        // It becomes readable once, at the end; an error leaves it to the caller's look.
        let _ = fd.readable().await;
    }
}

pub fn command_line(pid: u32) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = raw.split(|&b| b == 0).map(String::from_utf8_lossy).collect();
    Some(words.join(" ").trim().to_owned()).filter(|c| !c.is_empty())
}

fn pids() -> io::Result<impl Iterator<Item = u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()))
}

/// One read: the kernel gives all of it at once, and this is done for each process of the host.
fn read(pid: u32) -> Option<Proc> {
    let mut stat = [0; 2048];
    let length = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    parse_stat(pid, &String::from_utf8_lossy(stat.get(..length)?))
}

pub fn uid_of(pid: u32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// `proc(5)`: fields after the command name, which may itself contain blanks and brackets. A zombie is no process.
fn parse_stat(pid: u32, stat: &str) -> Option<Proc> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // fields[0] is field 3 of the manual page.
    let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    let gone = match *fields.first()? {
        "X" => true,
        // A leader whose other threads go on still has its files and ports.
        "Z" => number(20)? <= 1,
        _ => false,
    };
    if gone {
        return None;
    }
    // Time of children that ended belongs to it too: otherwise the sum would fall when one ends.
    let ticks: u64 = (14..=17).map(number).sum::<Option<u64>>()?;
    Some(Proc {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        session: u32::try_from(number(6)?).ok(),
        start_time: number(22)?,
        cpu_seconds: ticks as f64 / TICKS_PER_SECOND,
    })
}

pub fn listening_sockets(port: u16) -> Option<Vec<u64>> {
    Some(sockets(port).ok()?.iter().map(|socket| socket.inode).collect())
}

pub fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let sockets = sockets(port)?;
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: HashSet<u64> = sockets.iter().map(|s| s.inode).collect();
    let owners = socket_owners(&wanted)?;
    let pid_of = |inode| owners.iter().find(|(i, _)| *i == inode).map(|&(_, pid)| pid);
    Ok(sockets.into_iter().map(|s| Listener { address: s.address, pid: pid_of(s.inode), uid: Some(s.uid) }).collect())
}

/// Which process has each socket open. The oldest of several: a server's workers inherit its socket. Who was found before is asked first:
/// while it has the socket nobody older can get it, and nobody else need be looked at.
fn socket_owners(wanted: &HashSet<u64>) -> io::Result<Vec<(u64, u32)>> {
    static KNOWN: Mutex<BTreeMap<u64, Instance>> = Mutex::new(BTreeMap::new());
    let known = KNOWN.lock().clone();
    let still = |inode: &u64| {
        let owner = known.get(inode)?;
        let has = start_time(owner.pid) == Some(owner.start_time) && open_sockets(owner.pid).any(|open| open == *inode);
        has.then_some((*inode, owner.pid))
    };
    if let Some(found) = wanted.iter().map(still).collect() {
        return Ok(found);
    }
    let found = search_socket_owners(wanted)?;
    let mut known = KNOWN.lock();
    // Of sockets that are gone nothing need be known.
    if known.len() > MOST_KNOWN {
        known.clear();
    }
    for (inode, pid) in &found {
        if let Some(start_time) = start_time(*pid) {
            known.insert(*inode, Instance { pid: *pid, start_time });
        }
    }
    Ok(found)
}

/// Owners of sockets that are remembered.
const MOST_KNOWN: usize = 1_000;

/// None where they can't be read: somebody else's.
fn open_sockets(pid: u32) -> impl Iterator<Item = u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|file| {
        let link = fs::read_link(file.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn search_socket_owners(wanted: &HashSet<u64>) -> io::Result<Vec<(u64, u32)>> {
    let mut all: Vec<u32> = pids()?.collect();
    // Each asked once: a process that ends while they are sorted would otherwise change its place.
    all.sort_by_cached_key(|&pid| start_time(pid).unwrap_or(u64::MAX));
    let mut found: Vec<(u64, u32)> = Vec::new();
    for pid in all {
        for inode in open_sockets(pid) {
            if wanted.contains(&inode) && !found.iter().any(|(i, _)| *i == inode) {
                found.push((inode, pid));
            }
        }
        if found.len() == wanted.len() {
            break;
        }
    }
    Ok(found)
}

/// Makes this process the user's, with all of the user's groups (a GPU is often a group's), before `command` is run in its
/// place. Only root can.
pub fn become_user(user: &User, _command: &mut Command) -> io::Result<()> {
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 7 42 40 0 -1 4194304 1 2 3 4 100 50 25 25 20 0 1 0 98765 1 2 3";
        let read = parse_stat(42, stat).unwrap();
        let expected = Proc { pid: 42, parent: 7, session: Some(40), start_time: 98765, cpu_seconds: 2.0 };
        assert_eq!(read, expected);
        assert_eq!(parse_stat(42, &stat.replace(" S ", " Z ")), None, "a zombie runs no more");
        let threads = stat.replace(" S ", " Z ").replace(" 20 0 1 0 ", " 20 0 3 0 ");
        assert!(parse_stat(42, &threads).is_some(), "its other threads go on");
        assert_eq!(parse_stat(42, "42 (x"), None);
    }
}
