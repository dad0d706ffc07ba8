//! Times in requests.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::{PartialSchema, ToSchema, openapi};

use crate::{base::duration, store::is_storable};

/// A time, such as `2026-03-01T12:00:00Z`, or how far it is from now, such as `2h`, by the clock of the server's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeOrDuration {
    At(Timestamp),
    Away(Duration),
}

impl TimeOrDuration {
    /// The time, where a duration means the past.
    pub fn ago(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(by) => now.checked_sub(by).ok().filter(|at| is_storable(*at)).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// The time, where a duration means the future. `None`: it is out of range.
    pub fn ahead(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Away(by) => now.checked_add(by).ok().filter(|at| is_storable(*at)),
        }
    }
}

impl FromStr for TimeOrDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(at) if is_storable(at) => Ok(Self::At(at)),
            Ok(_) => Err(format!("{text:?} is out of range: write a time in the years 1970 to 9998")),
            Err(_) => duration(text).map(Self::Away).map_err(|_| {
                format!("{text:?} is neither a time, such as 2026-03-01T12:00:00Z, nor a duration, such as 2h")
            }),
        }
    }
}

impl fmt::Display for TimeOrDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::Away(by) => write!(f, "{}s", by.as_secs()),
        }
    }
}

impl Serialize for TimeOrDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOrDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for TimeOrDuration {
    fn schema() -> openapi::RefOr<openapi::Schema> {
        let text = openapi::ObjectBuilder::new().schema_type(openapi::schema::Type::String);
        let text =
            text.description(Some("A time, such as `2026-03-01T12:00:00Z`, or a duration from now, such as `2h`."));
        text.into()
    }
}

impl ToSchema for TimeOrDuration {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_so_far_from_the_servers_now() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let when = |text: &str| text.parse::<TimeOrDuration>();
        assert_eq!(when("2026-02-01T00:00:00Z").unwrap().ago(now).to_string(), "2026-02-01T00:00:00Z");
        assert_eq!(when("1d2h").unwrap().ago(now).to_string(), "2026-02-28T10:00:00Z");
        assert_eq!(when("90m").unwrap().ahead(now).map(|at| at.to_string()).as_deref(), Some("2026-03-01T13:30:00Z"));
        assert_eq!(when("90000000d").unwrap().ago(now), Timestamp::UNIX_EPOCH, "since ever");
        assert_eq!(when("90000000d").unwrap().ahead(now), None);
        for (bad, why) in [("soon", "2h"), ("-009999-01-02T02:00:00Z", "out of range"), ("", "2h"), ("-2h", "2h")] {
            assert!(when(bad).unwrap_err().contains(why), "{bad}");
        }
        for text in ["2026-02-01T00:00:00Z", "7200s"] {
            assert_eq!(when(text).unwrap().to_string(), text);
        }
    }
}
