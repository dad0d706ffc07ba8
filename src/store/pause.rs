//! A pause is not a death: after an outage or sleep, nobody's lease is taken for lapsed at once.

use std::time::Duration;

use super::BootInstant;

/// Tells a reaper whether it may take what others' lapsed leases held.
///
/// Whoever renews leases was probably stopped together with the reaper (the database was away, the laptop slept). So a
/// reaper whose own last pass is older than half a lease, or that just started, waits one whole lease first.
#[derive(Clone, Debug)]
pub struct PauseGuard {
    lease: Duration,
    last_pass: Option<BootInstant>,
    wait_until: BootInstant,
}

impl PauseGuard {
    pub const fn new(lease: Duration) -> Self {
        Self { lease, last_pass: None, wait_until: BootInstant::from_boot(Duration::ZERO) }
    }

    /// Notes a pass at `now`; true when it may take lapsed leases. Only passes that reached the database count: a pass that
    /// failed is none.
    pub fn may_reap(&mut self, now: BootInstant) -> bool {
        let paused = self.last_pass.is_none_or(|last| now.since(last) > self.lease / 2);
        if paused {
            self.wait_until = now + self.lease;
        }
        self.last_pass = Some(now);
        now >= self.wait_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaper_that_paused_waits_a_whole_lease() {
        let mut guard = PauseGuard::new(Duration::from_secs(90));
        // (second of the pass, may it reap)
        for (second, may) in [
            (1_000, false), // just started
            (1_040, false),
            (1_080, false),
            (1_089, false),
            (1_090, true),
            (1_135, true),  // half a lease ago
            (1_181, false), // 46 s ago
            (1_225, false),
            (1_270, false),
            (1_271, true),
            (9_000, false), // the laptop slept
        ] {
            assert_eq!(guard.may_reap(BootInstant::from_boot(Duration::from_secs(second))), may, "at {second}");
        }
    }
}
