//! What is known in memory only: the process that holds the folder's lock is the only one that writes it and the only one that needs it.
//! In the database it would keep the disk busy for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::stamp::Stamp;
use crate::store::{Observation, WorkerReport, WorkerRow};

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

    pub fn observe(&self, seen: &[(String, Observation)]) {
        self.lock().observations.extend(seen.iter().cloned());
    }

    pub fn observations(&self) -> Vec<(String, Observation)> {
        self.lock().observations.iter().map(|(uid, seen)| (uid.clone(), seen.clone())).collect()
    }

    pub fn forget_observations(&self, uids: &[String]) {
        self.lock().observations.retain(|uid, _| !uids.contains(uid));
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
