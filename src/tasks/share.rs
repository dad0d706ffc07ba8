//! Who gets a free slot of a server: one rule for calls of people's programs and for tasks, whatever process they come from. Pure.
//!
//! Interactive calls go first, except that tasks which wait get a tenth of the server's time. Within a class whoever had the least of the
//! server's time lately, by its weight, goes first; of one caller's calls the oldest. All tasks are one caller. A
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

/// Weight of whoever says none, and of tasks.
pub const USUAL_WEIGHT: i32 = 10;
/// What a call that was just given a slot counts for: how long it will take is not known.
const CALL: Duration = Duration::from_secs(1);

/// Calls of one process, class and caller that wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingCalls {
    pub process: String,
    pub class: CallClass,
    /// Empty: tasks.
    pub caller: String,
    pub weight: i32,
    /// The time that slots were taken by the caller's calls of this class, within [`SHARE_WINDOW`].
    pub had: Duration,
    pub calls: usize,
    pub waiting_for: Duration,
}

impl WaitingCalls {
    /// Its place among those that wait: the least is first.
    fn place(&self) -> (CallClass, u128, std::cmp::Reverse<Duration>, &str) {
        let by_weight = self.had.as_nanos() / u128::from(self.weight.max(1).unsigned_abs());
        (self.class, by_weight, std::cmp::Reverse(self.waiting_for), &self.process)
    }

    fn is_of(&self, other: &Self) -> bool {
        self.class == other.class && self.caller == other.caller
    }
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

/// How many of the free slots `asker` may take now. Whether it waits already or comes now makes no difference but for its place: of two that
/// had as much, whoever comes now is the last.
pub fn may_take(free: &[FreeSlot], waiting: &[WaitingCalls], time: SlotTime, asker: &WaitingCalls) -> usize {
    let own = |one: &WaitingCalls| one.process == asker.process && one.is_of(asker);
    let wanted = asker.calls;
    let mut all: Vec<WaitingCalls> = waiting.iter().filter(|one| one.calls > 0).cloned().collect();
    match all.iter_mut().find(|one| own(one)) {
        Some(known) => known.calls = known.calls.max(wanted),
        None => all.push(asker.clone()),
    }
    // Those that were free for longest first.
    let mut slots: Vec<FreeSlot> = free.to_vec();
    slots.sort_by_key(|slot| std::cmp::Reverse(slot.free_for));
    let first = |all: &[WaitingCalls], class: Option<CallClass>| {
        let each =
            all.iter().enumerate().filter(|(_, one)| one.calls > 0 && class.is_none_or(|class| one.class == class));
        each.min_by(|(_, a), (_, b)| a.place().cmp(&b.place())).map(|(at, _)| at)
    };
    let mut taken = 0;
    // The one task that is owed goes before everybody, and also into a slot that is kept for interactive calls.
    let mut owed = if time.owes_batch() { first(&all, Some(CallClass::Batch)) } else { None };
    while let Some(at) = owed.or_else(|| first(&all, None)) {
        let one = &all[at];
        let is_owed = owed.take().is_some();
        let may = |slot: &FreeSlot| is_owed || one.class == CallClass::Interactive || !slot.is_held();
        let Some(place) = slots.iter().position(may) else {
            // There is none for these.
            all[at].calls = 0;
            continue;
        };
        let slot = slots.remove(place);
        if own(one) {
            taken += 1;
        } else if slot.free_for >= HEAD
            && one.waiting_for >= HEAD
            && (asker.class == CallClass::Interactive || !slot.is_held())
        {
            // It was kept for long enough: whoever asks gets it.
            taken += 1;
        }
        let given = all[at].clone();
        all[at].calls -= 1;
        all.iter_mut().filter(|other| other.is_of(&given)).for_each(|other| other.had += CALL);
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
        let (caller, waiting_for) = (String::new(), Duration::from_millis(millis));
        WaitingCalls {
            process: process.into(),
            class,
            caller,
            weight: USUAL_WEIGHT,
            had: Duration::ZERO,
            calls,
            waiting_for,
        }
    }

    fn of(caller: &str, weight: i32, had_seconds: u64, waiting: WaitingCalls) -> WaitingCalls {
        WaitingCalls { caller: caller.into(), weight, had: Duration::from_secs(had_seconds), ..waiting }
    }

    fn asks((process, class, calls): (&str, CallClass, usize)) -> WaitingCalls {
        waits(process, class, calls, 0)
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
            assert_eq!(may_take(free, &waiting, time, &asks(asker)), taken, "{why}");
        }
    }

