//! Takes tasks back from workers that are lost, and fails what is past its deadline.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::TaskQueueSpec,
    store::{BootInstant, DeclaredRow, PauseGuard, Reaped, StoreError, spec_of},
};

use super::Desk;

const PERIOD: Duration = Duration::from_secs(2);
/// `leaseSeconds` of a queue that says nothing.
const LEASE: Duration = Duration::from_secs(90);
/// Workers renew far more often than leases this long lapse: nobody waits longer for them after a pause.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub async fn run(desk: Desk) {
    let mut patience = Patience::new(LEASE);
    loop {
        desk.beat.beat();
        if let Some(reaped) = desk.note("reap", pass(&desk, &mut patience).await) {
            let Reaped { leases, requeued, deferred, expired } = reaped;
            desk.metrics.tasks.reaped(leases, requeued, deferred, expired);
            if reaped != Reaped::default() {
                tracing::warn!(leases, requeued, deferred, expired, "tasks were taken from lapsed leases");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn pass(desk: &Desk, patience: &mut Patience) -> Result<Reaped, StoreError> {
    // Reached the database: only such a pass counts.
    let queues = desk.store.declared("TaskQueue").await?;
    patience.wait_for(longest_lease(&queues));
    if patience.may_reap(BootInstant::now(), Timestamp::now()) {
        desk.store.reap(desk.term.fence()).await
    } else {
        Ok(Reaped::default())
    }
}

fn longest_lease(queues: &[DeclaredRow]) -> Duration {
    let of = |row: &DeclaredRow| {
        let spec: TaskQueueSpec = spec_of(row)?;
        Some(Duration::from_secs(spec.lease_seconds.unsigned_abs().into()))
    };
    queues.iter().filter_map(of).max().unwrap_or(LEASE).min(LONGEST_WAIT)
}

/// A [`PauseGuard`] that also takes a leap of the wall clock for a pause: leases are measured by a wall clock, and whoever
/// holds one could not renew it within a leap.
struct Patience {
    lease: Duration,
    guard: PauseGuard,
    last: Option<(BootInstant, Timestamp)>,
}

impl Patience {
    const fn new(lease: Duration) -> Self {
        Self { lease, guard: PauseGuard::new(lease), last: None }
    }

    /// The longest lease is another now: whoever was promised the longer one has it until that has passed.
    fn wait_for(&mut self, lease: Duration) {
        if lease != self.lease {
            *self = Self::new(lease);
        }
    }

    fn may_reap(&mut self, boot: BootInstant, wall: Timestamp) -> bool {
        let leapt = self.last.is_some_and(|(boot_then, wall_then)| {
            let passed = SignedDuration::try_from(boot.since(boot_then)).unwrap_or(SignedDuration::MAX);
            let ahead = wall.duration_since(wall_then).checked_sub(passed).unwrap_or(SignedDuration::MAX);
            ahead > SignedDuration::try_from(self.lease / 2).unwrap_or(SignedDuration::MAX)
        });
        self.last = Some((boot, wall));
        if leapt {
            self.guard = PauseGuard::new(self.lease);
        }
        self.guard.may_reap(boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leaps_is_a_pause_and_so_is_sleep() {
        let hours = 8 * 3_600_u64;
        // (seconds since boot, seconds of the wall clock, may it reap)
        let steps = [
            (1_000, 5_000, false),
            (1_044, 5_044, false),
            (1_088, 5_088, false),
            (1_090, 5_090, true),
            (1_100, 5_050, true),          // back: nobody's lease lapses by that
            (1_102, hours + 5_052, false), // set forward
            (1_146, hours + 5_096, false),
            (1_190, hours + 5_140, false),
            (1_192, hours + 5_142, true),
            (hours + 1_192, 2 * hours + 5_142, false), // asleep
        ];
        let mut patience = Patience::new(LEASE);
        for (boot, wall, may) in steps {
            let boot = BootInstant::from_boot(Duration::from_secs(boot));
            let wall = Timestamp::from_second(i64::try_from(wall).unwrap()).unwrap();
            assert_eq!(patience.may_reap(boot, wall), may, "at {boot:?}");
        }
    }

    #[test]
    fn another_longest_lease_is_waited_for() {
        let at = |second| (BootInstant::from_boot(Duration::from_secs(second)), Timestamp::from_second(0).unwrap());
        let mut patience = Patience::new(Duration::from_secs(4));
        let steps = [(1, 4, false), (3, 4, false), (5, 4, true), (6, 10, false), (11, 10, false), (16, 10, true)];
        for (second, lease, may) in steps {
            patience.wait_for(Duration::from_secs(lease));
            let (boot, wall) = at(second);
            assert_eq!(patience.may_reap(boot, wall), may, "at {second}");
        }
    }
}
