//! What goes on at every server: its open calls, what calls showed of it, how many tasks wait for it, and its limit as it was last
//! adapted.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    base::tick,
    store::{CallEvidence, SlotPurpose, SlotRow, Store, StoreError, Topics, world},
    tasks::route::Server,
    telemetry::Beat,
};

use super::evidence::ReportedCalls;

/// Slots and reports are read this often while tasks wait, and for a while after anything changed.
const PERIOD: Duration = Duration::from_secs(2);
/// The same while calls are open somewhere: what they show must not wait.
const PERIOD_OF_CALLS: Duration = Duration::from_secs(1);
/// The same while nothing goes on and nobody tells of a change.
const SELDOM_READ: Duration = Duration::from_secs(60);
/// How long something goes on after it was told last.
const LASTING: Duration = Duration::from_secs(10);
/// Counting goes over all tasks that wait: it may take one part in so many of the time, down to one count in [`SELDOM`].
const SHARE: u32 = 20;
const SELDOM: Duration = Duration::from_secs(30);

/// What is known of a server's slots and calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    pub calls: Vec<SlotRow>,
    /// When a call was last seen in one.
    pub last_call_at: Option<Timestamp>,
    /// Interactive calls, and tasks that are due, whose model it serves.
    pub waiting: i64,
    /// What the calls of all workers showed, by the leader's clock.
    pub evidence: CallEvidence,
}

impl Occupied {
    /// Whether somebody should look at the server because of what differs.
    fn differs(&self, before: &Self) -> bool {
        let open = |of: &Self| of.calls.iter().map(call_id).collect::<HashSet<_>>();
        self.evidence != before.evidence || (self.waiting > 0) != (before.waiting > 0) || open(self) != open(before)
    }
}

fn call_id(slot: &SlotRow) -> (i64, i64, Option<Timestamp>, bool) {
    (slot.number, slot.epoch, slot.call_began_at, slot.aborted)
}

/// The slots and reports as they were last read, by the server's normalized URL.
#[derive(Clone, Default)]
pub struct SlotWatch {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    servers: HashMap<String, Occupied>,
    reported: ReportedCalls,
    /// Servers whose calls, evidence or demand changed since somebody asked.
    changed: HashSet<String>,
}

impl SlotWatch {
    pub async fn watch(self, store: Arc<dyn Store>, beat: Beat, shutdown: CancellationToken) {
        let (mut period, mut count_at) = (PERIOD, Instant::now());
        let mut changes = store.follow(Topics::TASKS | Topics::REPORTS | Topics::WORLD | Topics::SLOTS);
        let mut changed_at = Instant::now();
        while shutdown.run_until_cancelled(tick(period)).await.is_some() {
            beat.beat();
            if changes.take() {
                changed_at = Instant::now();
            }
            let read = self.read(&*store).await;
            match &read {
                Ok(calls) => period = if *calls > 0 { PERIOD_OF_CALLS } else { PERIOD },
                Err(error) => tracing::debug!(%error, "cannot read slots and reports; will retry"),
            }
            let began = Instant::now();
            if began >= count_at {
                match demand(&*store).await {
                    Ok(demand) => self.update(|known| known.count(&demand)),
                    Err(error) => tracing::debug!(%error, "cannot count waiting tasks; will retry"),
                }
                // A little less than the period: a pass of the loop must not be missed by a hair.
                count_at = began + (PERIOD * 3 / 4).max(began.elapsed() * SHARE).min(SELDOM);
            }
            // In parts, so that the loop is seen to be alive.
            let asleep = Instant::now();
            while read.is_ok() && !self.is_busy() && changed_at.elapsed() > LASTING && asleep.elapsed() < SELDOM_READ {
                beat.beat();
                match shutdown.run_until_cancelled(changes.changed(SELDOM_READ / 3)).await {
                    Some(true) => changed_at = Instant::now(),
                    Some(false) => {}
                    None => return,
                }
            }
        }
    }

    /// Whether calls are open or tasks wait anywhere.
    pub fn is_busy(&self) -> bool {
        self.known.lock().servers.values().any(|server| !server.calls.is_empty() || server.waiting > 0)
    }

    /// Returns how many calls are open.
    async fn read(&self, store: &dyn Store) -> Result<usize, StoreError> {
        let now = Timestamp::now();
        let reports = store.workers().await?;
        let mut open: HashMap<String, Vec<SlotRow>> = HashMap::new();
        for (url, slot) in store.occupied_slots().await? {
            if slot.purpose == SlotPurpose::Call {
                open.entry(url).or_default().push(slot);
            }
        }
        let calls = open.values().map(Vec::len).sum();
        self.update(|known| {
            known.reported.take(reports, now);
            let evidence = known.reported.by_server();
            known.observe(open, evidence, now);
        });
        Ok(calls)
    }

