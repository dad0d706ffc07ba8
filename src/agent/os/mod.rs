//! What an agent asks its operating system about processes and ports. Linux is read from `/proc`; everywhere else the
//! portable way is taken (sysinfo, `lsof`).

#[cfg(target_os = "linux")]
mod linux;
mod place;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
#[cfg(target_os = "linux")]
mod sockets;

#[cfg(target_os = "linux")]
use linux as native;
#[cfg(not(target_os = "linux"))]
use portable as native;

use std::{collections::HashMap, io, net::IpAddr, sync::OnceLock, time::Duration};

use nix::unistd::{Pid, Uid, User};

pub use native::{become_user, boot_id};
pub use nix::sys::signal::Signal;
pub use place::{FileOwner, SafePath};

use crate::host::{Instance, mask::one_line};

/// A process that is no zombie.
#[derive(Clone, Debug, PartialEq)]
pub struct Proc {
    pub pid: u32,
    pub parent: u32,
    /// Absent where the system does not tell.
    pub session: Option<u32>,
    /// See [`Instance::start_time`].
    pub start_time: u64,
    pub cpu_seconds: f64,
}

/// All processes at one moment.
#[derive(Clone, Debug, Default)]
pub struct Processes(HashMap<u32, Proc>);

impl Processes {
    /// Reads them all; a process that ends meanwhile is left out.
    pub fn read() -> io::Result<Self> {
        Ok(Self::of(native::processes()?))
    }

    fn of(all: Vec<Proc>) -> Self {
        Self(all.into_iter().map(|p| (p.pid, p)).collect())
    }

    pub fn get(&self, pid: u32) -> Option<&Proc> {
        self.0.get(&pid)
    }

    /// The process, if it is still the same one.
    pub fn instance(&self, instance: &Instance) -> Option<&Proc> {
        self.get(instance.pid).filter(|p| p.start_time == instance.start_time)
    }

    /// A process with all that it started: its session when it leads one, and its descendants.
    pub fn tree(&self, root: u32) -> Vec<&Proc> {
        let leads = self.leads_session(root);
        self.0.values().filter(|p| (leads && p.session == Some(root)) || self.descends(p.pid, root)).collect()
    }

    /// What is left of the session of a leader that is gone; it may have gone after this was read. No other process gets its pid while
    /// a session has it.
    pub fn orphans(&self, leader: &Instance) -> Vec<&Proc> {
        match self.get(leader.pid) {
            Some(other) if other.start_time != leader.start_time => Vec::new(),
            _ => self.0.values().filter(|p| p.session == Some(leader.pid) && p.pid != leader.pid).collect(),
        }
    }

    pub fn leads_session(&self, pid: u32) -> bool {
        self.get(pid).is_some_and(|p| p.session == Some(pid))
    }

    fn descends(&self, mut pid: u32, ancestor: u32) -> bool {
        // Bounded: a snapshot that is not atomic may contain a circle.
        for _ in 0..64 {
            if pid == ancestor {
                return true;
            }
            match self.get(pid) {
                Some(p) if p.parent > 1 => pid = p.parent,
                _ => return false,
            }
        }
        false
    }
}

/// Whose a running process is.
pub fn uid_of(pid: u32) -> Option<u32> {
    native::uid_of(pid)
}

/// The instance of a running process.
pub fn instance_of(pid: u32) -> Option<Instance> {
    native::start_time(pid).map(|start_time| Instance { pid, start_time })
}

/// For how long it has been running at most; `None`: it is gone, or the system does not tell.
pub fn running_seconds(instance: &Instance) -> Option<f64> {
    native::running_seconds(instance)
}

pub fn is_alive(instance: &Instance) -> bool {
    native::start_time(instance.pid) == Some(instance.start_time)
}

/// How often a process is looked at where the system does not tell of its end.
const LOOK: Duration = Duration::from_millis(500);

/// Returns when a process that may be nobody's child here has ended.
pub async fn ended(instance: &Instance) {
    native::ended(instance).await;
    while is_alive(instance) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    nix::sys::signal::kill(Pid::from_raw(pid), signal).map_err(Into::into)
}

/// Name of a user id; the number itself when nobody has it.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The user that this process runs as.
pub fn own_user() -> String {
    static OWN: OnceLock<String> = OnceLock::new();
    OWN.get_or_init(|| user_name(Uid::effective().as_raw())).clone()
}

/// A command line, for people: shortened, and without what looks like a secret.
pub fn command_line(pid: u32) -> Option<String> {
    native::command_line(pid).map(|c| one_line(&c, 200))
}

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: IpAddr,
    /// Absent when its process belongs to somebody whose processes this user may not see, or is just ending.
    pub pid: Option<u32>,
    /// Whose socket it is, where the system tells.
    pub uid: Option<u32>,
}

