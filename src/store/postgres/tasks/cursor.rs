//! Where the next claim of a lane begins to search.
//!
//! Index entries of claimed tasks can't be removed while somebody holds an old snapshot (a dump, a replica, a forgotten
//! transaction). A claim that begins at the lowest rank would read all of them each time. So a claim begins where the last one of
//! this process ended, and once a second at the lowest rank again: a task that came in before that place (a higher priority, given
//! back) is seen within that second, and at once when this process knows of it.

use std::collections::HashMap;
use std::time::Duration;

use crate::store::BootInstant;
use crate::tasks::ClaimedTask;

/// How long a task may be overlooked because another one of a higher rank was claimed already.
const LONGEST: Duration = Duration::from_secs(1);

/// A queue, and the model where its tasks take a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    pub namespace: String,
    pub queue: String,
    pub model: Option<String>,
}

impl Lane {
    pub fn has(&self, task: &ClaimedTask) -> bool {
        task.namespace == self.namespace && task.queue == self.queue && task.assigned_model == self.model
    }
}

/// Place of a task in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub rank: i64,
    pub id: i64,
}

impl Place {
    /// Before every task.
    pub const FIRST: Self = Self { rank: i64::MIN, id: i64::MIN };
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// The last task claimed.
    last: Place,
    /// When a claim last began at the lowest rank.
    whole_at: BootInstant,
}

/// The cursors of one process.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    lanes: HashMap<Lane, Cursor>,
}

impl Cursors {
    /// After which place to search.
    pub fn begin(&self, lane: &Lane, now: BootInstant) -> Place {
        match self.lanes.get(lane) {
            Some(cursor) if now.since(cursor.whole_at) < LONGEST => cursor.last,
            Some(_) | None => Place::FIRST,
        }
    }

    /// Notes a claim that was begun at `now` after `began`, and what it claimed last of this lane. `passed_over`: it left tasks
    /// behind that may become claimable at any moment.
    pub fn claimed(&mut self, lane: &Lane, began: Place, last: Option<Place>, passed_over: bool, now: BootInstant) {
        if passed_over {
            self.lanes.remove(lane);
            return;
        }
        let known = self.lanes.get(lane).copied();
        let cursor = match (known, last) {
            (_, Some(last)) if began == Place::FIRST => Cursor { last, whole_at: now },
            (Some(known), Some(last)) => Cursor { last: last.max(known.last), ..known },
            // Nothing there: so nothing before the place that an earlier claim came to, either.
            (Some(known), None) if began == Place::FIRST => Cursor { whole_at: now, ..known },
            (Some(_) | None, _) => return,
        };
        self.lanes.insert(lane.clone(), cursor);
    }

    /// Tasks became pending, perhaps before every cursor.
    pub fn forget(&mut self) {
        self.lanes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootInstant {
        BootInstant::from_boot(Duration::from_millis(millis))
    }

    fn place(rank: i64) -> Place {
        Place { rank, id: rank * 10 }
    }

    fn lane() -> Lane {
        Lane { namespace: "default".into(), queue: "default".into(), model: None }
    }

    #[test]
    fn a_claim_begins_where_the_last_one_ended_and_once_a_second_at_the_lowest_rank() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.begin(&lane(), at(1_000)), Place::FIRST);
        // (time of the claim, where it begins, what it claims last)
        for (time, begins, last) in [
            (1_000, Place::FIRST, 5),
            (1_400, place(5), 9),
            (1_999, place(9), 12),
            (2_000, Place::FIRST, 14),
            (2_999, place(14), 15),
            (3_000, Place::FIRST, 16),
        ] {
            assert_eq!(cursors.begin(&lane(), at(time)), begins, "at {time}");
            cursors.claimed(&lane(), begins, Some(place(last)), false, at(time));
        }
    }

    #[test]
    fn nothing_is_overlooked_after_a_claim_that_passed_somebody_over() {
        for last in [None, Some(place(9))] {
            let mut cursors = Cursors::default();
            cursors.claimed(&lane(), Place::FIRST, Some(place(5)), false, at(0));
            cursors.claimed(&lane(), place(5), last, true, at(1));
            assert_eq!(cursors.begin(&lane(), at(2)), Place::FIRST, "{last:?}");
        }
    }

    #[test]
    fn an_empty_lane_is_searched_as_a_whole_once_a_second() {
        let mut cursors = Cursors::default();
        cursors.claimed(&lane(), Place::FIRST, Some(place(5)), false, at(0));
        for (time, begins) in [(900, place(5)), (1_000, Place::FIRST), (1_500, place(5)), (2_000, Place::FIRST)] {
            assert_eq!(cursors.begin(&lane(), at(time)), begins, "at {time}");
            cursors.claimed(&lane(), begins, None, false, at(time));
        }
    }

    #[test]
    fn lanes_have_cursors_of_their_own_until_something_becomes_pending() {
        let mut cursors = Cursors::default();
        let slotted = Lane { model: Some("small".into()), ..lane() };
        cursors.claimed(&lane(), Place::FIRST, Some(place(5)), false, at(0));
        assert_eq!((cursors.begin(&lane(), at(1)), cursors.begin(&slotted, at(1))), (place(5), Place::FIRST));
        cursors.forget();
        assert_eq!(cursors.begin(&lane(), at(1)), Place::FIRST);
    }

    #[test]
    fn a_claim_that_another_one_overtook_does_not_hide_that_nobody_searched_the_whole() {
        let mut cursors = Cursors::default();
        cursors.claimed(&lane(), Place::FIRST, Some(place(5)), false, at(0));
        cursors.forget();
        cursors.claimed(&lane(), place(5), Some(place(7)), false, at(1));
        assert_eq!(cursors.begin(&lane(), at(2)), Place::FIRST);
    }
}
