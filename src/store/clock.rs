//! A clock for claims: monotonic, and it goes on while the machine sleeps or the process is stopped.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A point in time of this machine since it booted, sleep included.
///
/// `std::time::Instant` stands still while a machine sleeps (`CLOCK_MONOTONIC` on Linux, `CLOCK_UPTIME_RAW` on macOS), so
/// a lease measured with it would seem to be valid after hours of sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

// Apple's CLOCK_MONOTONIC counts sleep, Linux' does not.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;

impl BootInstant {
    /// # Panics
    /// If the kernel lacks the clock, which none that Rust runs on does.
    pub fn now() -> Self {
        Self(clock_gettime(CLOCK).expect("the kernel has a boot clock").into())
    }

    /// A point in time as the time since boot: for tests and pure functions.
    pub const fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

impl std::ops::Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}
