//! The occupied slots of every server, read in one statement for all, and how many tasks wait for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{SlotPurpose, SlotRow, Store, StoreError, world},
    tasks::route::Server,
    telemetry::Beat,
};

const PERIOD: Duration = Duration::from_secs(2);
/// Counting goes over all tasks that wait: it may take one part in so many of the time, down to one count in [`SELDOM`].
const SHARE: u32 = 20;
const SELDOM: Duration = Duration::from_secs(30);

/// What is known of a server's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    pub calls: Vec<SlotRow>,
    /// When a call was last seen in one.
    pub last_call_at: Option<Timestamp>,
    /// Tasks that are due, and whose model it serves.
    pub waiting: i64,
}

/// The slots as they were last read, by the server's normalized URL.
#[derive(Clone, Default)]
pub struct SlotWatch {
    known: Arc<Mutex<HashMap<String, Occupied>>>,
}

impl SlotWatch {
    pub async fn watch(self, store: Arc<dyn Store>, beat: Beat, shutdown: CancellationToken) {
        let mut due = PERIOD;
        while shutdown.run_until_cancelled(tokio::time::sleep(due)).await.is_some() {
            beat.beat();
            if let Err(error) = self.read(&*store).await {
                tracing::debug!(%error, "slots not read");
            }
            let began = Instant::now();
            match demand(&*store).await {
                Ok(demand) => self.take(&demand),
                Err(error) => tracing::debug!(%error, "waiting tasks not counted"),
            }
            due = PERIOD.max(began.elapsed() * SHARE).min(SELDOM);
        }
    }

    async fn read(&self, store: &dyn Store) -> Result<(), StoreError> {
        let occupied = store.occupancy().await?;
        let mut seen = HashMap::new();
        for (url, _) in occupied.into_iter().filter(|(_, n)| *n > 0) {
            let calls =
                store.slots(&url).await?.into_iter().filter(|s| s.purpose == SlotPurpose::Call).collect::<Vec<_>>();
            seen.insert(url, calls);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in known.values_mut() {
            entry.calls.clear();
        }
        for (url, calls) in seen {
            let entry = known.entry(url).or_default();
            if !calls.is_empty() {
                entry.last_call_at = Some(Timestamp::now());
            }
            entry.calls = calls;
        }
        Ok(())
    }

    fn take(&self, demand: &HashMap<String, i64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in known.values_mut() {
            entry.waiting = 0;
        }
        for (url, waiting) in demand {
            known.entry(url.clone()).or_default().waiting = *waiting;
        }
    }

    /// The servers that do tasks, or could.
    pub fn wanted(&self) -> HashSet<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = known.iter().filter(|(_, of)| of.waiting > 0 || !of.calls.is_empty());
        wanted.map(|(url, _)| url.clone()).collect()
    }

    pub fn of(&self, server_url: &str) -> Occupied {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(server_url).cloned().unwrap_or_default()
    }
}

/// Due tasks by the servers that serve what they ask for: a task counts for each of them.
async fn demand(store: &dyn Store) -> Result<HashMap<String, i64>, StoreError> {
    let waiting = store.waiting().await?;
    if waiting.is_empty() {
        return Ok(HashMap::new());
    }
    let servers: Vec<Server> = store
        .backends()
        .await?
        .iter()
        .filter_map(|row| Some(Server::new(&row.namespace, &row.name, &row.server_url, &world::backend_spec(row)?)))
        .collect();
    let mut demand: HashMap<String, i64> = HashMap::new();
    for group in waiting.iter().filter(|group| group.due) {
        let Some(alias) = &group.model else { continue };
        let serving = servers.iter().filter(|s| s.namespace == group.namespace && s.model(alias).is_some());
        for url in serving.map(|s| s.url.clone()).collect::<HashSet<_>>() {
            *demand.entry(url).or_default() += group.count;
        }
    }
    Ok(demand)
}
