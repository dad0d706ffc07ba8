//! Who gets a slot: pure, the same for both databases, run under the lock of the server's row.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::FromRow;

use super::order::class_word;
use super::rows::{purpose_of, purpose_word};
use super::stamp::Stamp;
use crate::tasks::{route::CallsOfDay, share::CallClass};

use super::{Admission, CallLife, ServerNow, ServerRow, Slot, SlotAnswer, SlotPurpose, SlotRow, StoreError};

/// A row of `slots`.
#[derive(Clone, Debug, FromRow)]
pub(super) struct SlotRecord {
    pub server_url: String,
    pub number: i64,
    pub holder: String,
    pub epoch: i64,
    pub purpose: String,
    /// `None`: a canary's.
    pub class: Option<String>,
    /// Whose call, of the gateway's.
    pub caller: Option<String>,
    pub model: Option<String>,
    pub taken_at: Stamp,
    pub lease_expires_at: Stamp,
    pub call_ends_at: Stamp,
    pub call_began_at: Option<Stamp>,
    pub last_byte_at: Option<Stamp>,
    pub outlives_client: bool,
    /// The server's instance when the slot was taken.
    pub instance: Option<String>,
    pub aborted: bool,
    /// Set by the release: then, after a linger.
    pub frees_at: Option<Stamp>,
}

impl SlotRecord {
    /// Of a slot that is given now, for a task's call; how long its lease and its call may last.
    pub fn given(slot: &Slot, server: &ServerRow, (lease, call_within): (Duration, Duration), now: Stamp) -> Self {
        Self {
            server_url: slot.server_url.clone(),
            number: slot.number,
            holder: slot.holder.clone(),
            epoch: slot.epoch,
            purpose: purpose_word(SlotPurpose::Call).to_owned(),
            class: Some(class_word(CallClass::Batch).to_owned()),
            caller: None,
            model: None,
            taken_at: now,
            lease_expires_at: now.after(lease),
            call_ends_at: now.after(call_within),
            call_began_at: None,
            last_byte_at: None,
            outlives_client: false,
            instance: server.instance.clone(),
            aborted: false,
            frees_at: None,
        }
    }

    /// Whether a call may still run in this slot.
    ///
    /// A lapsed lease does not prove that generation stopped: only the end of the call does, or that the process which was called
    /// is gone. That frees it when it becomes known: see [`went_with`].
    pub fn is_occupied(&self, now: Stamp) -> bool {
        now < self.frees_at()
    }

    /// When it is free, or was.
    pub fn frees_at(&self) -> Stamp {
        self.frees_at.unwrap_or_else(|| self.lease_expires_at.max(self.call_ends_at))
    }

    /// Whether `slot` may go on. A lapsed slot that still counts is renewed under its epoch (a pause is not a death); one
    /// that no longer counts is not, because its place may have been given away under another number.
    pub fn renewable(&self, slot: &Slot, now: Stamp) -> Result<(), StoreError> {
        let lost = |why: &str| {
            Err(StoreError::Fenced(format!(
                "slot {} of {} (epoch {}): {why}",
                slot.number, slot.server_url, slot.epoch
            )))
        };
        if self.holder != slot.holder || self.epoch != slot.epoch {
            return lost("given to somebody else");
        }
        if self.frees_at.is_some() {
            return lost("released already");
        }
        if self.aborted {
            return lost("aborted, close the connection");
        }
        if !self.is_occupied(now) {
            return lost("its lease lapsed and its call must have ended");
        }
        Ok(())
    }
}

/// What a holder says of its call, by the database's clock. The holder's own may be hours off: only how long ago things were counts,
/// and nothing is in the future.
pub(super) fn life_at(life: CallLife, holders_now: Timestamp, now: Stamp) -> (Option<Stamp>, Option<Stamp>) {
    let at = |time: Timestamp| now.before(holders_now.duration_since(time).try_into().unwrap_or_default());
    (life.began_at.map(at), life.began_at.and(life.last_byte_at).map(at))
}

