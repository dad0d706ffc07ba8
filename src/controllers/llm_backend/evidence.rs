//! What inferences showed of a server: calls of workers and canaries of ours, in one list.

use jiff::{SignedDuration, Timestamp};

use crate::{
    engines::{EngineKind, same_model},
    store::{CallEvidence, CallFault, FailedCall, ServedCall},
};

/// A failure older than this says nothing of the server as it is now.
const RECENT: SignedDuration = SignedDuration::from_mins(10);

/// Served and failed calls, by whoever made them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendEvidence {
    /// Newest last; one for each model and reporter.
    served: Vec<ServedCall>,
    /// Oldest first.
    failed: Vec<FailedCall>,
}

impl BackendEvidence {
    /// Adds what a reporter told.
    #[must_use]
    pub fn with(mut self, reported: &CallEvidence) -> Self {
        self.served.extend(reported.served.iter().cloned());
        self.failed.extend(reported.failed.iter().cloned());
        self.served.sort_by_key(|call| call.began_at);
        self.failed.sort_by_key(|call| call.ended_at);
        self
    }

    /// The newest call that one of these models served, or any model where the list is empty.
    pub fn last_served(&self, engine: EngineKind, models: &[String]) -> Option<&ServedCall> {
        self.served.iter().rev().find(|call| is_one_of(engine, &call.model, models))
    }

    /// The newest served call of any model.
    pub fn last_served_by_anyone(&self) -> Option<&ServedCall> {
        self.served.last()
    }

    /// Failures of these kinds that ended after `since` and are recent: one for each request.
    pub fn failures(&self, since: Option<Timestamp>, now: Timestamp, faults: &[CallFault]) -> Vec<&FailedCall> {
        let after = since.max(Some(now - RECENT));
        let counts = |call: &&FailedCall| Some(call.ended_at) > after && faults.contains(&call.fault);
        let mut distinct: Vec<&FailedCall> = Vec::new();
        for call in self.failed.iter().filter(counts) {
            match distinct.iter_mut().find(|known| known.request == call.request) {
                Some(known) => *known = call,
                None => distinct.push(call),
            }
        }
        distinct
    }

    /// The newest failure of this kind, whatever was served since.
    pub fn newest(&self, fault: CallFault) -> Option<&FailedCall> {
        self.failed.iter().rev().find(|call| call.fault == fault)
    }
}

/// A served call in words: what status and events quote.
pub fn quote(call: &ServedCall) -> String {
    let millis = call.ended_at.duration_since(call.began_at).as_millis().max(0);
    format!("{} was served by {} in {millis} ms", call.request, call.model)
}

/// Failures in words: how often, since when, the last one.
pub fn describe_failures(failures: &[&FailedCall]) -> String {
    let (Some(first), Some(last)) = (failures.first(), failures.last()) else { return String::new() };
    let calls = if failures.len() == 1 { "1 call".to_owned() } else { format!("{} calls", failures.len()) };
    let since = first.ended_at.strftime("%H:%M:%S");
    format!("{calls} failed since {since} UTC, the last one ({}) with: {}", last.request, last.message)
}

fn is_one_of(engine: EngineKind, model: &str, models: &[String]) -> bool {
    models.is_empty() || models.iter().any(|declared| same_model(engine, declared, model))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_760_000_000 + seconds).unwrap()
    }

    fn served(model: &str, began: i64) -> ServedCall {
        ServedCall { model: model.into(), began_at: at(began), ended_at: at(began + 1), request: "task 1".into() }
    }

    fn failed(request: &str, ended: i64, fault: CallFault) -> FailedCall {
        let (began_at, ended_at) = (at(ended - 1), at(ended));
        FailedCall { model: "a".into(), began_at, ended_at, request: request.into(), fault, message: "HTTP 500".into() }
    }

    #[test]
    fn failures_count_once_per_request_and_only_while_they_are_recent() {
        let reported = CallEvidence {
            server_url: String::new(),
            served: vec![served("a", 10)],
            failed: vec![
                failed("task 1", 5, CallFault::Failed),
                failed("task 2", 20, CallFault::Failed),
                failed("task 2", 21, CallFault::Failed),
                failed("task 3", 22, CallFault::Full),
                failed("task 4", 23, CallFault::Failed),
            ],
        };
        let evidence = BackendEvidence::default().with(&reported);
        let requests = |since, now, faults: &[CallFault]| -> Vec<String> {
            evidence.failures(since, at(now), faults).iter().map(|call| call.request.clone()).collect()
        };
        assert_eq!(requests(Some(at(10)), 30, &[CallFault::Failed]), ["task 2", "task 4"]);
        assert_eq!(requests(Some(at(22)), 30, &[CallFault::Failed]), ["task 4"]);
        assert_eq!(requests(None, 30, &[CallFault::Full]), ["task 3"]);
        assert_eq!(requests(None, 700, &[CallFault::Failed]), Vec::<String>::new(), "old failures say nothing");
    }

    #[test]
    fn a_call_of_a_model_that_nobody_declared_is_no_proof() {
        let reported =
            CallEvidence { served: vec![served("a:latest", 10), served("b", 20)], ..CallEvidence::default() };
        let evidence = BackendEvidence::default().with(&reported);
        let model = |models: &[&str]| {
            let models: Vec<String> = models.iter().map(|m| (*m).to_owned()).collect();
            evidence.last_served(EngineKind::Ollama, &models).map(|call| call.model.clone())
        };
        assert_eq!(model(&["a"]).as_deref(), Some("a:latest"));
        assert_eq!(model(&["c"]), None);
        assert_eq!(model(&[]).as_deref(), Some("b"));
    }
}
