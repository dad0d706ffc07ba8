//! What is known in memory only: the process that holds the folder's lock is the only one that writes it and the only one that needs it.
//! In the database it would keep the disk busy for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::SqliteStore;
use crate::store::changes::Topics;
use crate::store::stamp::Stamp;
use crate::store::{BackendRow, Fence, Observation, Observations, StoreError, WorkerReport, WorkerRow};

#[derive(Default)]
pub(super) struct Memory(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// When the lead lapses unless it is renewed; `None`: nobody has it.
    lead_until: Option<Stamp>,
    observations: BTreeMap<String, Observation>,
    /// Of the workers in this process, by holder.
    reports: BTreeMap<String, (WorkerReport, Stamp)>,
}

impl Memory {
    pub fn lead_until(&self) -> Option<Stamp> {
        self.lock().lead_until
    }

    pub fn set_lead(&self, until: Option<Stamp>) {
        self.lock().lead_until = until;
    }

    pub fn report(&self, report: &WorkerReport, now: Stamp) {
        self.lock().reports.insert(report.holder.clone(), (report.clone(), now));
    }

    pub fn forget_report(&self, holder: &str) {
        self.lock().reports.remove(holder);
    }

    /// Reports that are older than `kept` are forgotten.
    pub fn reports(&self, now: Stamp, kept: Duration) -> Vec<WorkerRow> {
        let mut known = self.lock();
        known.reports.retain(|_, (_, at)| at.until(now) <= kept);
        known.reports.values().map(|(report, at)| WorkerRow { report: report.clone(), age: at.until(now) }).collect()
    }

    /// How long ago a worker of this process reported.
    pub fn reported_ago(&self, holder: &str, now: Stamp) -> Option<Duration> {
        self.lock().reports.get(holder).map(|(_, at)| at.until(now))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SqliteStore {
    /// These backends are gone, and what was observed of them.
    pub(in crate::store) fn swept(&self, gone: &[BackendRow]) {
        let mut known = self.memory.lock();
        gone.iter().for_each(|row| drop(known.observations.remove(&row.uid)));
        self.changed(Topics::WORLD);
    }
}

#[async_trait]
impl Observations for SqliteStore {
    async fn record_observations(&self, fence: &Fence, seen: &[(String, Observation)]) -> Result<(), StoreError> {
        // Dropped without a change: only the fence is checked.
        self.write_fenced(fence).await?;
        self.memory.lock().observations.extend(seen.iter().cloned());
        Ok(())
    }

    async fn observations(&self) -> Result<Vec<(String, Observation)>, StoreError> {
        Ok(self.memory.lock().observations.iter().map(|(uid, seen)| (uid.clone(), seen.clone())).collect())
    }
}
