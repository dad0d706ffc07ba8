//! Which faults are set, and which of them are in force.

use std::time::Duration;

use tokio::sync::watch;

use super::active::ActiveFault;
use super::faults::{Fault, duration};

/// The faults of one server.
#[derive(Debug)]
pub(super) struct Faults {
    sets: watch::Sender<Vec<Set>>,
    /// The start of the process that this is.
    start: u64,
}

#[derive(Debug, Clone)]
struct Set {
    id: u64,
    active: ActiveFault,
    /// Inference calls before it was set, and before it began.
    calls_before: u64,
    begun: Option<u64>,
    in_force: bool,
}

/// Inference calls as they are now.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallLoad {
    pub(super) calls: u64,
    pub(super) in_flight: usize,
    /// The last of the calls just opened.
    pub(super) opening: bool,
}

/// A fault that began with a review, for what it does by the clock.
#[derive(Debug)]
pub(super) struct BegunFault {
    pub(super) id: u64,
    pub(super) active: ActiveFault,
}

impl Set {
    fn is_due(&self, load: CallLoad) -> bool {
        let when = &self.active.when;
        when.after_requests.is_some_and(|n| load.calls - self.calls_before > n)
            || when.above_in_flight.is_some_and(|n| load.in_flight > n)
    }

    fn is_over(&self, load: CallLoad) -> bool {
        let calls = self.begun.map(|before| load.calls.saturating_sub(before));
        self.active.when.for_requests.zip(calls).is_some_and(|(most, calls)| calls > most)
    }

    fn holds(&self, load: CallLoad) -> bool {
        self.begun.is_some() && self.active.when.while_in_flight.is_none_or(|n| load.in_flight >= n)
    }
}

impl Faults {
    pub(super) fn new(start: u64) -> Self {
        Self { sets: watch::Sender::new(Vec::new()), start }
    }

    pub(super) fn all(&self) -> Vec<ActiveFault> {
        self.sets.borrow().iter().map(|set| set.active.clone()).collect()
    }

    /// Sets one; a fault of earlier starts alone is left out. `id` must be new.
    pub(super) fn add(&self, id: u64, active: ActiveFault, load: CallLoad) -> Option<BegunFault> {
        if active.when.starts.is_some_and(|starts| self.start > starts) {
            return None;
        }
        let begins = active.when.begins_at_once();
        let begun = begins.then_some(load.calls);
        let mut set = Set { id, active: active.clone(), calls_before: load.calls, begun, in_force: false };
        set.in_force = set.holds(load);
        self.sets.send_modify(|sets| sets.push(set));
        begins.then_some(BegunFault { id, active })
    }

    /// Begins one by the clock.
    pub(super) fn begin(&self, id: u64, load: CallLoad) -> Option<BegunFault> {
        let mut begun = None;
        self.sets.send_modify(|sets| {
            if let Some(set) = sets.iter_mut().find(|set| set.id == id && set.begun.is_none()) {
                set.begun = Some(load.calls);
                set.in_force = set.holds(load);
                begun = Some(BegunFault { id, active: set.active.clone() });
            }
        });
        begun
    }

    /// Begins and ends what the count of calls begins and ends.
    pub(super) fn review(&self, load: CallLoad) -> Vec<BegunFault> {
        let mut begun = Vec::new();
        self.sets.send_if_modified(|sets| {
            let count = sets.len();
            let mut changed = false;
            sets.retain_mut(|set| {
                if set.begun.is_none() && set.is_due(load) {
                    set.begun = Some(load.calls - u64::from(load.opening));
                    begun.push(BegunFault { id: set.id, active: set.active.clone() });
                }
                let holds = set.holds(load);
                changed |= holds != set.in_force;
                set.in_force = holds;
                !set.is_over(load)
            });
            changed || sets.len() != count
        });
        begun
    }

    pub(super) fn clear(&self) {
        self.sets.send_modify(Vec::clear);
    }

    pub(super) fn end(&self, id: u64) {
        self.end_where(|set| set.id == id);
    }

