//! When a schedule runs: cron fields in local time, turned into instants.
//!
//! Fields are matched against the civil clock, which knows no daylight saving; then a match that its zone skips runs at the next
//! valid minute, and one that its zone has twice runs once, the first time. So a day never has more or fewer runs than it has matches.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// A schedule that can be read.
#[derive(Clone, Debug)]
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
}

/// Why a schedule and its zone can't be read, if so.
pub fn check_schedule(schedule: &str, zone: &str) -> Result<(), String> {
    Calendar::parse(schedule, zone).map(drop)
}

impl Calendar {
    /// Reads a schedule and its zone; the error names what is wrong and what would be right.
    pub fn parse(schedule: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        // croner does not know this word.
        let known = if schedule.eq_ignore_ascii_case("@midnight") { "@daily" } else { schedule };
        let cron = parser.parse(known).map_err(|error| {
            format!("schedule {schedule:?}: {error}: write minute, hour, day of month, month and day of week, such as \"0 3 * * *\"")
        })?;
        let zone = TimeZone::get(zone).map_err(|_| match jiff::tz::db().is_definitively_empty() {
            true => format!(
                "timeZone {zone:?} can't be looked up: Ostler's machine or image has no time zone database; put /usr/share/zoneinfo there (package tzdata)"
            ),
            false => format!("timeZone {zone:?} is not known: write one of the IANA's, such as Europe/Berlin, or UTC"),
        })?;
        let calendar = Self { cron, zone };
        match calendar.after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(calendar),
            None => Err(format!("schedule {schedule:?} never comes: there is no such day")),
        }
    }

    /// The first run after an instant; `None`: it never comes again.
    pub fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        let mut civil = self.civil(instant);
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            // In an hour that comes twice, the matches of its first pass lie before an instant of its second.
            let at = self.instant(civil)?;
            if at > instant {
                return Some(at);
            }
        }
    }

    /// The last run after `base` and not after `now`, whose first is `first`.
    pub fn last_until(&self, first: Timestamp, now: Timestamp) -> Timestamp {
        let before = self.cron.find_previous_occurrence(&self.civil(now), true).ok();
        before.and_then(|civil| self.instant(civil)).filter(|at| *at <= now).map_or(first, |at| at.max(first))
    }

    fn civil(&self, instant: Timestamp) -> DateTime {
        self.zone.to_datetime(instant)
    }

    /// A skipped time is that of the first minute after the gap; a repeated one that of its first pass.
    fn instant(&self, civil: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        if ambiguous.is_ambiguous() {
            let later = ambiguous.later().ok()?;
            let earlier = ambiguous.earlier().ok()?;
            let skipped = self.zone.to_datetime(earlier) != civil;
            if skipped {
                // The gap's end lies between the two readings of the time that it skips.
                let transition = self.zone.following(earlier.min(later)).next()?;
                return Some(transition.timestamp());
            }
            return Some(earlier);
        }
        ambiguous.unambiguous().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BACKWARDS, CRON};
    use proptest::prelude::*;

    fn runs(schedule: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let calendar = Calendar::parse(schedule, zone).unwrap();
        let mut at: Timestamp = from.parse().unwrap();
        let mut runs = Vec::new();
        for _ in 0..count {
            at = calendar.after(at).unwrap();
            runs.push(at.to_string());
        }
        runs
    }

    #[test]
    fn runs_come_at_the_local_time_and_over_a_change_of_clocks_once_each() {
        // Berlin: 2026-03-29 02:00 → 03:00 (01:00 UTC); 2026-10-25 03:00 → 02:00 (01:00 UTC).
        for (what, schedule, zone, from, expected) in [
            (
                "daily in UTC",
                "0 3 * * *",
                "UTC",
                "2026-01-01T02:59:00Z",
                &["2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z"][..],
            ),
            ("exclusive of its start", "0 3 * * *", "UTC", "2026-01-01T03:00:00Z", &["2026-01-02T03:00:00Z"]),
            ("a nickname", "@daily", "UTC", "2026-01-01T00:00:01Z", &["2026-01-02T00:00:00Z"]),
            ("another one", "@midnight", "UTC", "2026-01-01T00:00:01Z", &["2026-01-02T00:00:00Z"]),
            (
                "a skipped time runs at the next valid minute",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-03-28T12:00:00Z",
                &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            (
                "an hour's skipped times are one run, together with that of the valid minute",
                "*/20 * * * *",
                "Europe/Berlin",
                "2026-03-29T00:39:00Z",
                &["2026-03-29T00:40:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"],
            ),
            (
                "a repeated time runs once, the first time",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            (
                "from within the second pass the repeated time has been",
                "30 2 * * *",
                "Europe/Berlin",
                "2026-10-25T01:10:00Z",
                &["2026-10-26T01:30:00Z"],
            ),
            (
                "a repeated hour's minutes run in its first pass",
                "*/30 * * * *",
                "Europe/Berlin",
                "2026-10-24T23:45:00Z",
                &["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"],
            ),
            (
                "clocks change by half an hour at Lord Howe",
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-03T00:00:00Z",
                &["2026-10-03T15:30:00Z"],
            ),
            (
                "midnight is skipped at Cairo",
                "0 0 * * *",
                "Africa/Cairo",
                "2026-04-23T12:00:00Z",
                &["2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"],
            ),
            (
                "New York in the fall",
                "30 1 * * *",
                "America/New_York",
                "2026-11-01T00:00:00Z",
                &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
            ),
            ("a leap day", "0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]),
            (
                "day of month or day of week, as cron has it",
                "0 0 13 * fri",
                "UTC",
                "2026-02-07T00:00:00Z",
                &["2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"],
            ),
        ] {
            assert_eq!(runs(schedule, zone, from, expected.len()), expected, "{what}");
        }
    }

    #[test]
    fn what_can_t_be_read_is_refused_with_the_mend() {
        for (schedule, zone, word) in [
            ("61 * * * *", "UTC", "minute, hour"),
            ("* * * *", "UTC", "minute, hour"),
            ("0 0 * * * *", "UTC", "minute, hour"),
            ("0 0 30 2 *", "UTC", "never comes"),
            ("@daily", "Mars/Olympus", "IANA"),
        ] {
            let said = Calendar::parse(schedule, zone).unwrap_err();
            assert!(said.contains(word), "{schedule} {zone}: {said}");
        }
    }

    fn goes_backwards(schedule: &str) -> bool {
        static RULE: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new(BACKWARDS).unwrap());
        RULE.is_match(schedule)
    }

    /// Each pair of numbers and names, in every field that has it.
    #[test]
    fn the_crd_refuses_just_the_ranges_that_can_not_be_read() {
        let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
        let days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
        let numbers = |range: std::ops::RangeInclusive<u8>| range.map(|n| n.to_string());
        let padded = |range: std::ops::RangeInclusive<u8>| range.map(|n| format!("{n:02}"));
        let fields: [(&str, Vec<String>); 5] = [
            ("RANGE * * * *", numbers(0..=59).chain(padded(0..=9)).collect()),
            ("0 RANGE * * *", numbers(0..=23).chain(padded(0..=9)).collect()),
            ("0 0 1,RANGE/2 * *", numbers(1..=31).collect()),
            ("0 0 1 RANGE *", numbers(1..=12).chain(months.map(String::from)).collect()),
            ("0 0 * * RANGE,1", numbers(0..=7).chain(days.map(str::to_uppercase)).collect()),
        ];
        for (field, values) in fields {
            for (from, to) in values.iter().flat_map(|from| values.iter().map(move |to| (from, to))) {
                let schedule = field.replace("RANGE", &format!("{from}-{to}"));
                let readable = Calendar::parse(&schedule, "UTC").is_ok();
                assert_eq!(goes_backwards(&schedule), !readable, "{schedule}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_the_crd_admits_can_be_read(
            schedule in prop::string::string_regex(CRON.trim_start_matches('^').trim_end_matches('$')).unwrap()
        ) {
            let backwards = goes_backwards(&schedule);
            match Calendar::parse(&schedule, "UTC") {
                Ok(_) => prop_assert!(!backwards, "{schedule} can be read"),
                Err(why) => prop_assert!(backwards || why.contains("never comes"), "{schedule}: {why}"),
            }
        }

        #[test]
        fn the_last_run_until_now_is_what_stepping_finds(
            minute in 0..60_u8, hour in 0..24_u8, every in prop::bool::ANY, start in 0_i64..366 * 86_400, span in 60_i64..4 * 86_400,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]),
        ) {
            let schedule = if every { format!("{minute} */3 * * *") } else { format!("{minute} {hour} * * *") };
            let calendar = Calendar::parse(&schedule, zone).unwrap();
            let base = Timestamp::from_second(1_767_225_600 + start).unwrap();
            let now = Timestamp::from_second(1_767_225_600 + start + span).unwrap();
            let first = calendar.after(base).unwrap();
            prop_assume!(first <= now);
            let mut last = first;
            while let Some(next) = calendar.after(last).filter(|next| *next <= now) {
                prop_assert!(next > last);
                last = next;
            }
            prop_assert_eq!(calendar.last_until(first, now), last);
        }
    }
}
