//! How often something may begin: a few times at once, then with a gap between two. Pure.

use std::time::Duration;

use tokio::time::Instant;

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
