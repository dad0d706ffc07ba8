//! Reads the machine: the cgroup's limits where it has some, else the whole of it.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

use super::{LoadReading, cgroup::Cgroup};
use crate::host::DiskSpace;

/// CPU, memory and disk as this process may use them. LoadReading takes a millisecond; what is read of CPU is since the last time.
pub struct Sensor {
    cgroup: Option<Cgroup>,
    system: Option<System>,
    own: Option<Pid>,
    /// On the disk that must not become full.
    folder: PathBuf,
}

impl Sensor {
    pub fn new(folder: PathBuf) -> Self {
        let kinds = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        Self {
            cgroup: Cgroup::find(Path::new("/proc"), Path::new("/sys/fs/cgroup")),
            system: System::new_with_specifics(kinds).ok(),
            own: sysinfo::get_current_pid().ok(),
            folder,
        }
    }

    pub fn read(&mut self) -> LoadReading {
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        }
        let quota = self.cgroup.as_mut().and_then(|cgroup| cgroup.cpu(Instant::now()));
        let limited = self.cgroup.as_ref().and_then(Cgroup::memory);
        // What uses up a quota is this process and what belongs to it; on a whole machine that is to be told.
        let own_cpu = if quota.is_some() { None } else { self.own_cpu() };
        LoadReading {
            cpu: quota.or_else(|| self.system.as_ref().map(|system| f64::from(system.global_cpu_usage()))),
            own_cpu,
            memory: limited.or_else(|| self.memory()),
            disk: DiskSpace::of(&self.folder),
        }
    }

    /// Says which disk is full.
    pub fn full_disk(&self) -> String {
        format!("the disk of {} is full, or nearly so", self.folder.display())
    }

    fn own_cpu(&mut self) -> Option<f64> {
        let (own, system) = (self.own?, self.system.as_mut()?);
        let kind = ProcessRefreshKind::nothing().with_cpu();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, kind);
        let cores = system.cpus().len().max(1);
        #[allow(clippy::cast_precision_loss)]
        system.process(own).map(|process| f64::from(process.cpu_usage()) / cores as f64)
    }

    fn memory(&self) -> Option<f64> {
        let system = self.system.as_ref()?;
        let (total, available) = (system.total_memory(), system.available_memory());
        #[allow(clippy::cast_precision_loss)]
        (total > 0 && available > 0).then(|| total.saturating_sub(available) as f64 / total as f64 * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_percentages_of_this_machine() {
        let mut sensor = Sensor::new(std::env::temp_dir());
        sensor.read();
        let LoadReading { cpu, own_cpu: _, memory, disk } = sensor.read();
        assert!(disk.is_some(), "the disk can be told");
        for (what, percent) in [("CPU", cpu), ("memory", memory)] {
            let percent = percent.unwrap_or_else(|| panic!("{what} can be told"));
            // More than 100 % of a quota is used for moments.
            assert!((0.0..=1000.0).contains(&percent), "{what}: {percent}");
        }
    }
}