/// The sockets that listen on a port, told from others; `None` where the system can't tell them cheaply.
pub fn listening_sockets(port: u16) -> Option<Vec<u64>> {
    native::listening_sockets(port)
}

/// Who would answer a connection to this address: the listener on just this address, or else on all.
pub fn listener(address: IpAddr, port: u16) -> io::Result<Option<Listener>> {
    Ok(pick(native::listeners(port)?, address))
}

fn pick(all: Vec<Listener>, wanted: IpAddr) -> Option<Listener> {
    let plain = |a: IpAddr| a.to_canonical();
    let rank = |l: &Listener| match plain(l.address) {
        a if a == plain(wanted) => 0,
        a if a.is_unspecified() && a.is_ipv4() == plain(wanted).is_ipv4() => 1,
        // A wildcard socket of IPv6 takes IPv4 too, unless told otherwise.
        a if a.is_unspecified() => 2,
        // `localhost` may mean either family.
        a if a.is_loopback() && wanted.is_loopback() => 3,
        _ => 9,
    };
    all.into_iter().filter(|l| rank(l) < 9).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn proc(pid: u32, parent: u32, session: u32) -> Proc {
        Proc { pid, parent, session: Some(session), start_time: 1, cpu_seconds: 0.0 }
    }

    #[test]
    fn a_tree_is_the_session_that_a_process_leads_and_its_descendants() {
        let all = Processes::of(vec![
            proc(10, 1, 10),
            proc(11, 10, 10),
            proc(12, 1, 10),  // orphaned, same session
            proc(13, 11, 13), // own session, still a descendant
            proc(20, 1, 20),
            proc(21, 20, 20),
        ]);
        let pids = |root| {
            let mut pids: Vec<_> = all.tree(root).iter().map(|p| p.pid).collect();
            pids.sort();
            pids
        };
        assert_eq!(pids(10), [10, 11, 12, 13]);
        assert_eq!(pids(11), [11, 13], "it leads no session");
        assert_eq!(pids(99), Vec::<u32>::new());
        let of = |start_time| Instance { pid: 10, start_time };
        assert!(all.orphans(&of(2)).is_empty(), "another process has its pid");
        let left = Processes::of(vec![proc(11, 1, 10), proc(20, 1, 20)]);
        assert_eq!(left.orphans(&of(1)).iter().map(|p| p.pid).collect::<Vec<_>>(), [11]);
        let just_gone = Processes::of(vec![proc(10, 1, 10), proc(11, 1, 10), proc(20, 1, 20)]);
        assert_eq!(just_gone.orphans(&of(1)).iter().map(|p| p.pid).collect::<Vec<_>>(), [11]);
    }

    #[test]
    fn both_ways_find_this_process_and_its_listener() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let me = std::process::id();
        let found = native::listeners(port).unwrap();
        assert_eq!(pick(found, Ipv4Addr::LOCALHOST.into()).unwrap().pid, Some(me));
        assert_eq!(instance_of(me), instance_of(me));
        assert!(instance_of(me).is_some());
        let own = Processes::read().unwrap();
        assert_eq!(uid_of(me), Some(Uid::effective().as_raw()));
        assert_eq!(portable::uid_of(me), uid_of(me));
        let portable = Processes::of(portable::processes().unwrap());
        assert_eq!(portable.get(me).unwrap().parent, own.get(me).unwrap().parent);
        assert!(portable::start_time(me).is_some());
        assert!(!portable::boot_id().is_empty() && !boot_id().is_empty());
    }

    #[test]
    fn the_listener_of_just_this_address_answers_before_one_of_all() {
        let at = |a: &str, pid| Listener { address: a.parse().unwrap(), pid: Some(pid), uid: None };
        let all = || vec![at("0.0.0.0", 1), at("127.0.0.1", 2), at("::", 3), at("::1", 4), at("10.0.0.9", 5)];
        let who = |wanted: &str, all: Vec<Listener>| pick(all, wanted.parse().unwrap()).and_then(|l| l.pid);
        assert_eq!(who("127.0.0.1", all()), Some(2));
        assert_eq!(who("::1", all()), Some(4));
        assert_eq!(who("192.168.1.2", all()), Some(1));
        assert_eq!(who("127.0.0.1", vec![at("::", 3), at("10.0.0.9", 5)]), Some(3));
        assert_eq!(who("127.0.0.1", vec![at("10.0.0.9", 5)]), None);
        assert_eq!(who("127.0.0.1", vec![at("::ffff:127.0.0.1", 6)]), Some(6));
    }
}