    #[test]
    fn callers_of_a_class_share_by_weight_whoever_came_first() {
        let gateway = |millis| waits("gateway", Interactive, 1, millis);
        let two = |had: (u64, u64), weights: (i32, i32)| {
            vec![of("a", weights.0, had.0, gateway(900)), of("b", weights.1, had.1, gateway(100))]
        };
        for (had, weights, first, why) in [
            ((0, 0), (10, 10), "a", "who came first"),
            ((60, 10), (10, 10), "b", "who had less"),
            ((60, 40), (20, 10), "a", "by its weight"),
            ((90, 40), (20, 10), "b", "by its weight"),
        ] {
            let waiting = two(had, weights);
            for one in &waiting {
                let taken = may_take(&[slot(10, false)], &waiting, NO_TIME, one);
                assert_eq!(taken == 1, one.caller == first, "{why}: {}", one.caller);
            }
        }
        // Whoever had nothing does not take all of what is free at once.
        let many = [
            of("a", 10, 0, waits("gateway", Interactive, 4, 900)),
            of("b", 10, 0, waits("gateway", Interactive, 4, 100)),
        ];
        let taken = many.each_ref().map(|one| may_take(&[slot(10, false); 4], &many, NO_TIME, one));
        assert_eq!(taken, [2, 2]);
        // Tasks are one caller.
        let batch = [of("a", 10, 9, waits("gateway", Batch, 1, 900)), of("", 10, 8, waits("worker", Batch, 3, 0))];
        let taken = batch.each_ref().map(|one| may_take(&[slot(10, false)], &batch, NO_TIME, one));
        assert_eq!(taken, [0, 1]);
    }

    /// Two callers with calls without end get the time of one slot by their weights, to one call.
    #[test]
    fn two_backlogged_callers_differ_by_one_call() {
        let mut had = [Duration::ZERO; 2];
        let calls = [Duration::from_secs(7), Duration::from_secs(2)];
        for _ in 0..500 {
            let waiting: Vec<_> = (0..2)
                .map(|at| WaitingCalls {
                    had: had[at],
                    ..of(["a", "b"][at], [10, 20][at], 0, waits("gateway", Interactive, 9, 100))
                })
                .collect();
            let turn = (0..2).find(|at| {
                may_take(&[slot(0, false)], &waiting, NO_TIME, &WaitingCalls { calls: 1, ..waiting[*at].clone() }) == 1
            });
            let turn = turn.expect("it is somebody's");
            had[turn] += calls[turn];
            let (a, b) = (had[0].as_secs_f64() / 10.0, had[1].as_secs_f64() / 20.0);
            assert!((a - b).abs() <= 0.7 + 0.01, "{had:?}");
        }
    }

    fn any_class() -> impl Strategy<Value = CallClass> {
        prop_oneof![Just(Interactive), Just(Batch)]
    }

    fn any_waiting() -> impl Strategy<Value = Vec<WaitingCalls>> {
        let place = (0..4_u8, any_class(), 0..3_u8);
        let one = (place, 0..4_usize, 0..8_000_u64).prop_map(|((process, class, caller), calls, millis)| {
            let waiting = waits(&format!("p{process}"), class, calls, millis);
            // What a caller has and had is the same wherever it waits.
            of(&format!("c{caller}"), 10 * (1 + i32::from(caller)), u64::from(caller) * 7, waiting)
        });
        proptest::collection::vec(one, 0..8).prop_map(|mut all| {
            let place = |one: &WaitingCalls| (one.process.clone(), one.class, one.caller.clone());
            all.sort_by_key(place);
            all.dedup_by_key(|one| place(one));
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
            prop_assert!(may_take(&free, &waiting, time, &asks(("p0", class, wanted))) <= free.len().min(wanted));
        }

        /// While slots are new, what all may take together is no more than there is: nobody races.
        #[test]
        fn new_slots_are_promised_once(slots in 0..5_usize, waiting in any_waiting(), owing in any::<bool>()) {
            let free = vec![slot(0, false); slots];
            let time = if owing { OWING } else { NO_TIME };
            let all: usize = waiting
                .iter()
                .map(|one| may_take(&free, &waiting, time, one))
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
            prop_assert_eq!(may_take(&free, &waiting, time, &asks(("asker", class, 1))), 1);
        }

        #[test]
        fn an_interactive_call_waits_for_no_task_unless_one_is_owed(waiting in any_waiting(), slots in 1..4_usize, kept in any::<bool>()) {
            let tasks: Vec<_> = waiting.into_iter().filter(|one| one.class == Batch).collect();
            let free = vec![slot(0, kept); slots];
            prop_assert_eq!(may_take(&free, &tasks, NO_TIME, &asks(("gateway", Interactive, slots))), slots);
        }
    }
}
