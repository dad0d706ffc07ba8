//! When a schedule's next run is due: from its calendar, when its time began and when it last ran. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::{api::TaskScheduleSpec, store::DeclaredRow};

use super::calendar::Calendar;

/// Field of a projected schedule, beside its spec: since when its time has been as it is.
const BEGINS: &str = "begins";

/// Since when a schedule's time has been as it is: it makes up for nothing before that. `known` is what was projected of it before, by
/// this leader or an earlier one.
pub fn begins(
    known: Option<&Value>,
    spec: &TaskScheduleSpec,
    created_at: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    let created_at = created_at.unwrap_or(now).min(now);
    match known {
        None => created_at,
        Some(known) if known["schedule"] != spec.schedule || known["timeZone"] != spec.time_zone => now,
        Some(known) => begun(known).unwrap_or(created_at),
    }
}

/// A spec as it is projected, with [`begins`].
pub fn projected(mut spec: Value, begins: Timestamp) -> Value {
    spec[BEGINS] = begins.to_string().into();
    spec
}

/// [`begins`] of a projected spec.
pub fn begun(spec: &Value) -> Option<Timestamp> {
    spec[BEGINS].as_str()?.parse().ok()
}

/// A schedule as the clock knows it.
#[derive(Clone, Debug)]
pub struct ScheduleTimer {
    /// What it was read from.
    pub row: DeclaredRow,
    pub spec: TaskScheduleSpec,
    calendar: Calendar,
    /// The last run that was fired or left out.
    pub base: Timestamp,
}

/// Why a row gives no timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableRow {
    Unreadable,
    /// Its controller says what is wrong with its schedule.
    NoCalendar,
}

impl ScheduleTimer {
    /// A new schedule, or a changed time, begins then: it makes up for nothing. `last`: its last recorded run.
    pub fn new(
        row: DeclaredRow,
        created_at: Option<Timestamp>,
        last: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, UnusableRow> {
        let spec: TaskScheduleSpec = serde_json::from_value(row.spec.clone()).map_err(|_| UnusableRow::Unreadable)?;
        let calendar = Calendar::parse(&spec.schedule, &spec.time_zone).map_err(|_| UnusableRow::NoCalendar)?;
        let begins = begun(&row.spec).or(created_at).unwrap_or(now).min(now);
        let base = last.map_or(begins, |last| begins.max(last));
        Ok(Self { row, spec, calendar, base })
    }

    pub fn due(&self, now: Timestamp) -> ScheduleDue {
        due(&self.calendar, self.base, SignedDuration::from_secs(self.spec.missed_run_deadline_seconds.into()), now)
    }
}

/// Where a schedule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleDue {
    /// Not before then; `None`: never again.
    Wait { until: Option<Timestamp> },
    /// This run is due; earlier ones that were missed are made up for by it.
    Run(Timestamp),
    /// It was missed for too long.
    Missed(Timestamp),
}

/// What is due after `base`, the last run that was fired or left out.
fn due(calendar: &Calendar, base: Timestamp, missed_for: SignedDuration, now: Timestamp) -> ScheduleDue {
    let Some(first) = calendar.after(base) else { return ScheduleDue::Wait { until: None } };
    if first > now {
        return ScheduleDue::Wait { until: Some(first) };
    }
    let run = calendar.last_until(first, now);
    if now.duration_since(run) > missed_for { ScheduleDue::Missed(run) } else { ScheduleDue::Run(run) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn missed_runs_are_made_up_for_by_one_unless_too_long_ago() {
        let daily = Calendar::parse("0 3 * * *", "UTC").unwrap();
        let deadline = SignedDuration::from_hours(12);
        for (what, base, now, expected) in [
            (
                "before its time",
                "2026-01-01T03:00:00Z",
                "2026-01-02T02:59:59Z",
                ScheduleDue::Wait { until: Some(at("2026-01-02T03:00:00Z")) },
            ),
            (
                "at its time",
                "2026-01-01T03:00:00Z",
                "2026-01-02T03:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "a little late",
                "2026-01-01T03:00:00Z",
                "2026-01-02T08:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "a week late: the last one",
                "2026-01-01T03:00:00Z",
                "2026-01-08T03:30:00Z",
                ScheduleDue::Run(at("2026-01-08T03:00:00Z")),
            ),
            (
                "at the deadline",
                "2026-01-01T03:00:00Z",
                "2026-01-02T15:00:00Z",
                ScheduleDue::Run(at("2026-01-02T03:00:00Z")),
            ),
            (
                "past it",
                "2026-01-01T03:00:00Z",
                "2026-01-02T15:00:01Z",
                ScheduleDue::Missed(at("2026-01-02T03:00:00Z")),
            ),
            (
                "the clock went back",
                "2026-01-03T03:00:00Z",
                "2026-01-02T15:00:01Z",
                ScheduleDue::Wait { until: Some(at("2026-01-04T03:00:00Z")) },
            ),
        ] {
            assert_eq!(due(&daily, at(base), deadline, at(now)), expected, "{what}");
        }
    }

    #[test]
    fn a_schedule_s_time_begins_with_itself_or_with_its_last_change_whoever_leads() {
        let spec = |schedule: &str, zone: &str| -> TaskScheduleSpec {
            let spec =
                json!({"queueRef": {"name": "q"}, "schedule": schedule, "timeZone": zone, "task": {"prompt": "x"}});
            serde_json::from_value(spec).unwrap()
        };
        let daily = spec("0 3 * * *", "Europe/Berlin");
        let (created, changed, now) =
            (at("2026-01-01T00:00:00Z"), at("2026-01-05T00:00:00Z"), at("2026-01-09T00:00:00Z"));
        let of = |spec: &TaskScheduleSpec| serde_json::to_value(spec).unwrap();
        for (what, known, expected) in [
            ("a new one", None, created),
            ("as before", Some(projected(of(&daily), changed)), changed),
            ("by an earlier release", Some(of(&daily)), created),
            ("another time", Some(projected(of(&spec("0 4 * * *", "Europe/Berlin")), changed)), now),
            ("another zone", Some(projected(of(&spec("0 3 * * *", "UTC")), changed)), now),
        ] {
            assert_eq!(begins(known.as_ref(), &daily, Some(created), now), expected, "{what}");
        }
        assert_eq!(begins(None, &daily, Some(at("2027-01-01T00:00:00Z")), now), now, "clocks differ");
        assert_eq!(begun(&projected(of(&daily), changed)), Some(changed));
    }
}
