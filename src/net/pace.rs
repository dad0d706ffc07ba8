//! How fast small pieces of a body are taken: a peer that sends single bytes costs a small part of a core. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Pieces of this size or more cost nothing here: the bound on a body's bytes holds for them.
const WHOLE: usize = 1024;
/// Small pieces that are taken at once, and a second after that.
const BURST: f64 = 16_384.0;
const PER_SECOND: f64 = 2_048.0;
/// Whoever sent too many waits for so many, so that a flood wakes this process seldom.
const BATCH: f64 = 64.0;

/// The allowance of one body.
#[derive(Debug)]
pub(super) struct ReplyPace {
    left: f64,
    at: Instant,
}

impl ReplyPace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Counts a piece; how long to wait before the next one is taken.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
        self.left -= WHOLE.saturating_sub(bytes) as f64 / WHOLE as f64;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64((BATCH - self.left) / PER_SECOND) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pieces of a size are taken within a time by a peer that always has one.
    fn taken(bytes: usize, within: Duration) -> u64 {
        let begun = Instant::now();
        let (mut pace, mut now, mut count) = (ReplyPace::new(begun), begun, 0);
        while now < begun + within && count < 1_000_000 {
            count += 1;
            now += pace.take(bytes, now);
        }
        count
    }

    #[test]
    fn a_flood_of_small_pieces_is_slowed_and_an_answer_is_not() {
        let flood = taken(1, Duration::from_secs(60));
        assert!((100_000..160_000).contains(&flood), "{flood}");
        assert_eq!(taken(8192, Duration::from_secs(1)), 1_000_000);
        let (begun, mut pace) = (Instant::now(), ReplyPace::new(Instant::now()));
        for token in 0..100_000_u32 {
            let now = begun + Duration::from_micros(500) * token;
            assert_eq!(pace.take(200, now), Duration::ZERO, "2,000 tokens a second");
        }
    }
}
