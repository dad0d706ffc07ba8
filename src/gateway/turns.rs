//! Turns of calls that wait for the same servers. Whoever came first is first; a client that left, and asks the same again soon, has its old
//! turn: clients give up after a time of their own and ask again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

/// A request, as far as two of them are the same.
pub(super) type RequestHash = [u8; 32];

/// Turns that are kept for clients that left, of one queue.
const MOST_KEPT: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Turns {
    next: u64,
    /// Whoever waits, and how it is told that it is its turn.
    present: BTreeMap<u64, Arc<Notify>>,
    /// Of clients that left.
    kept: BTreeSet<(RequestHash, u64)>,
    kept_until: BTreeMap<u64, Instant>,
}

impl Turns {
    /// Takes the turn that is kept for this request, else the last one. It is asked for only where any is kept.
    pub fn join(&mut self, request: impl FnOnce() -> RequestHash, now: Instant) -> (u64, Arc<Notify>) {
        let mut number = None;
        if self.keeps_any(now) {
            let request = request();
            let own = self.kept.range((request, 0)..=(request, u64::MAX)).next().copied();
            if let Some(kept) = own {
                self.kept.remove(&kept);
                self.kept_until.remove(&kept.1);
                number = Some(kept.1);
            }
        }
        let number = number.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let told = Arc::new(Notify::new());
        self.present.insert(number, Arc::clone(&told));
        (number, told)
    }

    pub fn is_first(&self, number: u64) -> bool {
        self.present.first_key_value().is_some_and(|(first, _)| *first == number)
    }

    /// Whoever is first now is told so. `kept`: for which request, and until when.
    pub fn leave(&mut self, number: u64, kept: Option<(RequestHash, Instant)>) {
        self.present.remove(&number);
        if let Some((request, until)) = kept.filter(|_| self.kept.len() < MOST_KEPT) {
            self.kept.insert((request, number));
            self.kept_until.insert(number, until);
        }
        if let Some((_, told)) = self.present.first_key_value() {
            told.notify_one();
        }
    }

    /// Whether a turn is kept for anybody.
    pub fn keeps_any(&mut self, now: Instant) -> bool {
        self.kept_until.retain(|_, until| *until > now);
        self.kept.retain(|(_, number)| self.kept_until.contains_key(number));
        !self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const KEPT: Duration = Duration::from_secs(60);

    #[derive(Clone, Debug)]
    enum Event {
        Joins(u8),
        /// The one in line, from the front; whether its client left.
        Leaves(usize, bool),
        Passes(u64),
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..6_u8).prop_map(Event::Joins),
            3 => (0..6_usize, any::<bool>()).prop_map(|(at, left)| Event::Leaves(at, left)),
            1 => (0..90_u64).prop_map(Event::Passes),
        ]
    }

    /// What stands in line: arrivals in their order, with those that left and may come back.
    #[derive(Default)]
    struct Naive(Vec<(u8, u64, Option<Instant>)>);

    impl Naive {
        fn present(&self) -> Vec<u64> {
            self.0.iter().filter(|(_, _, left)| left.is_none()).map(|(_, number, _)| *number).collect()
        }
    }

    proptest! {
        /// The line is that of arrivals, in which whoever comes back in time stands where it stood.
        #[test]
        fn places_are_those_of_arrivals(events in proptest::collection::vec(any_event(), 0..60)) {
            let (mut turns, mut naive, mut now) = (Turns::default(), Naive::default(), Instant::now());
            for event in events {
                match event {
                    Event::Joins(request) => {
                        let (number, _) = turns.join(|| [request; 32], now);
                        naive.0.retain(|(_, _, left)| left.is_none_or(|until| until > now));
                        match naive.0.iter_mut().find(|(of, _, left)| *of == request && left.is_some()) {
                            Some(kept) => {
                                prop_assert_eq!(kept.1, number);
                                kept.2 = None;
                            }
                            None => {
                                prop_assert!(naive.0.iter().all(|(_, known, _)| *known < number));
                                naive.0.push((request, number, None));
                            }
                        }
                    }
                    Event::Leaves(at, left) => {
                        let Some(number) = naive.present().get(at).copied() else { continue };
                        let of = naive.0.iter().position(|(_, known, _)| *known == number).expect("it is there");
                        let until = now + KEPT;
                        turns.leave(number, left.then_some(([naive.0[of].0; 32], until)));
                        match left {
                            true => naive.0[of].2 = Some(until),
                            false => {
                                naive.0.remove(of);
                            }
                        }
                    }
                    Event::Passes(seconds) => now += Duration::from_secs(seconds),
                }
                let present = naive.present();
                for (at, number) in present.iter().enumerate() {
                    prop_assert_eq!(turns.is_first(*number), at == 0);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_whoever_is_next_is_told() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let hash = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_le_bytes());
            hash
        };
        for n in 0..MOST_KEPT + 10 {
            let (number, _) = turns.join(|| hash(n), now);
            turns.leave(number, Some((hash(n), now + KEPT)));
        }
        assert_eq!(turns.kept.len(), MOST_KEPT);
        assert!(turns.keeps_any(now) && !turns.keeps_any(now + KEPT));
        let (first, _) = turns.join(|| hash(0), now);
        let (_, turn) = turns.join(|| hash(1), now);
        turns.leave(first, None);
        let told = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        told.block_on(async { tokio::time::timeout(KEPT, turn.notified()).await }).expect("it is told");
    }
}
