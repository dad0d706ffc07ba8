//! Whether this machine slept: a pause is not a death.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::base::tick;

const TICK: Duration = Duration::from_secs(1);
/// A gap between two ticks that no load explains.
const GAP: SignedDuration = SignedDuration::from_secs(15);

/// When this machine last woke.
#[derive(Clone, Default)]
pub struct Wake {
    woke_at: Arc<Mutex<Option<Timestamp>>>,
}

impl Wake {
    pub fn woke_at(&self) -> Option<Timestamp> {
        *self.woke_at.lock()
    }

    /// Watches the wall clock, which goes on while the machine sleeps.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut last = Timestamp::now();
        while shutdown.run_until_cancelled(tick(TICK)).await.is_some() {
            let now = Timestamp::now();
            self.tick(last, now);
            last = now;
        }
    }

    fn tick(&self, last: Timestamp, now: Timestamp) {
        if now.duration_since(last) > GAP {
            tracing::info!(since = %last, "this machine slept or stood still: nothing is healed for a minute");
            *self.woke_at.lock() = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_between_ticks_is_a_sleep_and_a_busy_second_is_not() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (seconds, woke) in [(1, false), (14, false), (16, true), (8 * 3600, true), (-3600, false)] {
            let wake = Wake::default();
            wake.tick(start, start + SignedDuration::from_secs(seconds));
            assert_eq!(wake.woke_at().is_some(), woke, "{seconds} s");
        }
    }
}
