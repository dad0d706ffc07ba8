//! How much a process does at once: less while its machine, or its cgroup, is short of CPU or memory, nothing while its disk
//! is full. `sensor` reads the machine; the rule here is pure.

mod cgroup;
mod sensor;

pub use sensor::Sensor;

use crate::{
    api::{LimitedBy, PoolConcurrency},
    host::DiskSpace,
};

/// What the limit is multiplied by while the machine is short.
const DOWN: f64 = 0.7;
/// Calls to an engine cost a worker little: doing less helps only where this process itself has this share of the CPU in use.
const OWN_SHARE: f64 = 0.2;

/// What the sensor saw. CPU and memory in percent of what there is; `None`: it can't tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadReading {
    /// Of the cgroup's quota, else of the machine.
    pub cpu: Option<f64>,
    /// The part of `cpu` that is this process'.
    pub own_cpu: Option<f64>,
    pub memory: Option<f64>,
    /// Of the spool.
    pub disk: Option<DiskSpace>,
}

/// How much may be done at once, and what keeps it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Tasks at once; 0 while the disk is full.
    pub most: i32,
    pub limited_by: LimitedBy,
}

/// The limit as it moves: additive up, multiplicative down.
#[derive(Clone, Debug)]
pub struct Governor {
    current: i32,
    limited_by: LimitedBy,
}

impl Default for Governor {
    /// Begins at the maximum.
    fn default() -> Self {
        Self { current: i32::MAX, limited_by: LimitedBy::Concurrency }
    }
}

impl Governor {
    /// One step, every second or two.
    pub fn step(&mut self, declared: &PoolConcurrency, seen: &LoadReading) -> Allowance {
        let (min, max) = (declared.min.min(declared.max), declared.max);
        let short = short_of(declared, seen).filter(|_| declared.adaptive);
        let before = self.current.clamp(min, max);
        self.current = match short {
            Some(_) => lowered(before),
            None => before.saturating_add(1),
        }
        .clamp(min, max);
        self.limited_by = match short {
            Some(what) => what,
            None if self.current == max => LimitedBy::Concurrency,
            // What lowered it goes on to be the reason until it is back at its maximum.
            None => self.limited_by,
        };
        if seen.disk.is_some_and(|disk| disk.is_short_of(DiskSpace::FOR_RESULTS)) {
            return Allowance { most: 0, limited_by: LimitedBy::Disk };
        }
        Allowance { most: self.current, limited_by: self.limited_by }
    }
}

fn lowered(from: i32) -> i32 {
    // In range: it was an i32, and becomes smaller.
    #[allow(clippy::cast_possible_truncation)]
    let lower = (f64::from(from) * DOWN).floor() as i32;
    lower
}

fn short_of(declared: &PoolConcurrency, seen: &LoadReading) -> Option<LimitedBy> {
    let above = |used: Option<f64>, most: i32| used.is_some_and(|used| used >= f64::from(most));
    if above(seen.memory, declared.memory_percent) {
        return Some(LimitedBy::Memory);
    }
    let cpu = seen.cpu.filter(|_| above(seen.cpu, declared.cpu_percent))?;
    let ours = seen.own_cpu.is_none_or(|own| own >= cpu * OWN_SHARE);
    ours.then_some(LimitedBy::Cpu)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOMY: DiskSpace = DiskSpace { free_bytes: 12 << 30, total_bytes: 252 << 30 };
    const FULL: DiskSpace = DiskSpace { free_bytes: 1 << 20, total_bytes: 252 << 30 };

    fn busy(cpu: f64, own_cpu: f64) -> LoadReading {
        LoadReading { cpu: Some(cpu), own_cpu: Some(own_cpu), memory: Some(40.0), disk: Some(ROOMY) }
    }

    #[test]
    fn it_begins_at_the_maximum_falls_fast_and_rises_one_by_one() {
        let declared = PoolConcurrency::default();
        let mut governor = Governor::default();
        let mut steps = Vec::new();
        let idle = busy(10.0, 1.0);
        let short = LoadReading { memory: Some(90.0), ..idle };
        for seen in [idle, short, short, idle, idle] {
            let Allowance { most, limited_by } = governor.step(&declared, &seen);
            steps.push((most, limited_by));
        }
        use LimitedBy::{Concurrency, Memory};
        assert_eq!(steps, [(15, Concurrency), (10, Memory), (7, Memory), (8, Memory), (9, Memory)]);
    }

    #[test]
    fn cpu_counts_where_this_process_uses_it() {
        let declared = PoolConcurrency::default();
        for (seen, expected) in [
            (busy(99.0, 60.0), LimitedBy::Cpu),
            // An engine on this machine that works is what is wanted.
            (busy(99.0, 3.0), LimitedBy::Concurrency),
            (busy(80.0, 80.0), LimitedBy::Concurrency),
            (LoadReading { own_cpu: None, ..busy(99.0, 0.0) }, LimitedBy::Cpu),
            (LoadReading { memory: Some(85.0), ..busy(1.0, 0.0) }, LimitedBy::Memory),
            (LoadReading { disk: Some(FULL), ..busy(1.0, 0.0) }, LimitedBy::Disk),
            (LoadReading::default(), LimitedBy::Concurrency),
        ] {
            assert_eq!(Governor::default().step(&declared, &seen).limited_by, expected, "{seen:?}");
        }
    }

    #[test]
    fn what_is_not_adaptive_stays_but_for_a_full_disk() {
        let declared = PoolConcurrency { adaptive: false, ..PoolConcurrency::default() };
        let mut governor = Governor::default();
        let short = LoadReading { memory: Some(99.0), ..busy(99.0, 90.0) };
        assert_eq!(governor.step(&declared, &short).most, 15);
        assert_eq!(governor.step(&declared, &LoadReading { disk: Some(FULL), ..short }).most, 0);
        assert_eq!(governor.step(&declared, &short).most, 15);
    }

    proptest! {
        #[test]
        fn it_stays_within_what_is_declared(
            min in 1..50, more in 0..50,
            readings in proptest::collection::vec((0.0..100.0, 0.0..100.0, 0.0..100.0), 1..60),
        ) {
            let declared = PoolConcurrency { min, max: min + more, ..PoolConcurrency::default() };
            let mut governor = Governor::default();
            for (cpu, own, memory) in readings {
                let seen = LoadReading { memory: Some(memory), ..busy(cpu, own) };
                let most = governor.step(&declared, &seen).most;
                prop_assert!((declared.min..=declared.max).contains(&most));
            }
        }
    }
}
