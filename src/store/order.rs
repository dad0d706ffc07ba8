//! Whose turn it is at a server, from what the database knows: the rule is in [`share`]. Pure, the same for both databases, run under the
//! lock of the server's row.
//!
//! [`share`]: crate::tasks::share

use std::time::Duration;

use sqlx::FromRow;

use super::SlotRequest;
use super::admit::{SlotRecord, calls_at_once};
use super::stamp::Stamp;
use super::{ServerRow, SlotAnswer};
use crate::tasks::share::{CallClass, FreeSlot, SHARE_WINDOW, SlotTime, USUAL_WEIGHT, WaitingCalls, may_take};

const MINUTE_MILLIS: i64 = 60_000;
/// Minutes of which the time is kept, the present one with them.
const PLACES: i64 = SHARE_WINDOW.as_secs() as i64 / 60 + 1;

/// A row of `slot_waits` that has not lapsed.
#[derive(Clone, Debug, FromRow)]
pub(super) struct WaitRecord {
    pub holder: String,
    pub class: String,
    /// Empty: tasks.
    pub caller: String,
    pub weight: i32,
    pub calls: i64,
    pub since: Stamp,
}

/// The time of a caller's calls of a class in `slot_shares`.
#[derive(Clone, Debug, FromRow)]
pub(super) struct ShareRecord {
    pub class: String,
    /// Empty: tasks.
    pub caller: String,
    pub micros: i64,
}

/// What is known of those who wait for a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub waits: Vec<WaitRecord>,
    /// Read only where somebody waits.
    pub shares: Vec<ShareRecord>,
}

pub(super) const fn class_word(class: CallClass) -> &'static str {
    match class {
        CallClass::Interactive => "Interactive",
        CallClass::Batch => "Batch",
    }
}

fn class_of(word: &str) -> Option<CallClass> {
    [CallClass::Interactive, CallClass::Batch].into_iter().find(|class| class_word(*class) == word)
}

pub(super) const fn minute_of(now: Stamp) -> i64 {
    now.millis().div_euclid(MINUTE_MILLIS)
}

/// Where a minute is kept.
pub(super) const fn place_of(minute: i64) -> i64 {
    minute.rem_euclid(PLACES)
}

/// The first minute that counts.
pub(super) const fn first_minute(now: Stamp) -> i64 {
    minute_of(now) - PLACES + 1
}

/// Who asks for slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotAsker<'a> {
    pub holder: &'a str,
    pub class: CallClass,
    /// Empty: tasks.
    pub caller: &'a str,
    pub weight: i32,
    pub wanted: i32,
}

/// A worker, for tasks.
impl<'a> From<(&'a str, CallClass, i32)> for SlotAsker<'a> {
    fn from((holder, class, wanted): (&'a str, CallClass, i32)) -> Self {
        Self { holder, class, caller: "", weight: USUAL_WEIGHT, wanted }
    }
}

impl<'a> SlotAsker<'a> {
    /// `None`: it stands in no line.
    pub fn of(request: &'a SlotRequest) -> Option<Self> {
        let class = request.class?;
        let (caller, weight) =
            request.caller.as_ref().map_or(("", USUAL_WEIGHT), |caller| (caller.id.as_str(), caller.weight));
        Some(Self { holder: &request.holder, class, caller, weight, wanted: 1 })
    }
}

