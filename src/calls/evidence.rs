//! What this worker's calls showed of servers, and when the leader must hear of it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::base::tick;
use crate::store::{CallEvidence, FailedCall, ServedCall};

/// Failures under so many requests are each reported at once: the second one demands a proof of the server.
const PROMPT_FAILURES: usize = 2;
/// What changes the verdict over a server is reported at once, but not more often than this.
const BETWEEN_REPORTS: Duration = Duration::from_millis(500);

/// By server.
#[derive(Debug, Default)]
pub struct EvidenceLog {
    known: Mutex<BTreeMap<String, CallEvidence>>,
    news: Notify,
}

impl EvidenceLog {
    pub fn served(&self, server_url: &str, call: ServedCall) {
        let is_news = self.change(server_url, |known| {
            let first = !known.served.iter().any(|one| one.model == call.model);
            let failing = known.failing_requests() > 0;
            known.add_served(call);
            first || failing
        });
        if is_news {
            self.news.notify_one();
        }
    }

    pub fn failed(&self, server_url: &str, call: FailedCall) {
        let is_news = self.change(server_url, |known| {
            known.add_failed(call);
            known.failing_requests() <= PROMPT_FAILURES
        });
        if is_news {
            self.news.notify_one();
        }
    }

    /// Resolves when the next report is due, after the one at `last`: once in `every`, and at once when a call showed what none has told
    /// yet, which changes the verdict over a server.
    pub async fn report_due(&self, every: Duration, last: Instant) {
        tokio::select! {
            () = tick(every) => {}
            () = self.news.notified() => sleep_until(last + BETWEEN_REPORTS).await,
        }
    }

    /// For a report: all that is not too old.
    pub fn all(&self, now: Timestamp) -> Vec<CallEvidence> {
        let mut known = self.known.lock();
        known.values_mut().for_each(|evidence| evidence.forget(now));
        known.retain(|_, evidence| !evidence.is_empty());
        known.values().cloned().collect()
    }

    fn change<T>(&self, server_url: &str, change: impl FnOnce(&mut CallEvidence) -> T) -> T {
        let mut known = self.known.lock();
        change(known.entry(server_url.to_owned()).or_insert_with(|| CallEvidence::of(server_url)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::store::CallFault;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[derive(Clone, Copy)]
    enum CallEnd {
        Served(&'static str),
        Failed(&'static str),
    }

    #[test]
    fn what_changes_a_verdict_is_news_and_what_repeats_it_is_not() {
        use CallEnd::{Failed, Served};
        let evidence = EvidenceLog::default();
        let steps = [
            (Served("a"), true, "the first of a model"),
            (Served("a"), false, "another one"),
            (Served("b"), true, "another model"),
            (Failed("task 1"), true, "the first failure"),
            (Failed("task 2"), true, "the second request"),
            (Failed("task 3"), false, "the third request"),
            (Served("a"), true, "served after failures"),
            (Served("a"), false, "and again"),
            (Failed("task 4"), true, "the first failure since"),
        ];
        for (second, (end, is_news, what)) in (1..).zip(steps) {
            let (began_at, ended_at) = (at(second), at(second));
            match end {
                Served(model) => {
                    let call = ServedCall { model: model.into(), began_at, ended_at, request: "task 9".into() };
                    evidence.served("http://s", call);
                }
                Failed(request) => {
                    let (fault, message) = (CallFault::Failed, "HTTP 500".to_owned());
                    let request = request.to_owned();
                    let call = FailedCall { model: "a".into(), began_at, ended_at, request, fault, message };
                    evidence.failed("http://s", call);
                }
            }
            assert_eq!(evidence.news.notified().now_or_never().is_some(), is_news, "{what}");
        }
        let all = evidence.all(at(10));
        assert_eq!((all.len(), all[0].served.len(), all[0].failed.len()), (1, 2, 4));
        assert_eq!(evidence.all(at(10)), all, "a report is a state");
        assert_eq!(evidence.all(at(100_000)), []);
    }
}