    fn update(&self, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock();
        change(&mut known);
        if !known.changed.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Resolves with the servers whose open calls, evidence or demand changed. For one caller.
    pub async fn changed(&self) -> HashSet<String> {
        loop {
            let changed = std::mem::take(&mut self.known.lock().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.changed.notified().await;
        }
    }

    pub fn of(&self, server_url: &str) -> Occupied {
        self.known.lock().servers.get(server_url).cloned().unwrap_or_default()
    }
}

impl Known {
    /// Takes in the open calls and the evidence of all servers.
    fn observe(
        &mut self,
        mut open: HashMap<String, Vec<SlotRow>>,
        mut evidence: HashMap<String, CallEvidence>,
        now: Timestamp,
    ) {
        let urls: HashSet<String> = self.servers.keys().chain(open.keys()).chain(evidence.keys()).cloned().collect();
        for url in urls {
            let calls = open.remove(&url).unwrap_or_default();
            let evidence = evidence.remove(&url).unwrap_or_default();
            self.change(url, |server| {
                // Short calls begin and end between two looks: what they showed tells of them.
                let shown = evidence.last_ended_at().map(|at| at.min(now));
                let open = (!calls.is_empty()).then_some(now);
                server.last_call_at = server.last_call_at.max(open).max(shown);
                server.calls = calls;
                server.evidence = evidence;
            });
        }
    }

    /// Takes in how many due tasks each server could do.
    fn count(&mut self, demand: &HashMap<String, i64>) {
        let urls: HashSet<String> = self.servers.keys().chain(demand.keys()).cloned().collect();
        for url in urls {
            let waiting = demand.get(&url).copied().unwrap_or(0);
            self.change(url, |server| server.waiting = waiting);
        }
    }

    fn change(&mut self, url: String, change: impl FnOnce(&mut Occupied)) {
        let server = self.servers.entry(url.clone()).or_default();
        let before = server.clone();
        change(server);
        if server.differs(&before) {
            self.changed.insert(url);
        }
    }
}

/// How many calls a server gets at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    pub limit: i32,
    /// Why that is below the declared maximum, for people.
    pub limited_by: Option<String>,
}

/// By the server's normalized URL.
#[derive(Clone, Default)]
pub struct ServerLimits {
    known: Arc<Mutex<HashMap<String, ServerLimit>>>,
}

impl ServerLimits {
    pub fn put(&self, limits: HashMap<String, ServerLimit>) {
        *self.known.lock() = limits;
    }

    /// None until it is known in this term.
    pub fn of(&self, server_url: &str) -> Option<ServerLimit> {
        self.known.lock().get(server_url).cloned()
    }
}

/// Interactive calls and due tasks by the servers that serve what they ask for: each counts for each of them.
async fn demand(store: &dyn Store) -> Result<HashMap<String, i64>, StoreError> {
    let calls: HashMap<String, i64> = store.interactive_waits().await?.into_iter().collect();
    let waiting = store.waiting().await?;
    if waiting.is_empty() {
        return Ok(calls);
    }
    let servers: Vec<Server> = store
        .backends()
        .await?
        .iter()
        .filter_map(|row| Some(Server::new(&row.namespace, &row.name, &row.server_url, &world::backend_spec(row)?)))
        .collect();
    let mut demand = calls;
    for group in waiting.iter().filter(|group| group.due) {
        let Some(alias) = &group.model else { continue };
        let serving = servers.iter().filter(|s| s.namespace == group.namespace && s.model(alias).is_some());
        for url in serving.map(|s| s.url.clone()).collect::<HashSet<_>>() {
            *demand.entry(url).or_default() += group.count;
        }
    }
    Ok(demand)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ServedCall;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn call(epoch: i64) -> SlotRow {
        SlotRow {
            number: 1,
            holder: "w".into(),
            epoch,
            purpose: SlotPurpose::Call,
            model: Some("m".into()),
            taken_at: at(0),
            lease_expires_at: at(30),
            call_ends_at: at(60),
            call_began_at: Some(at(0)),
            last_byte_at: None,
            instance: None,
            aborted: false,
        }
    }

    fn served(second: i64) -> CallEvidence {
        let mut evidence = CallEvidence::of("http://s");
        let request = "task 1".to_owned();
        evidence.add_served(ServedCall { model: "m".into(), began_at: at(0), ended_at: at(second), request });
        evidence
    }

    #[test]
    fn a_server_is_looked_at_when_its_calls_its_evidence_or_its_demand_changed() {
        type Step = (Option<SlotRow>, Option<CallEvidence>, i64, bool, &'static str);
        let later = SlotRow { last_byte_at: Some(at(7)), ..call(2) };
        let steps: [Step; 9] = [
            (None, None, 0, false, "nothing"),
            (None, None, 3, true, "work begins"),
            (Some(call(1)), None, 2, true, "a call"),
            (Some(call(1)), None, 1, false, "the same call, less work"),
            (Some(call(2)), None, 1, true, "another call"),
            (Some(later.clone()), None, 1, false, "it gets bytes"),
            (Some(later.clone()), Some(served(9)), 1, true, "evidence"),
            (Some(later), Some(served(9)), 1, false, "the same"),
            (None, Some(served(9)), 0, true, "the calls ended"),
        ];
        let mut known = Known::default();
        for (second, (call, evidence, waiting, changed, what)) in (0..).zip(steps) {
            let url = || "http://s".to_owned();
            let open = call.map(|call| (url(), vec![call])).into_iter().collect();
            known.observe(open, evidence.map(|of| (url(), of)).into_iter().collect(), at(second));
            known.count(&HashMap::from([(url(), waiting)]));
            assert_eq!(!std::mem::take(&mut known.changed).is_empty(), changed, "{what}");
        }
        assert_eq!(known.servers["http://s"].last_call_at, Some(at(8)), "as far as its evidence tells");
    }
}