/// When the process that now listens surely had not begun yet; `None`: nobody knows.
pub(super) fn not_before(running_for: Option<Duration>, now: Stamp) -> Option<Stamp> {
    running_for.map(|most| now.before(most))
}

/// Whether the call in a slot surely ended with the process that listened before: nothing is sent in a slot whose lease has
/// lapsed, so if that was before the new process began, the call was sent to an earlier one. That the slot was given while an earlier
/// one was known proves nothing: the new one may have been there already, or may have come before the call was sent.
///
/// Asked once, when another instance becomes known; the stores' statements say the same.
#[cfg(test)]
pub(super) fn went_with(slot: &SlotRecord, instance: &str, not_before: Stamp) -> bool {
    slot.frees_at.is_none()
        && slot.instance.as_deref().is_some_and(|then| then != instance)
        && slot.lease_expires_at <= not_before
}

/// What becomes of a request for a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Give the row with this number, inserting it when it is not there.
    Give {
        number: i64,
        epoch: i64,
    },
    Refuse(SlotAnswer),
}

/// How many calls a server takes at once.
pub(super) const fn calls_at_once(server: &ServerRow) -> i32 {
    match server.admission {
        Admission::Closed => 0,
        Admission::One if server.limit > 1 => 1,
        Admission::One | Admission::Open => server.limit,
    }
}

/// Decides over a request, given every row of the server's slots.
pub(super) fn decide(server: &ServerRow, slots: &[SlotRecord], purpose: SlotPurpose, now: Stamp) -> Decision {
    let occupied = i64::try_from(slots.iter().filter(|slot| slot.is_occupied(now)).count()).unwrap_or(i64::MAX);
    let limit = match (purpose, server.admission) {
        (SlotPurpose::Call, Admission::Closed) => return Decision::Refuse(SlotAnswer::Closed),
        (SlotPurpose::Call, _) => calls_at_once(server),
        (SlotPurpose::Canary, _) => server.limit.min(1),
    };
    if occupied >= i64::from(limit) {
        return Decision::Refuse(SlotAnswer::Full { occupied, limit });
    }
    let free = slots.iter().filter(|slot| !slot.is_occupied(now)).min_by_key(|slot| slot.number);
    match free {
        Some(slot) => Decision::Give { number: slot.number, epoch: slot.epoch + 1 },
        None => {
            let last = slots.iter().map(|slot| slot.number).max().unwrap_or(0);
            Decision::Give { number: last + 1, epoch: 1 }
        }
    }
}

/// A row of `server_days`.
#[derive(Clone, Debug, FromRow)]
pub(super) struct DayRecord {
    day: i64,
    calls: i64,
}

/// The UTC day by the database's clock, in days since 1970.
pub(super) const fn day_of(now: Stamp) -> i64 {
    now.millis().div_euclid(24 * 3_600 * 1_000)
}

/// What a server may still be called today; `None`: as often as it has slots. A day that is yet to come, after a clock went back, counts
/// as today: else its calls would be made twice.
pub(super) fn calls_of_day(most: Option<i32>, counted: Option<&DayRecord>, now: Stamp) -> Option<CallsOfDay> {
    let made = counted.filter(|counted| counted.day >= day_of(now)).map_or(0, |counted| counted.calls);
    most.map(|most| CallsOfDay { most, left: (i64::from(most) - made).max(0) })
}

