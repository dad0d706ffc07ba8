use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Fault;
use super::state::SimulatedState;
use super::totals::Totals;

/// Older records are forgotten; the counts go on.
const KEPT: usize = 10_000;

/// What a simulated server was asked, since its start or since the log was cleared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// The last 10,000, oldest first.
    pub calls: VecDeque<CallRecord>,
    /// All of them, by `METHOD /path`.
    pub counts: BTreeMap<String, u64>,
    /// Inference calls that are not over, and the most there were at a time.
    pub in_flight: usize,
    pub in_flight_peak: usize,
    /// How often each model was loaded into memory, and thrown out.
    pub loads: BTreeMap<String, u64>,
    pub unloads: BTreeMap<String, u64>,
    pub pulls: BTreeMap<String, u64>,
    /// Tokens sent.
    pub tokens: u64,
    pub totals: Totals,
}

impl Log {
    pub fn count(&self, call: &str) -> u64 {
        self.counts.get(call).copied().unwrap_or(0)
    }

    pub fn loads_in_all(&self) -> u64 {
        self.loads.values().sum()
    }

    /// Records of inference calls, oldest first.
    pub fn inferences(&self) -> impl Iterator<Item = &CallRecord> {
        self.calls.iter().filter(|call| call.inference)
    }
}

/// One request.
#[serde_with::skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    pub id: u64,
    pub at: Timestamp,
    pub method: String,
    pub path: String,
    pub inference: bool,
    pub model: Option<String>,
    pub keep_alive: Option<Value>,
    pub max_tokens: Option<u32>,
    /// The beginning of the last message, prompt or text: at most 200 characters.
    pub prompt: Option<String>,
    /// What else was asked for: `temperature`, `top_p`, `seed`, `stop`, `schema`.
    pub options: Option<Value>,
    /// Absent while no answer began.
    pub status: Option<u16>,
    pub tokens: u32,
    pub end: CallEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallEnd {
    Open,
    Finished,
    /// The server broke its answer off, or ended it with an error record.
    Failed,
    /// The caller went away, or the connection broke.
    Aborted,
    /// The caller went away, and the server worked to the end without noticing.
    Abandoned,
}

/// The log as it is being written.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    inner: Arc<Mutex<Inner>>,
    /// Told when an inference call is over.
    pub(super) closed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Its totals hold what the records that are kept don't tell.
    log: Log,
    next_id: u64,
    /// Never reset, for triggers that count calls.
    inferences: u64,
}

impl Ledger {
    pub(super) fn new(start: u64) -> Self {
        let mut inner = Inner::default();
        inner.log.totals.starts = start;
        Self { inner: Arc::new(Mutex::new(inner)), closed: Arc::default() }
    }

    pub(super) fn open(&self, method: &str, path: &str, inference: bool) -> SimulatedCall {
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.inferences += u64::from(inference);
        let log = &mut inner.log;
        *log.counts.entry(format!("{method} {path}")).or_default() += 1;
        if inference {
            log.in_flight += 1;
            log.in_flight_peak = log.in_flight_peak.max(log.in_flight);
        }
        log.calls.push_back(CallRecord {
            id,
            at: Timestamp::now(),
            method: method.to_owned(),
            path: path.to_owned(),
            inference,
            model: None,
            keep_alive: None,
            max_tokens: None,
            prompt: None,
            options: None,
            status: None,
            tokens: 0,
            end: CallEnd::Open,
        });
        if log.calls.len() > KEPT
            && let Some(oldest) = log.calls.pop_front()
        {
            log.totals.count(&oldest);
        }
        SimulatedCall { ledger: self.clone(), id, inference }
    }

    pub(super) fn read(&self) -> Log {
        let mut log = self.inner.lock().log.clone();
        log.totals = totals(&log);
        log
    }

    pub(super) fn totals(&self) -> Totals {
        totals(&self.inner.lock().log)
    }

    /// Forgets everything but what is open.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.lock();
        let in_flight = inner.log.in_flight;
        let Totals { starts, running, .. } = inner.log.totals;
        let totals = Totals { starts, running, running_peak: running, ..Totals::default() };
        inner.log = Log { in_flight, in_flight_peak: in_flight, totals, ..Log::default() };
    }

    /// Inference calls since the start, and how many are open.
    pub(super) fn inferences(&self) -> (u64, usize) {
        let inner = self.inner.lock();
        (inner.inferences, inner.log.in_flight)
    }

    pub(super) fn note_load(&self, model: &str) {
        *self.inner.lock().log.loads.entry(model.to_owned()).or_default() += 1;
    }

    pub(super) fn note_unload(&self, model: &str) {
        *self.inner.lock().log.unloads.entry(model.to_owned()).or_default() += 1;
    }

    /// A call got, or left, one of the engine's places.
    pub(super) fn note_running(&self, begins: bool) {
        let totals = &mut self.inner.lock().log.totals;
        totals.running = if begins { totals.running + 1 } else { totals.running.saturating_sub(1) };
        totals.running_peak = totals.running_peak.max(totals.running);
    }

    pub(super) fn note_foreign(&self) {
        self.inner.lock().log.totals.foreign += 1;
    }

    pub(super) fn note_pull(&self, model: &str) {
        *self.inner.lock().log.pulls.entry(model.to_owned()).or_default() += 1;
    }
}

