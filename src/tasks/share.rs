//! Who gets a free slot of a server: one rule for calls of people's programs and for tasks, whatever process they come from. Pure.
//!
//! Interactive calls go first, except that tasks which wait get a tenth of the server's time. Within a class the oldest goes first. A
//! free slot is kept for whoever is first for a moment only, so that a process which is dead or stands still delays nobody; and when an
//! interactive call ends, its slot is kept for others of its class for some seconds, because an agent's next turn comes after its tool call.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a slot that an interactive call gave back is kept for its class.
pub const INTERACTIVE_HOLD: Duration = Duration::from_secs(5);
/// How long a free slot is kept for whoever is first.
pub const HEAD: Duration = Duration::from_millis(250);
/// Whoever has not said so lately waits no more.
pub const WAIT_LAPSES: Duration = Duration::from_secs(3);
/// The time over which the share of tasks is measured.
pub const SHARE_WINDOW: Duration = Duration::from_secs(600);
/// Tasks that wait get one part in so many of the time.
const BATCH_SHARE: u32 = 10;

/// How urgent a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CallClass {
    /// Somebody waits for the answer.
    Interactive,
    /// A task.
    Batch,
}

/// A slot that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSlot {
    /// Since it was given back, or was added.
    pub free_for: Duration,
    /// An interactive call gave it back.
    pub after_interactive: bool,
}

/// Calls of one process and class that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingCalls {
    pub process: String,
    pub class: CallClass,
    pub calls: usize,
    pub waiting_for: Duration,
}

/// The time that slots of a server were taken, within [`SHARE_WINDOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotTime {
    pub interactive: Duration,
    pub batch: Duration,
}

impl SlotTime {
    pub fn add(&mut self, class: CallClass, time: Duration) {
        match class {
            CallClass::Interactive => self.interactive += time,
            CallClass::Batch => self.batch += time,
        }
    }

    /// Tasks had less than their share.
    pub fn owes_batch(&self) -> bool {
        self.batch * BATCH_SHARE < self.interactive + self.batch
    }
}

/// How many of the free slots a process may take now for calls of a class. Whether it waits already or comes now makes no difference but
/// for its place: whoever comes now is the last of its class.
pub fn may_take(
    free: &[FreeSlot],
    waiting: &[WaitingCalls],
    time: SlotTime,
    (process, class, wanted): (&str, CallClass, usize),
) -> usize {
    let own = |one: &WaitingCalls| one.process == process && one.class == class;
    let mut all: Vec<WaitingCalls> = waiting.iter().filter(|one| one.calls > 0).cloned().collect();
    match all.iter_mut().find(|one| own(one)) {
        Some(known) => known.calls = known.calls.max(wanted),
        None => {
            let process = process.to_owned();
            all.push(WaitingCalls { process, class, calls: wanted, waiting_for: Duration::ZERO });
        }
    }
    all.sort_by(|a, b| {
        (a.class, std::cmp::Reverse(a.waiting_for), &a.process).cmp(&(
            b.class,
            std::cmp::Reverse(b.waiting_for),
            &b.process,
        ))
    });
    let owed = time.owes_batch();
    // Those that were free for longest first.
    let mut slots: Vec<FreeSlot> = free.to_vec();
    slots.sort_by_key(|slot| std::cmp::Reverse(slot.free_for));
    let mut taken = 0;
    // The one task that is owed goes before everybody, and also into a slot that is kept for interactive calls.
    let mut order: Vec<(&WaitingCalls, usize, bool)> = all.iter().map(|one| (one, one.calls, false)).collect();
    if owed && let Some(at) = all.iter().position(|one| one.class == CallClass::Batch && one.calls > 0) {
        order[at].1 -= 1;
        order.insert(0, (&all[at], 1, true));
    }
    for (one, calls, is_owed) in order {
        for _ in 0..calls {
            let may = |slot: &FreeSlot| is_owed || one.class == CallClass::Interactive || !slot.is_held();
            let Some(at) = slots.iter().position(may) else { break };
            let slot = slots.remove(at);
            if own(one) {
                taken += 1;
            } else if slot.free_for >= HEAD
                && one.waiting_for >= HEAD
                && (class == CallClass::Interactive || !slot.is_held())
            {
                // It was kept for long enough: whoever asks gets it.
                taken += 1;
            }
        }
    }
    taken.min(wanted)
}

