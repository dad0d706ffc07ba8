//! Whether the kernel killed a process for lack of memory: its own log when it may be read, else the control group's count.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
};

use nix::fcntl::OFlag;

/// How many processes of this process's control group the kernel has killed; `None` where nobody counts.
pub fn kills() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let counted = |file: String, key: &str| {
        let text = fs::read_to_string(file).ok()?;
        text.lines().find_map(|l| l.strip_prefix(key)?.trim().parse::<u64>().ok())
    };
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        if controllers.is_empty() {
            let file = |path: &str| format!("/sys/fs/cgroup{path}/memory.events");
            counted(file(path), "oom_kill ").or_else(|| counted(file(""), "oom_kill "))
        } else if controllers.split(',').any(|c| c == "memory") {
            // In a container the path is the host's, and the mount shows the group itself.
            let file = |path: &str| format!("/sys/fs/cgroup/memory{path}/memory.oom_control");
            counted(file(path), "oom_kill ").or_else(|| counted(file(""), "oom_kill "))
        } else {
            None
        }
    })
}

/// Whether the kernel's log says that it killed this process. False where the log may not be read.
pub fn kernel_names(pid: u32) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg");
    let Ok(mut log) = opened else { return false };
    let mut record = [0; 8192];
    // Each read is one record; it would block at the end. Bounded: the kernel may write as fast as this reads.
    for _ in 0..100_000 {
        match log.read(&mut record) {
            Ok(n @ 1..) if names(&String::from_utf8_lossy(&record[..n]), pid) => return true,
            Ok(1..) => {}
            // Overwritten while it was read: the next read goes on behind it.
            Err(e) if e.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) => {}
            _ => return false,
        }
    }
    false
}

/// `Out of memory: Killed process 123 (ollama) …` or `Memory cgroup out of memory: Killed process 123 …`; older kernels
/// write `Kill process`.
fn names(record: &str, pid: u32) -> bool {
    let record = record.to_ascii_lowercase();
    record.contains("out of memory")
        && [format!("killed process {pid} "), format!("kill process {pid} ")].iter().any(|words| record.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_name_the_process_they_name() {
        let line = "6,1234,5678,-;Memory cgroup out of memory: Killed process 4242 (ollama) total-vm:1kB";
        assert!(names(line, 4242));
        assert!(!names(line, 424));
        assert!(!names("6,1,2,-;audit: Killed process 4242 (x)", 4242));
    }
}
