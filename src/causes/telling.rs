//! What is to be told to whom, level-triggered: what somebody was told is recorded, and what is due follows from that and the causes.

use jiff::{SignedDuration, Timestamp, civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use super::{Cause, CauseSeverity, KnownCause, WhoActs};

/// Between attempts, doubled with each.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(15);
/// Where an address is gone, a person has to mend it.
const GONE_WAIT: SignedDuration = SignedDuration::from_hours(1);
/// No longer is obeyed, whoever asks for it.
const MOST_ASKED: SignedDuration = SignedDuration::from_hours(1);

/// What is said of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
pub enum Telling {
    Opened,
    /// It was told as resolved, and is back.
    Again,
    Repeat,
    Resolved,
    /// It was over before it could be told.
    Passed,
}

impl Telling {
    fn is_open(self) -> bool {
        matches!(self, Self::Opened | Self::Again | Self::Repeat)
    }
}

/// What somebody was told of one cause, and what is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// Of the Notifier.
    pub uid: String,
    pub cause: String,
    pub opened_at: Timestamp,
    pub due: Option<Telling>,
    /// When that became due.
    pub due_at: Timestamp,
    /// Not sent before that: quiet hours, or the wait after a failure.
    pub not_before: Timestamp,
    pub told: Option<Telling>,
    pub told_at: Option<Timestamp>,
    /// That failed since the last success.
    #[serde(default)]
    pub attempts: u32,
    pub failing_since: Option<Timestamp>,
    pub error: Option<String>,
    /// The address refuses for good.
    #[serde(default)]
    pub refused: bool,
}

/// A span of each day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietTime {
    pub from: Time,
    pub to: Time,
    pub zone: TimeZone,
}

impl QuietTime {
    /// When it ends. `None`: it is not now.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let local = now.to_zoned(self.zone.clone());
        let time = local.time();
        let (quiet, tomorrow) = match self.from <= self.to {
            true => (self.from <= time && time < self.to, false),
            false => (time >= self.from || time < self.to, time >= self.from),
        };
        let date = if tomorrow { local.date().tomorrow().ok()? } else { local.date() };
        let end = date.to_datetime(self.to).to_zoned(self.zone.clone()).ok()?.timestamp();
        quiet.then_some(end)
    }
}

/// A Notifier as far as it matters what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    pub uid: String,
    /// `None`: it is told of all.
    pub namespace: Option<String>,
    pub min_severity: CauseSeverity,
    pub repeat: SignedDuration,
    pub quiet: Option<QuietTime>,
}

impl Audience {
    fn hears_of(&self, cause: &Cause) -> bool {
        cause.severity >= self.min_severity && cause.concerns(self.namespace.as_deref())
    }

    fn not_before(&self, cause: &Cause, now: Timestamp) -> Timestamp {
        let quiet = self.quiet.as_ref().filter(|_| cause.severity < CauseSeverity::Critical);
        quiet.and_then(|quiet| quiet.until(now)).unwrap_or(now)
    }
}

/// The deliveries of an audience that change. `deliveries` are all that it has.
pub fn due(audience: &Audience, causes: &[KnownCause], deliveries: &[Delivery], now: Timestamp) -> Vec<Delivery> {
    let of = |cause: &Cause| deliveries.iter().find(|d| d.cause == cause.key && d.opened_at == cause.opened_at);
    let was_told = |cause: &Cause| of(cause).and_then(|d| d.told).is_some_and(Telling::is_open);
    let mut changed = Vec::new();
    for known in causes {
        let (cause, before) = (&known.cause, of(&known.cause));
        let mut next = before.cloned().unwrap_or_else(|| Delivery {
            uid: audience.uid.clone(),
            cause: cause.key.clone(),
            opened_at: cause.opened_at,
            due: None,
            due_at: now,
            not_before: now,
            told: None,
            told_at: None,
            attempts: 0,
            failing_since: None,
            error: None,
            refused: false,
        });
        // Told of as part of another one, or the other way round.
        let told_with = || {
            causes.iter().map(|other| &other.cause).find(|other| {
                other.is_open()
                    && other.key != cause.key
                    && (other.folded_into.as_ref() == Some(&cause.key) || other.members.contains(&cause.root))
                    && was_told(other)
            })
        };
        let wanted = wanted(audience, known, &next, told_with().is_some(), now);
        match wanted {
            Wanted::Nothing => next.due = None,
            Wanted::AsItIs => {}
            Wanted::WasTold => {
                (next.due, next.told, next.told_at) = (None, Some(Telling::Opened), Some(now));
            }
            Wanted::Tell(telling) if next.due == Some(telling) => {}
            Wanted::Tell(telling) => {
                let is_waiting = next.due.is_some();
                (next.due, next.due_at) = (Some(telling), now);
                if !is_waiting {
                    next.not_before = audience.not_before(cause, now);
                }
            }
        }
        if before != Some(&next) && (before.is_some() || next.due.is_some() || next.told.is_some()) {
            changed.push(next);
        }
    }
    changed
}

