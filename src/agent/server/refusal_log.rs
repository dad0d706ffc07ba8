//! The log of refused requests: one line per kind of refusal and caller a minute, so that nobody fills the disk by asking.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::host::AgentRefusal;

const WINDOW: Duration = Duration::from_secs(60);
/// Callers that are kept apart at a time; all others count as one.
const MAX_CALLERS: usize = 1000;

/// What was refused, and to whom; absent: to one of many, or of an unknown address.
type Key = (AgentRefusal, Option<IpAddr>);

#[derive(Debug)]
struct Line {
    written_at: Instant,
    /// Refusals since then.
    suppressed: u64,
}

#[derive(Debug, Default)]
pub struct RefusalLog {
    lines: Mutex<HashMap<Key, Line>>,
}

impl RefusalLog {
    /// Counts a refusal; true: it gets a line of its own.
    pub fn is_first(&self, reason: AgentRefusal, caller: Option<IpAddr>, now: Instant) -> bool {
        let mut lines = self.lines.lock();
        let known = lines.len() < MAX_CALLERS || lines.contains_key(&(reason, caller));
        match lines.entry((reason, caller.filter(|_| known))) {
            Entry::Occupied(mut line) => {
                line.get_mut().suppressed += 1;
                false
            }
            Entry::Vacant(line) => {
                line.insert(Line { written_at: now, suppressed: 0 });
                true
            }
        }
    }

    /// Ends the windows that are over: how many refusals each had beyond its line.
    fn end_windows(&self, now: Instant) -> Vec<(Key, u64)> {
        let mut lines = self.lines.lock();
        let ended = lines.extract_if(|_, line| now.duration_since(line.written_at) >= WINDOW);
        ended.map(|(key, line)| (key, line.suppressed)).filter(|(_, suppressed)| *suppressed > 0).collect()
    }

    /// Writes the counts until the agent ends.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut ticks = interval(WINDOW);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            self.write_counts(Instant::now());
        }
        self.write_counts(Instant::now() + WINDOW);
    }

    fn write_counts(&self, now: Instant) {
        for ((reason, caller), count) in self.end_windows(now) {
            let caller = caller.map_or("several".to_owned(), |caller| caller.to_string());
            tracing::warn!(reason = reason.as_str(), caller, count, "further requests refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_one_line_a_minute_for_each_kind_of_refusal() {
        let (log, start) = (RefusalLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, two) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        assert!(log.is_first(AgentRefusal::BadToken, one, at(0)));
        assert!(!(1..1000).any(|_| log.is_first(AgentRefusal::BadToken, one, at(1))));
        assert!(log.is_first(AgentRefusal::BadPath, one, at(1)), "another kind");
        assert!(log.is_first(AgentRefusal::BadToken, two, at(1)), "another caller");
        assert_eq!(log.end_windows(at(59)), []);
        assert_eq!(log.end_windows(at(61)), [((AgentRefusal::BadToken, one), 999)]);
        assert!(log.is_first(AgentRefusal::BadToken, one, at(61)), "the next minute");
    }

    #[test]
    fn callers_without_number_take_no_memory() {
        let (log, now) = (RefusalLog::default(), Instant::now());
        let lines =
            (0..10_000u32).filter(|n| log.is_first(AgentRefusal::BadToken, Some(IpAddr::from(n.to_be_bytes())), now));
        assert_eq!(lines.count(), MAX_CALLERS + 1);
        assert_eq!(log.lines.lock().len(), MAX_CALLERS + 1);
        assert_eq!(log.end_windows(now + WINDOW), [((AgentRefusal::BadToken, None), 10_000 - MAX_CALLERS as u64 - 1)]);
    }
}