    /// Ends those in force that are such.
    pub(super) fn end_such(&self, is_such: impl Fn(&Fault) -> bool) {
        self.end_where(|set| set.begun.is_some() && is_such(&set.active.fault));
    }

    fn end_where(&self, over: impl Fn(&Set) -> bool) {
        self.sets.send_if_modified(|sets| {
            let before = sets.len();
            sets.retain(|set| !over(set));
            sets.len() != before
        });
    }

    pub(super) fn is_set(&self, id: u64) -> bool {
        self.sets.borrow().iter().any(|set| set.id == id)
    }

    /// What the first fault in force says that has something to say.
    pub(super) fn first<T>(&self, says: impl FnMut(&Fault) -> Option<T>) -> Option<T> {
        in_force(&self.sets.borrow()).find_map(says)
    }

    /// Waits until no fault is such.
    pub(super) async fn until_none(&self, is_such: impl Fn(&Fault) -> bool) {
        self.until(|sets| !in_force(sets).any(&is_such)).await;
    }

    /// Waits until some fault is such.
    pub(super) async fn until_some(&self, is_such: impl Fn(&Fault) -> bool) {
        self.until(|sets| in_force(sets).any(&is_such)).await;
    }

    /// Waits until this one is no longer set.
    pub(super) async fn until_ended(&self, id: u64) {
        self.until(|sets| sets.iter().all(|set| set.id != id)).await;
    }

    async fn until(&self, holds: impl Fn(&[Set]) -> bool) {
        let mut changes = self.sets.subscribe();
        // Its sender lives in self: it can't fail.
        let _ = changes.wait_for(|sets| holds(sets)).await;
    }
}

fn in_force(sets: &[Set]) -> impl Iterator<Item = &Fault> {
    sets.iter().filter(|set| set.in_force).map(|set| &set.active.fault)
}

/// Seconds of a checked fault.
pub(super) fn checked(seconds: f64) -> Duration {
    duration(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(calls: u64, in_flight: usize, opening: bool) -> CallLoad {
        CallLoad { calls, in_flight, opening }
    }

    fn faults(text: &str, start: u64) -> Faults {
        let faults = Faults::new(start);
        faults.add(0, text.parse().unwrap(), load(10, 0, false));
        faults
    }

    fn holds(faults: &Faults) -> bool {
        faults.first(|_| Some(())).is_some()
    }

    /// Calls are 11, 12, … since the fault was set after ten.
    #[test]
    fn a_fault_is_in_force_for_the_calls_that_it_names() {
        let cases = [
            ("runner-stopped", [true, true, true, true]),
            ("runner-stopped:after-requests=2", [false, false, true, true]),
            ("runner-stopped:for-requests=1", [true, false, false, false]),
            ("runner-stopped:after-requests=1,for-requests=2", [false, true, true, false]),
        ];
        for (text, expected) in cases {
            let faults = faults(text, 1);
            let seen = [11, 12, 13, 14].map(|calls| {
                faults.review(load(calls, 1, true));
                holds(&faults)
            });
            assert_eq!(seen, expected, "{text}");
        }
    }

    #[test]
    fn open_calls_begin_a_fault_for_good_or_keep_it_in_force() {
        for (text, expected) in
            [("hang:above-in-flight=1", [false, true, true]), ("hang:while-in-flight=2", [false, true, false])]
        {
            let faults = faults(text, 1);
            let seen = [1, 2, 1].map(|in_flight| {
                faults.review(load(11, in_flight, false));
                holds(&faults)
            });
            assert_eq!(seen, expected, "{text}");
        }
    }

    #[test]
    fn a_fault_of_the_first_starts_is_not_set_in_later_ones() {
        assert_eq!([1, 2, 3].map(|start| holds(&faults("hang:starts=2", start))), [true, true, false]);
    }

    #[test]
    fn the_clock_begins_a_fault_once() {
        let faults = faults("hang:after-seconds=5", 1);
        assert!(!holds(&faults));
        assert!(faults.begin(0, load(12, 0, false)).is_some());
        assert!(faults.begin(0, load(12, 0, false)).is_none() && holds(&faults));
    }
}
