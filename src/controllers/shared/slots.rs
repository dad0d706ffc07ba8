//! The occupied slots of every server, read in one statement for all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    store::{SlotPurpose, SlotRow, Store},
    telemetry::Beat,
};

const PERIOD: Duration = Duration::from_secs(2);

/// What is known of a server's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    pub calls: Vec<SlotRow>,
    /// When a call was last seen in one.
    pub last_call_at: Option<Timestamp>,
}

/// The slots as they were last read, by the server's normalized URL.
#[derive(Clone, Default)]
pub struct SlotWatch {
    known: Arc<Mutex<HashMap<String, Occupied>>>,
}

impl SlotWatch {
    pub async fn watch(self, store: Arc<dyn Store>, beat: Beat, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
            beat.beat();
            if let Err(error) = self.read(&*store).await {
                tracing::debug!(%error, "slots not read");
            }
        }
    }

    async fn read(&self, store: &dyn Store) -> Result<(), crate::store::StoreError> {
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

    pub fn of(&self, server_url: &str) -> Occupied {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(server_url).cloned().unwrap_or_default()
    }
}
