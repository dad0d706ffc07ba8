//! What calls to a server showed: reported by workers, read by the leader that judges the server.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What one reporter's calls to one server showed. It is a state, not a change: each report repeats it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CallEvidence {
    /// Normalized URL: the key of the server's row.
    pub server_url: String,
    /// The last call of each model that was served.
    pub served: Vec<ServedCall>,
    /// The last failures that are evidence against the server, oldest first: at most [`MAX_FAILED_CALLS`] of the last ten minutes.
    pub failed: Vec<FailedCall>,
}

impl CallEvidence {
    /// When the last call ended of those that it tells of.
    pub fn last_ended_at(&self) -> Option<Timestamp> {
        let served = self.served.iter().map(|call| call.ended_at);
        served.chain(self.failed.iter().map(|call| call.ended_at)).max()
    }
}

/// How many failures a report keeps for a server.
pub const MAX_FAILED_CALLS: usize = 8;
/// Of how many models a report keeps the last served call.
pub const MAX_SERVED_MODELS: usize = 32;
/// How many characters of a failure's message are kept.
pub const MAX_MESSAGE_CHARS: usize = 300;
/// Failures are kept for so long.
const KEEP_FAILED: SignedDuration = SignedDuration::from_mins(10);
/// Served calls are kept for so long: a successor of the leader judges by them.
const KEEP_SERVED: SignedDuration = SignedDuration::from_hours(1);

impl CallEvidence {
    pub fn of(server_url: &str) -> Self {
        Self { server_url: server_url.to_owned(), ..Self::default() }
    }

    /// Keeps the call that ended last of each model.
    pub fn add_served(&mut self, call: ServedCall) {
        match self.served.iter_mut().find(|known| known.model == call.model) {
            Some(known) if known.ended_at >= call.ended_at => return,
            Some(known) => *known = call,
            None => self.served.push(call),
        }
        self.served.sort_by(|a, b| b.ended_at.cmp(&a.ended_at).then_with(|| a.model.cmp(&b.model)));
        self.served.truncate(MAX_SERVED_MODELS);
    }

    /// Keeps the failures that ended last, oldest first.
    pub fn add_failed(&mut self, mut call: FailedCall) {
        if let Some((end, _)) = call.message.char_indices().nth(MAX_MESSAGE_CHARS) {
            call.message.truncate(end);
        }
        let place = self.failed.partition_point(|known| known.ended_at <= call.ended_at);
        self.failed.insert(place, call);
        let surplus = self.failed.len().saturating_sub(MAX_FAILED_CALLS);
        self.failed.drain(..surplus);
    }

    /// Adds what another reporter saw of the same server.
    pub fn merge(&mut self, other: Self) {
        other.served.into_iter().for_each(|call| self.add_served(call));
        other.failed.into_iter().for_each(|call| self.add_failed(call));
    }

    /// Drops what is too old to judge by.
    pub fn forget(&mut self, now: Timestamp) {
        self.served.retain(|call| now.duration_since(call.ended_at) < KEEP_SERVED);
        self.failed.retain(|call| now.duration_since(call.ended_at) < KEEP_FAILED);
    }

    pub fn is_empty(&self) -> bool {
        self.served.is_empty() && self.failed.is_empty()
    }

    pub fn last_served_at(&self) -> Option<Timestamp> {
        self.served.iter().map(|call| call.ended_at).max()
    }

    /// Under how many different requests the server has failed since it last served one. Two are evidence against it; one
    /// alone may be the request's doing.
    pub fn failing_requests(&self) -> usize {
        let served_at = self.last_served_at();
        let since = self.failed.iter().filter(|call| served_at.is_none_or(|at| call.ended_at > at));
        since.map(|call| call.request.as_str()).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// The same by a clock that is ahead of the reporter's by so much.
    #[must_use]
    pub fn shifted(mut self, ahead: SignedDuration) -> Self {
        let shift = |at: &mut Timestamp| *at = at.saturating_add(ahead).unwrap_or(*at);
        for call in &mut self.served {
            shift(&mut call.began_at);
            shift(&mut call.ended_at);
        }
        for call in &mut self.failed {
            shift(&mut call.began_at);
            shift(&mut call.ended_at);
        }
        self
    }
}

/// A call that got content: a token, a tool call, reasoning, a vector, or a finish reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedCall {
    /// The server's own name for it.
    pub model: String,
    /// By the reporter's clock.
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    /// What was asked: `task 17`, `canary`.
    pub request: String,
}

