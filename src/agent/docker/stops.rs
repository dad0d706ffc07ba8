//! Who stopped a container, from what the engine's log of events and the agent's own requests tell: pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::host::StoppedBy;

/// How long the engine may take to stop a container, beyond the container's own grace.
const SLOW_ENGINE: SignedDuration = SignedDuration::from_secs(60);
/// By how much the engine's clock may differ from this process's: it may run in a virtual machine.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);
/// For how long a request is remembered of which no event came.
const KEEP: SignedDuration = SignedDuration::from_hours(24);

/// How the agent came to hear of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopHeard {
    /// At once.
    Live {
        /// The engine takes connections: one that shuts down stops its containers, too, but takes none.
        engine_answers: bool,
    },
    /// Afterwards, from the events that the engine keeps.
    Later {
        /// It is the engine that told the last event. Another one stops what the one before left running, and tells of it, before it
        /// takes any connection.
        same_engine: bool,
        /// This engine had started the container before: what it stops then was left by no other.
        started_by_it: bool,
    },
}

/// Who stopped a container. `asked`: the agent had asked the engine to.
pub fn stopped_by(asked: bool, heard: StopHeard) -> StoppedBy {
    match heard {
        _ if asked => StoppedBy::Agent,
        StopHeard::Live { engine_answers: true }
        | StopHeard::Later { same_engine: true, .. }
        | StopHeard::Later { started_by_it: true, .. } => StoppedBy::Person,
        StopHeard::Live { engine_answers: false } | StopHeard::Later { same_engine: false, started_by_it: false } => {
            StoppedBy::Engine
        }
    }
}

/// When the agent asks the engine to stop a container: the stop's event lies in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// The agent's own stops whose events have not come, by container id. On disk before the engine is asked: the next agent may be the one
/// that hears of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StopRequests(BTreeMap<String, StopRequest>);

impl StopRequests {
    /// The agent is about to stop a container, which has so many seconds to end.
    pub fn begin(&mut self, id: &str, grace: u64, now: Timestamp) {
        self.0.retain(|_, request| now.duration_since(request.until) < KEEP);
        let grace = SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX / 2).min(KEEP.as_secs()));
        self.0.insert(id.to_owned(), StopRequest { from: now - CLOCK_SKEW, until: now + grace + SLOW_ENGINE });
    }

    /// The engine has answered: what is stopped later is stopped by somebody else.
    pub fn end(&mut self, id: &str, was_refused: bool, now: Timestamp) {
        if was_refused {
            self.0.remove(id);
        } else if let Some(request) = self.0.get_mut(id) {
            request.until = request.until.min(now + CLOCK_SKEW);
        }
    }

    /// Whether the agent asked for the stop of this moment; told once.
    pub fn take(&mut self, id: &str, at: Timestamp) -> bool {
        let asked = self.0.get(id).is_some_and(|request| request.from <= at && at <= request.until);
        if asked {
            self.0.remove(id);
        }
        asked
    }

    /// Forgets those of containers that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    #[test]
    fn who_stopped_a_container_is_told_by_the_engines_log() {
        use StopHeard::{Later, Live};
        for (name, asked, heard, by) in [
            ("docker stop", false, Live { engine_answers: true }, StoppedBy::Person),
            ("the engine shuts down", false, Live { engine_answers: false }, StoppedBy::Engine),
            ("asked for", true, Live { engine_answers: true }, StoppedBy::Agent),
            ("asked for, and the engine shuts down", true, Live { engine_answers: false }, StoppedBy::Agent),
            ("docker stop while away", false, Later { same_engine: true, started_by_it: false }, StoppedBy::Person),
            ("by an agent that died", true, Later { same_engine: true, started_by_it: false }, StoppedBy::Agent),
            ("left by a dead engine", false, Later { same_engine: false, started_by_it: false }, StoppedBy::Engine),
            (
                "docker stop of another engine",
                false,
                Later { same_engine: false, started_by_it: true },
                StoppedBy::Person,
            ),
            ("asked of another engine", true, Later { same_engine: false, started_by_it: true }, StoppedBy::Agent),
        ] {
            assert_eq!(stopped_by(asked, heard), by, "{name}");
        }
    }

    #[test]
    fn a_stop_is_the_agents_once_and_only_while_it_asks() {
        let now: Timestamp = "2026-03-01T02:00:00Z".parse().unwrap();
        let mut requests = StopRequests::default();
        requests.begin("a1", 10, now);
        assert!(!requests.take("b2", now), "another container");
        assert!(!requests.take("a1", now - 1.minute()), "before");
        assert!(requests.take("a1", now + 11.seconds()) && !requests.take("a1", now + 11.seconds()));
        requests.begin("a1", 10, now);
        assert!(!requests.take("a1", now + 2.minutes()), "long after");
        requests.end("a1", false, now + 1.second());
        assert!(!requests.take("a1", now + 7.seconds()), "the engine had answered before");
        assert!(requests.take("a1", now + 1.second()));
        requests.begin("a1", 10, now);
        requests.end("a1", true, now);
        assert!(!requests.take("a1", now), "the engine did not do it");
        requests.begin("a1", u64::MAX, now);
        requests.begin("b2", 0, now + 96.hours());
        assert!(!requests.take("a1", now), "forgotten");
    }
}