/// How many of its free slots a server has for whoever asks. `keeps`: the process has one more already, which is not
/// among `slots`, and asks whether it may go on with it.
pub(super) fn grants<'a>(
    server: &ServerRow,
    slots: &[SlotRecord],
    line: &Line,
    asker: impl Into<SlotAsker<'a>>,
    keeps: bool,
    now: Stamp,
) -> usize {
    let (occupied, free): (Vec<&SlotRecord>, Vec<&SlotRecord>) = slots.iter().partition(|slot| slot.is_occupied(now));
    let capacity = usize::try_from(calls_at_once(server)).unwrap_or(0).saturating_sub(occupied.len());
    let mut free: Vec<FreeSlot> = free
        .into_iter()
        .map(|slot| FreeSlot {
            free_for: slot.frees_at().until(now),
            after_interactive: slot.class.as_deref() == Some(class_word(CallClass::Interactive)),
        })
        .collect();
    if keeps {
        free.push(FreeSlot { free_for: Duration::ZERO, after_interactive: false });
    }
    // Rows that were never given, or are no more than the limit allows: what was given back last counts.
    free.sort_by_key(|slot| slot.free_for);
    free.resize(capacity, FreeSlot { free_for: Duration::MAX, after_interactive: false });
    let times = Times { occupied: &occupied, line, now };
    let waiting: Vec<WaitingCalls> = line.waits.iter().filter_map(|wait| times.waiting(wait)).collect();
    let SlotAsker { holder, class, caller, weight, wanted } = asker.into();
    let asker = WaitingCalls {
        process: holder.to_owned(),
        class,
        caller: caller.to_owned(),
        weight,
        had: times.had(class, caller),
        calls: usize::try_from(wanted).unwrap_or(0),
        waiting_for: Duration::ZERO,
    };
    may_take(&free, &waiting, times.by_class(), &asker)
}

/// As many are occupied as may be, as far as whoever asks is concerned.
pub(super) fn full(server: &ServerRow, slots: &[SlotRecord], now: Stamp) -> SlotAnswer {
    let occupied = slots.iter().filter(|slot| slot.is_occupied(now)).count();
    SlotAnswer::Full { occupied: i64::try_from(occupied).unwrap_or(i64::MAX), limit: calls_at_once(server) }
}

/// The time that slots were taken lately, those that are taken now with them.
struct Times<'a> {
    occupied: &'a [&'a SlotRecord],
    line: &'a Line,
    now: Stamp,
}

impl Times<'_> {
    /// By class and caller.
    fn each(&self) -> impl Iterator<Item = (CallClass, &str, Duration)> {
        let shares = self.line.shares.iter().filter_map(|share| {
            let time = Duration::from_micros(share.micros.max(0).unsigned_abs());
            Some((class_of(&share.class)?, share.caller.as_str(), time))
        });
        let running = self.occupied.iter().filter_map(|slot| {
            let class = slot.class.as_deref().and_then(class_of)?;
            Some((class, slot.caller.as_deref().unwrap_or_default(), slot.taken_at.until(self.now)))
        });
        shares.chain(running)
    }

    fn by_class(&self) -> SlotTime {
        let mut all = SlotTime::default();
        self.each().for_each(|(class, _, time)| all.add(class, time));
        all
    }

    fn had(&self, class: CallClass, caller: &str) -> Duration {
        self.each().filter(|(of, by, _)| *of == class && *by == caller).map(|(_, _, time)| time).sum()
    }

    fn waiting(&self, wait: &WaitRecord) -> Option<WaitingCalls> {
        let class = class_of(&wait.class)?;
        Some(WaitingCalls {
            process: wait.holder.clone(),
            class,
            caller: wait.caller.clone(),
            weight: wait.weight,
            had: self.had(class, &wait.caller),
            calls: usize::try_from(wait.calls).unwrap_or(0),
            waiting_for: wait.since.until(self.now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_come_round_and_only_the_last_ten_count() {
        let at = |second| Stamp::from(jiff::Timestamp::from_second(second).expect("a time"));
        assert_eq!(minute_of(at(119)), 1);
        let now = at(6_000);
        let counting: Vec<i64> = (first_minute(now)..=minute_of(now)).collect();
        assert_eq!((counting.len(), counting[0]), (11, 90));
        let mut places: Vec<i64> = counting.iter().map(|minute| place_of(*minute)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), counting.len(), "no two that count have one place");
    }

    #[test]
    fn classes_are_read_as_they_are_written() {
        for class in [CallClass::Interactive, CallClass::Batch] {
            assert_eq!(class_of(class_word(class)), Some(class));
        }
        assert_eq!(class_of("Canary"), None);
    }
}