enum Wanted {
    Nothing,
    AsItIs,
    /// In another message.
    WasTold,
    Tell(Telling),
}

fn wanted(audience: &Audience, known: &KnownCause, so_far: &Delivery, told_with: bool, now: Timestamp) -> Wanted {
    let cause = &known.cause;
    let told_open = so_far.told.is_some_and(Telling::is_open);
    if cause.folded_into.is_some() {
        return Wanted::Nothing;
    }
    if !cause.is_open() {
        return match so_far.due {
            _ if told_open => Wanted::Tell(Telling::Resolved),
            Some(Telling::Opened | Telling::Again) => Wanted::Tell(Telling::Passed),
            _ => Wanted::AsItIs,
        };
    }
    if cause.acts == WhoActs::Wished {
        return Wanted::Nothing;
    }
    if told_open {
        let is_acknowledged = known.acknowledged.as_ref().is_some_and(|ack| ack.until > now);
        let is_due = so_far.told_at.is_some_and(|at| now.duration_since(at) >= audience.repeat);
        return match so_far.due {
            Some(Telling::Repeat) if is_acknowledged => Wanted::Nothing,
            None if is_due && !is_acknowledged && cause.well_since.is_none() => Wanted::Tell(Telling::Repeat),
            // Its resolution could not be told, and it is back.
            Some(Telling::Resolved | Telling::Passed) => Wanted::Nothing,
            _ => Wanted::AsItIs,
        };
    }
    if so_far.due.is_some_and(Telling::is_open) {
        return Wanted::AsItIs;
    }
    let is_time = cause.told_from().is_some_and(|at| at <= now) && cause.well_since.is_none();
    if !is_time || !audience.hears_of(cause) {
        return Wanted::AsItIs;
    }
    match so_far.told {
        Some(_) => Wanted::Tell(Telling::Again),
        None if told_with => Wanted::WasTold,
        None => Wanted::Tell(Telling::Opened),
    }
}

impl Delivery {
    /// After it arrived.
    #[must_use]
    pub fn sent(&self, now: Timestamp) -> Self {
        let (told, told_at) = (self.due.or(self.told), Some(now));
        Self { due: None, told, told_at, attempts: 0, failing_since: None, error: None, refused: false, ..self.clone() }
    }

    /// After it did not. `asked`: how long the other side wants us to wait; `refused`: nothing will change by itself.
    #[must_use]
    pub fn failed(&self, error: &str, asked: Option<SignedDuration>, refused: bool, now: Timestamp) -> Self {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.attempts.min(10)).min(LONGEST_WAIT);
        let wait = if refused { GONE_WAIT } else { asked.map_or(doubled, |asked| asked.clamp(FIRST_WAIT, MOST_ASKED)) };
        Self {
            not_before: now.checked_add(wait).unwrap_or(now),
            attempts: self.attempts.saturating_add(1),
            failing_since: self.failing_since.or(Some(now)),
            error: Some(super::clean(error)),
            refused,
            ..self.clone()
        }
    }
}
