//! Limits of this process' cgroup (version 2), and how much of them is used.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A cgroup with its ancestors: the tightest limit of them holds.
#[derive(Debug)]
pub struct Cgroup {
    /// From its own up to the root of what this process can see.
    folders: Vec<PathBuf>,
    before: Option<(Instant, Vec<Duration>)>,
}

impl Cgroup {
    /// `None`: this system has no such cgroups.
    pub fn find(proc: &Path, mounted: &Path) -> Option<Self> {
        let own = std::fs::read_to_string(proc.join("self/cgroup")).ok()?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let lowest = mounted.join(path);
        let folders: Vec<_> =
            lowest.ancestors().take_while(|folder| folder.starts_with(mounted)).map(Path::to_owned).collect();
        mounted.join("cgroup.controllers").exists().then_some(Self { folders, before: None })
    }

    /// CPU used since the last call, in percent of the quota; `None` without a quota, or at the first call.
    pub fn cpu(&mut self, now: Instant) -> Option<f64> {
        let used: Vec<Duration> = self.folders.iter().map(|folder| used_cpu(folder).unwrap_or_default()).collect();
        let before = self.before.replace((now, used.clone()));
        let (then, used_then) = before?;
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        if elapsed <= 0.0 {
            return None;
        }
        let percents = self.folders.iter().zip(used.iter().zip(&used_then)).filter_map(|(folder, (now, then))| {
            Some(now.saturating_sub(*then).as_secs_f64() / elapsed / quota(folder)? * 100.0)
        });
        percents.reduce(f64::max)
    }

    /// Memory that can't be dropped, in percent of the limit; `None` without a limit.
    pub fn memory(&self) -> Option<f64> {
        let percents = self.folders.iter().filter_map(|folder| {
            let limit = number(folder, "memory.max")?;
            let used = number(folder, "memory.current")? - inactive_file(folder).unwrap_or(0.0);
            (limit > 0.0).then(|| used.max(0.0) / limit * 100.0)
        });
        percents.reduce(f64::max)
    }
}

/// `max` and whatever else is no number is no limit.
fn number(folder: &Path, file: &str) -> Option<f64> {
    std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

/// In cores.
fn quota(folder: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

fn field(folder: &Path, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn used_cpu(folder: &Path) -> Option<Duration> {
    field(folder, "cpu.stat", "usage_usec").map(Duration::from_micros)
}

/// Pages of files that nobody uses: the kernel drops them before anything is killed. The kubelet leaves them out too.
fn inactive_file(folder: &Path) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)]
    field(folder, "memory.stat", "inactive_file").map(|bytes| bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Fake(PathBuf);

    impl Fake {
        fn new() -> Self {
            let root = std::env::temp_dir().join(format!("ostler-cgroup-{}", uuid::Uuid::new_v4()));
            let fake = Self(root);
            fake.write("proc/self/cgroup", "0::/pods/worker\n");
            fake.write("sys/cgroup.controllers", "cpu memory\n");
            fake
        }

        fn write(&self, file: &str, text: &str) {
            let path = self.0.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn cgroup(&self) -> Cgroup {
            Cgroup::find(&self.0.join("proc"), &self.0.join("sys")).expect("there is one")
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tightest_of_its_own_and_its_ancestors_limits_counts() {
        let fake = Fake::new();
        fake.write("sys/pods/cpu.max", "100000 100000\n");
        fake.write("sys/pods/cpu.stat", "usage_usec 1000000\nuser_usec 1\n");
        fake.write("sys/pods/worker/cpu.max", "max 100000\n");
        fake.write("sys/pods/worker/cpu.stat", "usage_usec 500000\n");
        fake.write("sys/pods/worker/memory.max", "1000\n");
        fake.write("sys/pods/worker/memory.current", "900\n");
        fake.write("sys/pods/worker/memory.stat", "anon 1\ninactive_file 400\n");
        fake.write("sys/pods/memory.max", "max\n");
        fake.write("sys/pods/memory.current", "5000\n");
        let mut cgroup = fake.cgroup();
        assert_eq!(cgroup.memory(), Some(50.0));
        let start = Instant::now();
        assert_eq!(cgroup.cpu(start), None, "there is nothing to compare with yet");
        fake.write("sys/pods/cpu.stat", "usage_usec 2800000\n");
        let percent = cgroup.cpu(start + Duration::from_secs(2)).expect("a quota");
        assert!((percent - 90.0).abs() < 0.01, "{percent}");
    }

    #[test]
    fn without_limits_it_says_nothing() {
        let fake = Fake::new();
        let mut cgroup = fake.cgroup();
        assert_eq!(cgroup.memory(), None);
        cgroup.cpu(Instant::now());
        assert_eq!(cgroup.cpu(Instant::now() + Duration::from_secs(1)), None);
        assert!(Cgroup::find(Path::new("/nowhere"), Path::new("/nowhere")).is_none());
    }
}
