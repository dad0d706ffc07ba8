//! When loops look again: together, so that a process with nothing to do wakes up once for all of them. And how often something may
//! begin: a few times at once, then with a gap between two.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Sleeps for about `period` (half of it to one and a half), until a multiple of it since the first tick of the process.
pub fn tick(period: Duration) -> Sleep {
    sleep_until(next(period))
}

fn next(period: Duration) -> Instant {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    let first = *FIRST.get_or_init(|| now);
    now + until_next(now.duration_since(first), period)
}

/// Ticks like [`tick`] for a loop that waits for other things too: what comes in between doesn't put its next tick off.
#[derive(Debug)]
pub struct Ticker {
    period: Duration,
    next: Instant,
}

impl Ticker {
    pub fn new(period: Duration) -> Self {
        Self { period, next: next(period) }
    }

    /// Waits for the next tick; dropped before that, nothing is lost.
    pub async fn tick(&mut self) {
        sleep_until(self.next).await;
        self.next = next(self.period);
    }
}

/// How long from `now`, which is given as the time since the first tick. Not the very next multiple where that is close: a loop whose
/// work has just taken it past one would have no rest.
fn until_next(now: Duration, period: Duration) -> Duration {
    let (period, at) = (period.as_nanos().max(1), now.as_nanos());
    let next = (at + period / 2).div_ceil(period) * period;
    Duration::from_nanos(u64::try_from(next - at).unwrap_or(u64::MAX))
}

/// What may begin at once after a rest.
const AT_ONCE: u32 = 4;

/// The allowance of one loop.
#[derive(Debug)]
pub struct Burst {
    gap: Duration,
    /// When all that may begin at once may do so again.
    full_at: Option<Instant>,
}

impl Burst {
    pub const fn new(gap: Duration) -> Self {
        Self { gap, full_at: None }
    }

    /// Counts a beginning now; how long to wait before the next one.
    pub fn begin(&mut self, now: Instant) -> Duration {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.gap;
        self.full_at = Some(full_at);
        full_at.duration_since(now).saturating_sub(self.gap * (AT_ONCE - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn loops_of_one_period_tick_together_after_half_of_it_to_one_and_a_half(
            now in 0_u64..100_000_000, other in 0_u64..400, period in 1_u64..60_000,
        ) {
            let (now, period) = (Duration::from_millis(now), Duration::from_millis(period));
            let wait = until_next(now, period);
            prop_assert!(wait >= period / 2 && wait <= period * 3 / 2, "{wait:?} of {period:?}");
            prop_assert_eq!((now + wait).as_nanos() % period.as_nanos(), 0);
            let later = now + Duration::from_millis(other);
            let apart = (later + until_next(later, period)).abs_diff(now + wait);
            prop_assert_eq!(apart.as_nanos() % period.as_nanos(), 0);
        }
    }

    #[test]
    fn a_few_begin_at_once_and_a_swarm_has_gaps() {
        let gap = Duration::from_millis(50);
        let (mut burst, mut now) = (Burst::new(gap), Instant::now());
        let waits: Vec<_> = (0..6).map(|_| burst.begin(now)).collect();
        assert_eq!(waits[..3], [Duration::ZERO; 3]);
        assert_eq!(waits[3..], [gap, gap * 2, gap * 3]);
        now += gap * 7;
        let begun = now;
        for _ in 0..100 {
            now += burst.begin(now);
        }
        let took = now - begun;
        assert!((gap * 90..=gap * 100).contains(&took), "{took:?} for a hundred");
    }
}