fn totals(log: &Log) -> Totals {
    let mut totals = log.totals.clone();
    log.calls.iter().for_each(|call| totals.count(call));
    totals.in_flight = log.in_flight;
    totals.in_flight_peak = log.in_flight_peak;
    totals.loads = log.loads.values().sum();
    totals.unloads = log.unloads.values().sum();
    totals.pulls = log.pulls.values().sum();
    totals.tokens = log.tokens;
    totals
}

/// One open request. Dropped without `finish`, it was aborted.
#[derive(Debug)]
pub(super) struct SimulatedCall {
    ledger: Ledger,
    id: u64,
    pub(super) inference: bool,
}

impl SimulatedCall {
    pub(super) fn note(&self, change: impl FnOnce(&mut CallRecord)) {
        let mut inner = self.ledger.inner.lock();
        // Records are in the order of their ids, without gaps.
        let Some(first) = inner.log.calls.front().map(|call| call.id) else { return };
        let place = self.id.checked_sub(first).and_then(|n| usize::try_from(n).ok());
        if let Some(record) = place.and_then(|place| inner.log.calls.get_mut(place)) {
            change(record);
        }
    }

    pub(super) fn token(&self) {
        self.ledger.inner.lock().log.tokens += 1;
        self.note(|record| record.tokens += 1);
    }

    pub(super) fn finish(&self) {
        self.end(CallEnd::Finished);
    }

    /// The first end holds, but that nobody reads what the server finishes is known before.
    pub(super) fn end(&self, end: CallEnd) {
        self.note(|record| {
            if record.end == CallEnd::Open {
                record.end = end;
            }
        });
    }
}

impl Drop for SimulatedCall {
    fn drop(&mut self) {
        self.end(CallEnd::Aborted);
        if self.inference {
            let mut inner = self.ledger.inner.lock();
            inner.log.in_flight = inner.log.in_flight.saturating_sub(1);
            drop(inner);
            self.ledger.closed.notify_one();
        }
    }
}

/// Tokens of each call.
const FOREIGN_TOKENS: u32 = 40;

/// Calls of other clients, which no request of ours shows: they take the engine's places and move `expires_at`. Keeps `count` open
/// while the fault is set.
pub(super) fn foreign_calls(shared: &Arc<SimulatedState>, fault: u64, count: usize) {
    for _ in 0..count {
        let (weak, over) = (Arc::downgrade(shared), shared.over.clone());
        tokio::spawn(async move {
            over.run_until_cancelled(async { while foreign_call(&weak, fault).await.is_some() {} }).await;
        });
    }
}

async fn foreign_call(shared: &Weak<SimulatedState>, fault: u64) -> Option<()> {
    let shared = shared.upgrade()?;
    let work = async {
        let pause = Duration::try_from_secs_f64(1.0 / shared.options.tokens_per_second).unwrap_or(Duration::MAX);
        let Some(model) = shared.listed().into_iter().next() else { return tokio::time::sleep(pause).await };
        let Ok(_lease) = shared.acquire(&model, None).await else { return tokio::time::sleep(pause).await };
        for _ in 0..FOREIGN_TOKENS {
            shared.faults.until_none(|fault| matches!(fault, Fault::HangInference { .. })).await;
            tokio::time::sleep(pause).await;
        }
        shared.ledger.note_foreign();
    };
    tokio::select! {
        () = shared.faults.until_ended(fault) => None,
        () = work => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_finished_calls_from_aborted_ones_and_keeps_the_peak() {
        let ledger = Ledger::new(1);
        let (first, second) = (ledger.open("POST", "/api/chat", true), ledger.open("POST", "/api/chat", true));
        let listing = ledger.open("GET", "/api/tags", false);
        first.token();
        first.finish();
        drop(first);
        drop(second);
        let log = ledger.read();
        let ends: Vec<_> = log.calls.iter().map(|call| call.end).collect();
        assert_eq!(ends, [CallEnd::Finished, CallEnd::Aborted, CallEnd::Open]);
        assert_eq!((log.in_flight, log.in_flight_peak, log.tokens), (0, 2, 1));
        assert_eq!((log.count("POST /api/chat"), log.count("GET /api/tags")), (2, 1));
        let Totals { inferences, aborted, in_flight_peak, tokens, .. } = log.totals;
        assert_eq!((inferences, aborted, in_flight_peak, tokens), (2, 1, 2, 1));
        drop(listing);
    }

    #[test]
    fn a_cleared_log_still_counts_what_is_open() {
        let ledger = Ledger::new(1);
        let open = ledger.open("POST", "/api/chat", true);
        ledger.clear();
        open.token();
        let next = ledger.open("POST", "/api/chat", true);
        next.token();
        drop(open);
        let log = ledger.read();
        assert_eq!((log.in_flight, log.in_flight_peak, log.calls.len()), (1, 2, 1));
        assert_eq!(log.calls[0].tokens, 1);
    }

    #[test]
    fn only_the_last_records_are_kept_and_still_found() {
        let ledger = Ledger::new(1);
        for _ in 0..KEPT {
            ledger.open("GET", "/api/tags", false).finish();
        }
        let last = ledger.open("POST", "/api/chat", true);
        last.token();
        let log = ledger.read();
        assert_eq!(log.calls.len(), KEPT);
        assert_eq!(log.calls.back().map(|call| call.tokens), Some(1));
        for _ in 0..KEPT {
            ledger.open("POST", "/api/chat", true).finish();
        }
        assert_eq!(ledger.totals().inferences, 1 + KEPT as u64, "totals count the forgotten ones too");
    }
}