/// A call whose failure is evidence against the server, not against the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedCall {
    /// The server's own name for it.
    pub model: String,
    /// By the reporter's clock.
    pub began_at: Timestamp,
    pub ended_at: Timestamp,
    /// What was asked: `task 17`, `canary`. Two failures count as two only under different requests.
    pub request: String,
    pub fault: CallFault,
    /// The failure in words, at most 300 characters.
    pub message: String,
}

/// What a failed call shows of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CallFault {
    /// A 5xx, a reset, a broken stream, an error record, an empty stream, silence.
    Failed,
    /// 429 or 503: it has too much to do.
    Full,
    /// The server's process ran out of memory.
    OutOfMemory,
    /// The model needs more memory than there is: no restart can help.
    ModelTooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn served(model: &str, ended: i64) -> ServedCall {
        let request = format!("task {ended}");
        ServedCall { model: model.into(), began_at: at(ended - 1), ended_at: at(ended), request }
    }

    fn failed(request: &str, ended: i64) -> FailedCall {
        FailedCall {
            model: "m".into(),
            began_at: at(ended - 1),
            ended_at: at(ended),
            request: request.into(),
            fault: CallFault::Failed,
            message: "ü".repeat(400),
        }
    }

    #[test]
    fn the_newest_served_call_of_each_model_and_the_newest_failures_are_kept() {
        let mut one = CallEvidence::of("http://s");
        for (model, ended) in [("a", 10), ("b", 12), ("a", 9), ("a", 20)] {
            one.add_served(served(model, ended));
        }
        for ended in [30, 10, 20, 40, 50, 60, 70, 80, 90, 15] {
            one.add_failed(failed("task 1", ended));
        }
        let mut other = CallEvidence::of("http://s");
        other.add_served(served("b", 11));
        other.add_served(served("c", 100));
        other.add_failed(failed("task 2", 75));
        one.merge(other);
        let models: Vec<_> = one.served.iter().map(|call| (call.model.as_str(), call.ended_at)).collect();
        assert_eq!(models, [("c", at(100)), ("a", at(20)), ("b", at(12))]);
        let ends: Vec<_> = one.failed.iter().map(|call| call.ended_at.as_second()).collect();
        assert_eq!(ends, [30, 40, 50, 60, 70, 75, 80, 90]);
        assert!(one.failed.iter().all(|call| call.message.chars().count() == MAX_MESSAGE_CHARS));
        one.forget(at(660));
        assert_eq!((one.served.len(), one.failed.len()), (3, 4));
        one.forget(at(20_000));
        assert!(one.is_empty());
    }

    #[test]
    fn failures_count_by_request_and_since_the_last_served_call() {
        for (served_at, failures, count) in [
            (None, vec![], 0),
            (None, vec![("task 1", 5), ("task 1", 6)], 1),
            (None, vec![("task 1", 5), ("task 2", 6)], 2),
            (Some(5), vec![("task 1", 5), ("task 2", 6)], 1),
            (Some(7), vec![("task 1", 5), ("task 2", 6)], 0),
        ] {
            let mut evidence = CallEvidence::of("http://s");
            served_at.into_iter().for_each(|ended| evidence.add_served(served("m", ended)));
            failures.iter().for_each(|(request, ended)| evidence.add_failed(failed(request, *ended)));
            assert_eq!(evidence.failing_requests(), count, "{served_at:?} {failures:?}");
        }
    }

    #[test]
    fn times_are_read_by_the_readers_clock() {
        let mut evidence = CallEvidence::of("http://s");
        evidence.add_served(served("m", 100));
        evidence.add_failed(failed("task 1", 90));
        let shifted = evidence.shifted(SignedDuration::from_secs(-30));
        assert_eq!((shifted.served[0].began_at, shifted.served[0].ended_at), (at(69), at(70)));
        assert_eq!((shifted.failed[0].began_at, shifted.failed[0].ended_at), (at(59), at(60)));
    }
}