impl FreeSlot {
    fn is_held(&self) -> bool {
        self.after_interactive && self.free_for < INTERACTIVE_HOLD
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use CallClass::{Batch, Interactive};

    const NO_TIME: SlotTime = SlotTime { interactive: Duration::ZERO, batch: Duration::ZERO };
    /// Tasks had next to nothing.
    const OWING: SlotTime = SlotTime { interactive: Duration::from_secs(100), batch: Duration::from_secs(1) };

    fn slot(millis: u64, after_interactive: bool) -> FreeSlot {
        FreeSlot { free_for: Duration::from_millis(millis), after_interactive }
    }

    fn waits(process: &str, class: CallClass, calls: usize, millis: u64) -> WaitingCalls {
        WaitingCalls { process: process.into(), class, calls, waiting_for: Duration::from_millis(millis) }
    }

    #[test]
    fn each_rule_by_an_example() {
        let new = slot(10, false);
        let old = slot(60_000, false);
        let (free, kept, was_kept) = ([old], [slot(1_000, true)], [slot(5_000, true)]);
        let gateway = || vec![waits("gateway", Interactive, 1, 100)];
        let worker = || vec![waits("worker", Batch, 1, 5_000)];
        for (free, waiting, time, asker, taken, why) in [
            (&free[..], vec![], NO_TIME, ("worker", Batch, 3), 1, "nobody else waits"),
            (&[], vec![], NO_TIME, ("worker", Batch, 3), 0, "none is free"),
            (&[new], gateway(), NO_TIME, ("worker", Batch, 1), 0, "interactive calls first"),
            (&[new, old], gateway(), NO_TIME, ("worker", Batch, 2), 1, "there is more than they need"),
            (&[new], worker(), NO_TIME, ("gateway", Interactive, 1), 1, "also before older tasks"),
            (&kept, vec![], NO_TIME, ("worker", Batch, 1), 0, "kept for the next turn"),
            (&kept, vec![], NO_TIME, ("gateway", Interactive, 1), 1, "this is the next turn"),
            (&was_kept, vec![], NO_TIME, ("worker", Batch, 1), 1, "no turn came"),
            (&kept, worker(), OWING, ("worker", Batch, 2), 1, "tasks get their tenth, one at a time"),
            (
                &[slot(100, true)],
                worker(),
                OWING,
                ("gateway", Interactive, 1),
                0,
                "of which interactive calls make way",
            ),
            (&[slot(260, false)], worker(), OWING, ("gateway", Interactive, 1), 1, "but not for a worker that sleeps"),
            (
                &[slot(260, false)],
                vec![waits("dead", Interactive, 1, 900)],
                NO_TIME,
                ("worker", Batch, 1),
                1,
                "nor for a dead gateway",
            ),
            (
                &[slot(240, false)],
                vec![waits("dead", Interactive, 1, 900)],
                NO_TIME,
                ("worker", Batch, 1),
                0,
                "which is not known yet",
            ),
            (
                &[old],
                vec![waits("other", Interactive, 1, 100)],
                NO_TIME,
                ("gateway", Interactive, 1),
                0,
                "who came first is first",
            ),
            (
                &[new],
                vec![waits("other", Interactive, 1, 100), waits("gateway", Interactive, 1, 200)],
                NO_TIME,
                ("gateway", Interactive, 1),
                1,
                "this one did",
            ),
        ] {
            assert_eq!(may_take(free, &waiting, time, asker), taken, "{why}");
        }
    }

    fn any_class() -> impl Strategy<Value = CallClass> {
        prop_oneof![Just(Interactive), Just(Batch)]
    }

    fn any_waiting() -> impl Strategy<Value = Vec<WaitingCalls>> {
        let one = (0..4_u8, any_class(), 0..4_usize, 0..8_000_u64)
            .prop_map(|(process, class, calls, millis)| waits(&format!("p{process}"), class, calls, millis));
        proptest::collection::vec(one, 0..6).prop_map(|mut all| {
            all.sort_by_key(|one| (one.process.clone(), one.class));
            all.dedup_by_key(|one| (one.process.clone(), one.class));
            all
        })
    }

    fn any_free() -> impl Strategy<Value = Vec<FreeSlot>> {
        proptest::collection::vec((0..8_000_u64, any::<bool>()).prop_map(|(millis, after)| slot(millis, after)), 0..5)
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_there_is_or_was_wanted(
            free in any_free(), waiting in any_waiting(), owing in any::<bool>(), class in any_class(), wanted in 0..5_usize,
        ) {
            let time = if owing { OWING } else { NO_TIME };
            prop_assert!(may_take(&free, &waiting, time, ("p0", class, wanted)) <= free.len().min(wanted));
        }

        /// While slots are new, what all may take together is no more than there is: nobody races.
        #[test]
        fn new_slots_are_promised_once(slots in 0..5_usize, waiting in any_waiting(), owing in any::<bool>()) {
            let free = vec![slot(0, false); slots];
            let time = if owing { OWING } else { NO_TIME };
            let all: usize = waiting
                .iter()
                .map(|one| may_take(&free, &waiting, time, (&one.process, one.class, one.calls)))
                .sum();
            prop_assert!(all <= slots, "{all} of {slots}");
        }

        /// No slot is left free while somebody may use it: whoever asks gets it once it was kept for long enough.
        #[test]
        fn a_slot_that_is_free_for_long_is_for_whoever_asks(
            mut waiting in any_waiting(), owing in any::<bool>(), class in any_class(), after in any::<bool>(),
        ) {
            waiting.iter_mut().for_each(|one| one.waiting_for += HEAD);
            let time = if owing { OWING } else { NO_TIME };
            let free = [FreeSlot { free_for: INTERACTIVE_HOLD, after_interactive: after }];
            prop_assert_eq!(may_take(&free, &waiting, time, ("asker", class, 1)), 1);
        }

        #[test]
        fn an_interactive_call_waits_for_no_task_unless_one_is_owed(waiting in any_waiting(), slots in 1..4_usize, kept in any::<bool>()) {
            let tasks: Vec<_> = waiting.into_iter().filter(|one| one.class == Batch).collect();
            let free = vec![slot(0, kept); slots];
            prop_assert_eq!(may_take(&free, &tasks, NO_TIME, ("gateway", Interactive, slots)), slots);
        }
    }
}