/// The rows that are occupied, with their times by the reader's clock: whoever judges calls compares them with its own time, which may
/// be minutes off the database's.
pub(super) fn occupied_rows(
    slots: Vec<SlotRecord>,
    now: Stamp,
    readers_now: Stamp,
) -> Result<Vec<SlotRow>, StoreError> {
    let seen = |slot: SlotRecord| {
        let at = |time: Stamp| Timestamp::from(time.by_another_clock(now, readers_now));
        let what = || StoreError::Broken(format!("slot {} has the unknown purpose {:?}", slot.number, slot.purpose));
        Ok(SlotRow {
            purpose: purpose_of(&slot.purpose).ok_or_else(what)?,
            taken_at: at(slot.taken_at),
            lease_expires_at: at(slot.lease_expires_at),
            call_ends_at: at(slot.call_ends_at),
            call_began_at: slot.call_began_at.map(at),
            last_byte_at: slot.last_byte_at.map(at),
            number: slot.number,
            holder: slot.holder,
            epoch: slot.epoch,
            model: slot.model,
            instance: slot.instance,
            aborted: slot.aborted,
        })
    };
    slots.into_iter().filter(|slot| slot.is_occupied(now)).map(seen).collect()
}

/// The same of many servers, each with its URL.
pub(super) fn with_servers(
    slots: Vec<SlotRecord>,
    now: Stamp,
    readers_now: Stamp,
) -> Result<Vec<(String, SlotRow)>, StoreError> {
    let urls: Vec<String> =
        slots.iter().filter(|slot| slot.is_occupied(now)).map(|slot| slot.server_url.clone()).collect();
    Ok(urls.into_iter().zip(occupied_rows(slots, now, readers_now)?).collect())
}

/// A server as both databases give it now, with how many of its slots are occupied and its row of `server_days`.
#[derive(FromRow)]
pub(super) struct ServerNowRecord {
    #[sqlx(flatten)]
    server: ServerRow,
    occupied: i64,
    interactive: i64,
    day: Option<i64>,
    calls: Option<i64>,
    now: Stamp,
}

impl From<ServerNowRecord> for ServerNow {
    fn from(record: ServerNowRecord) -> Self {
        let ServerNowRecord { server: row, occupied, interactive, day, calls, now } = record;
        let counted = day.zip(calls).map(|(day, calls)| DayRecord { day, calls });
        Self { occupied, interactive, today: calls_of_day(row.calls_per_day, counted.as_ref(), now), row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_as_old_to_a_reader_whose_clock_is_off() {
        let second = |second| Stamp::from(jiff::Timestamp::from_second(second).expect("a time"));
        let slot = SlotRecord {
            server_url: String::new(),
            number: 1,
            holder: "h".into(),
            epoch: 1,
            purpose: "Call".into(),
            class: None,
            caller: None,
            model: None,
            taken_at: second(900),
            lease_expires_at: second(1_020),
            call_ends_at: second(1_100),
            call_began_at: Some(second(950)),
            last_byte_at: Some(second(997)),
            outlives_client: false,
            instance: None,
            aborted: false,
            frees_at: None,
        };
        for (readers_now, last_byte) in [(1_000, 997), (1_600, 1_597), (400, 397)] {
            let rows = occupied_rows(vec![slot.clone()], second(1_000), second(readers_now)).expect("readable");
            assert_eq!(rows[0].last_byte_at, Some(second(last_byte).into()), "its clock says {readers_now}");
        }
        let near = Stamp::from(jiff::Timestamp::from_millisecond(1_000_400).expect("a time"));
        let rows = occupied_rows(vec![slot], second(1_000), near).expect("readable");
        assert_eq!(rows[0].last_byte_at, Some(second(997).into()), "a message's way is no difference of clocks");
    }

    #[test]
    fn calls_count_for_their_own_day_and_for_none_before() {
        let now = Stamp::from(jiff::Timestamp::from_second(10 * 86_400 + 5).expect("a time"));
        let counted = |day, calls| Some(DayRecord { day, calls });
        for (most, counted, left) in [
            (Some(5), None, Some(5)),
            (Some(5), counted(10, 3), Some(2)),
            (Some(5), counted(10, 7), Some(0)),
            (Some(5), counted(9, 5), Some(5)),
            // The clock went back over midnight.
            (Some(5), counted(11, 4), Some(1)),
            (None, counted(10, 7), None),
        ] {
            let calls = calls_of_day(most, counted.as_ref(), now);
            assert_eq!(calls.map(|calls| calls.left), left, "{most:?} {counted:?}");
        }
    }
}
