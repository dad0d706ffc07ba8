//! An engine that counts what is in flight: what the limit is for.

use std::collections::BTreeMap;

/// Milliseconds of the simulation.
pub type Millis = i64;

/// One call at an engine.
#[derive(Clone, Debug)]
pub struct Call {
    /// When its answer is whole: bounded tokens and seconds.
    ends_at: Millis,
    /// When the engine noticed that its client has gone; never, for one whose answer is not streamed.
    broken_at: Option<Millis>,
    streamed: bool,
    /// Refused, or broken off by a crash of the engine.
    failed: bool,
}

/// What its client sees of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenCall {
    Running,
    Answered,
    Failed,
}

/// A process that listens, as its agent reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub instance: u32,
    pub began_at: Millis,
}

#[derive(Debug)]
pub struct SimEngine {
    pub url: String,
    /// Whether a client that goes away is noticed.
    pub streams: bool,
    pub models: &'static [&'static str],
    pub process: Option<Process>,
    processes: u32,
    calls: BTreeMap<u64, Call>,
    next: u64,
}

impl SimEngine {
    pub fn new(url: &str, streams: bool, models: &'static [&'static str]) -> Self {
        let process = Some(Process { instance: 1, began_at: 0 });
        Self { url: url.to_owned(), streams, models, process, processes: 1, calls: BTreeMap::new(), next: 0 }
    }

    /// Calls that it computes now.
    pub fn in_flight(&self, now: Millis) -> i64 {
        let runs = |c: &&Call| !c.failed && now < c.ends_at && c.broken_at.is_none_or(|at| now < at);
        i64::try_from(self.calls.values().filter(runs).count()).unwrap_or(i64::MAX)
    }

    pub fn start(&mut self, ends_at: Millis) -> u64 {
        self.next += 1;
        let call = Call { ends_at, broken_at: None, streamed: self.streams, failed: self.process.is_none() };
        self.calls.insert(self.next, call);
        self.next
    }

    pub fn look(&self, call: u64, now: Millis) -> SeenCall {
        match self.calls.get(&call) {
            None => SeenCall::Failed,
            Some(call) if call.failed => SeenCall::Failed,
            Some(call) if now >= call.ends_at => SeenCall::Answered,
            Some(_) => SeenCall::Running,
        }
    }

    /// The client closed its connection, or died. Returns by when the engine has surely stopped.
    pub fn hang_up(&mut self, call: u64, now: Millis, notices_after: Millis) -> Millis {
        let Some(call) = self.calls.get_mut(&call) else { return now };
        if call.streamed {
            call.broken_at.get_or_insert(now + notices_after);
        }
        call.broken_at.unwrap_or(call.ends_at).min(call.ends_at).max(now)
    }

    /// All its calls are broken off; another process listens, or none.
    pub fn crash(&mut self, comes_back: bool, now: Millis) {
        self.calls.values_mut().for_each(|call| call.failed = true);
        self.process = None;
        if comes_back {
            self.begin(now);
        }
    }

    pub fn begin(&mut self, now: Millis) {
        if self.process.is_none() {
            self.processes += 1;
            self.process = Some(Process { instance: self.processes, began_at: now });
        }
    }
}
