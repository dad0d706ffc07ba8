//! A pause is not a death: after an outage or sleep, nobody's lease is taken for lapsed at once.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::BootInstant;
use crate::tasks::QueueKey;

/// Which lapsed leases may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reapable {
    /// Those for these queues.
    Of(Vec<QueueKey>),
    All,
}

/// Tells a reaper what it may take of what others' lapsed leases held.
///
/// Whoever renews leases was probably stopped together with the reaper (the database was away, the laptop slept). So after a pause of
/// more than half a lease, and when it just started, it waits one whole lease first: for each queue as long as its leases are. An hour's
/// lease of one queue holds nobody up in another.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// By the length of leases.
    guards: BTreeMap<Duration, PauseGuard>,
}

impl Patience {
    /// Notes a pass at `boot`, which is `wall` by the wall clock; `leases` are the queues that are declared, `other` is how long leases for
    /// others are taken to be. Only passes that reached the database count: a pass that failed is none.
    pub fn reapable(
        &mut self,
        leases: &[(QueueKey, Duration)],
        other: Duration,
        boot: BootInstant,
        wall: Timestamp,
    ) -> Reapable {
        let lengths: Vec<Duration> = match leases {
            [] => vec![other],
            leases => leases.iter().map(|(_, lease)| *lease).collect(),
        };
        self.guards.retain(|lease, _| lengths.contains(lease));
        for lease in &lengths {
            self.guards.entry(*lease).or_insert_with(|| PauseGuard::new(*lease));
        }
        let over: BTreeMap<Duration, bool> =
            self.guards.iter_mut().map(|(lease, guard)| (*lease, guard.may_reap(boot, wall))).collect();
        if over.values().all(|over| *over) {
            return Reapable::All;
        }
        Reapable::Of(leases.iter().filter(|(_, lease)| over[lease]).map(|(queue, _)| queue.clone()).collect())
    }
}

/// What lies between two passes of a reaper on a busy machine is no pause, however short the leases are.
const LEAST_PAUSE: SignedDuration = SignedDuration::from_secs(6);

/// For leases of one length.
#[derive(Clone, Debug)]
struct PauseGuard {
    lease: Duration,
    last_pass: Option<(BootInstant, Timestamp)>,
    wait_until: BootInstant,
}

impl PauseGuard {
    const fn new(lease: Duration) -> Self {
        Self { lease, last_pass: None, wait_until: BootInstant::from_boot(Duration::ZERO) }
    }

    /// A leap of the wall clock is a pause, too: leases are measured by one, and whoever holds one could not renew it within a leap.
    fn may_reap(&mut self, boot: BootInstant, wall: Timestamp) -> bool {
        let half = SignedDuration::try_from(self.lease / 2).unwrap_or(SignedDuration::MAX).max(LEAST_PAUSE);
        let paused = self.last_pass.is_none_or(|(boot_then, wall_then)| {
            let passed = SignedDuration::try_from(boot.since(boot_then)).unwrap_or(SignedDuration::MAX);
            let ahead = wall.duration_since(wall_then).checked_sub(passed).unwrap_or(SignedDuration::MAX);
            passed > half || ahead > half
        });
        if paused {
            self.wait_until = boot + self.lease;
        }
        self.last_pass = Some((boot, wall));
        boot >= self.wait_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(second: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_secs(second))
    }

    fn wall(second: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
    }

    #[test]
    fn leases_that_are_shorter_than_two_passes_are_reaped_all_the_same() {
        let mut guard = PauseGuard::new(Duration::from_secs(2));
        let may = [1_000, 1_002, 1_005, 1_008, 1_030, 1_032].map(|at| guard.may_reap(boot(at), wall(at)));
        assert_eq!(may, [false, true, true, true, false, true], "just started, four passes, and a real pause");
    }

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
            assert_eq!(guard.may_reap(boot(second), wall(second)), may, "at {second}");
        }
    }

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
        let mut guard = PauseGuard::new(Duration::from_secs(90));
        for (since_boot, clock, may) in steps {
            assert_eq!(guard.may_reap(boot(since_boot), wall(clock)), may, "at {since_boot}");
        }
    }

    #[test]
    fn each_queue_is_waited_for_as_long_as_its_own_leases_are() {
        let queue = |name: &str| QueueKey { namespace: "default".into(), name: name.into() };
        let declared = [(queue("quick"), Duration::from_secs(10)), (queue("slow"), Duration::from_secs(3_600))];
        let mut patience = Patience::default();
        let mut at = |second| {
            let other = Duration::from_secs(90);
            patience.reapable(&declared, other, boot(second), wall(second))
        };
        assert_eq!(at(1_000), Reapable::Of(vec![]));
        for second in (1_004..1_010).step_by(2) {
            assert_eq!(at(second), Reapable::Of(vec![]), "at {second}");
        }
        for second in (1_010..4_600).step_by(2) {
            assert_eq!(at(second), Reapable::Of(vec![queue("quick")]), "at {second}");
        }
        assert_eq!(at(4_600), Reapable::All);
        assert_eq!(at(4_700), Reapable::Of(vec![queue("slow")]), "a short pause for one is a long one for the other");
        assert_eq!(at(8_700), Reapable::Of(vec![]), "a pause for both");
    }

    #[test]
    fn a_queue_whose_leases_have_another_length_now_is_waited_for_anew() {
        let declared =
            |lease| [(QueueKey { namespace: "default".into(), name: "q".into() }, Duration::from_secs(lease))];
        let mut patience = Patience::default();
        let steps = [(1, 4, false), (3, 4, false), (5, 4, true), (6, 10, false), (11, 10, false), (16, 10, true)];
        for (second, lease, all) in steps {
            let other = Duration::from_secs(90);
            let reapable = patience.reapable(&declared(lease), other, boot(second), wall(second));
            assert_eq!(reapable == Reapable::All, all, "at {second}: {reapable:?}");
        }
    }
}
