//! A process with pid 1 is the parent of everything whose own parent is gone: it must ask how that ended, or it stays a zombie.

use std::{collections::HashMap, fs, time::Duration};

use crate::base::tick;
use nix::{
    sys::wait::{WaitPidFlag, waitpid},
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

/// How soon after a child's end zombies are looked for, and how often without one.
const SOON: Duration = Duration::from_millis(100);
const PERIOD: Duration = Duration::from_secs(5);
/// Whoever started a process asks for its end at once. What leads a session may be a service of this process: it is left for so long.
const GRACE: Duration = Duration::from_secs(10);

/// Reaps orphans for as long as this process lives, if it is the one that gets them.
pub fn start() {
    if std::process::id() == 1 {
        tokio::spawn(reap());
    }
}

async fn reap() {
    let Ok(mut ended) = signal(SignalKind::child()) else { return };
    let mut seen = HashMap::new();
    loop {
        tokio::select! {
            _ = ended.recv() => sleep(SOON).await,
            () = tick(PERIOD) => {}
        }
        reap_once(std::process::id(), &mut seen, Instant::now());
    }
}

/// Reaps the zombies that are nobody's here. `seen`: since when each zombie is known.
fn reap_once(own: u32, seen: &mut HashMap<u32, Instant>, now: Instant) {
    let zombies: Vec<Stat> = stats().filter(|stat| stat.parent == own && stat.zombie).collect();
    seen.retain(|pid, _| zombies.iter().any(|zombie| zombie.pid == *pid));
    let session = stat(own).map_or(0, |stat| stat.session);
    for zombie in zombies {
        let since = *seen.entry(zombie.pid).or_insert(now);
        if zombie.is_orphan(session) || now.duration_since(since) >= GRACE {
            // An error: somebody else was faster.
            let _ = waitpid(Pid::from_raw(zombie.pid.cast_signed()), Some(WaitPidFlag::WNOHANG));
            seen.remove(&zombie.pid);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    zombie: bool,
    parent: u32,
    session: u32,
}

impl Stat {
    /// A child of this process is in its session, or leads one (`agent-exec`): another was somebody else's child.
    fn is_orphan(&self, own_session: u32) -> bool {
        self.session != own_session && self.session != self.pid
    }
}

fn stats() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
}

fn stat(pid: u32) -> Option<Stat> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (COMMAND) STATE PARENT GROUP SESSION …`; the command may contain anything.
fn parse(pid: u32, text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let zombie = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Stat { pid, zombie, parent, session })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn orphans_are_told_from_children_by_their_session() {
        let of = |pid, session| Stat { pid, zombie: true, parent: 1, session };
        for (name, stat, orphan) in [
            ("a child without a session of its own", of(20, 1), false),
            ("a service, which leads its session", of(21, 21), false),
            ("what a service left behind", of(22, 21), true),
        ] {
            assert_eq!(stat.is_orphan(1), orphan, "{name}");
        }
        assert_eq!(parse(7, "7 (a) Z b) Z 1 21 21 0 -1"), Some(Stat { pid: 7, zombie: true, parent: 1, session: 21 }));
        assert_eq!(parse(7, "7 (x) S 1 7"), None);
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "that is what is reaped")]
    fn the_exit_status_of_an_own_child_is_left_to_who_waits_for_it() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let (own, pid) = (std::process::id(), child.id());
        while !stat(pid).is_some_and(|stat| stat.zombie) {
            std::thread::yield_now();
        }
        let (mut seen, now) = (HashMap::new(), Instant::now());
        reap_once(own, &mut seen, now);
        assert!(seen.contains_key(&pid), "known, and left");
        assert_eq!(child.wait().unwrap().code(), Some(7));
        // One that nobody asks for is not left for ever.
        let child = Command::new("true").spawn().unwrap();
        while !stat(child.id()).is_some_and(|stat| stat.zombie) {
            std::thread::yield_now();
        }
        // Not the children of other tests.
        let mut seen = HashMap::from([(child.id(), now)]);
        reap_once(own, &mut seen, now + GRACE);
        assert_eq!(stat(child.id()), None);
    }
}
