//! Causes and deliveries as the leader knows them: read once a term, and changed along with the database.

use std::{collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::causes::{Cause, Delivery, KnownCause};

/// A resolved cause of which nobody is to be told any more is forgotten after this.
const RESOLVED: SignedDuration = SignedDuration::from_hours(2);

/// Of one term. Clones share it.
#[derive(Clone, Default)]
pub struct CauseBook(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// `None`: not read yet.
    causes: Option<Arc<Vec<KnownCause>>>,
    /// By the uid of the Notifier.
    deliveries: HashMap<String, Vec<Delivery>>,
    /// Why a Heartbeat's URL can't be called, and since when.
    beats: HashMap<String, (String, Timestamp)>,
}

/// What a Notifier was told, and what keeps it from being told the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifierBook {
    pub told: usize,
    pub held_back: usize,
    pub error: Option<String>,
    pub failing_since: Option<Timestamp>,
    pub refused: bool,
}

impl Known {
    /// Without those that are over and of which nobody is to be told any more.
    fn keep(&mut self, mut causes: Vec<KnownCause>, now: Timestamp) {
        let is_due = |cause: &Cause| {
            let of = |d: &&Delivery| d.cause == cause.key && d.opened_at == cause.opened_at;
            self.deliveries.values().flatten().filter(of).any(|d| d.due.is_some())
        };
        causes.retain(|k| k.cause.resolved_at.is_none_or(|at| now.duration_since(at) < RESOLVED) || is_due(&k.cause));
        self.causes = Some(Arc::new(causes));
    }
}

impl CauseBook {
    pub fn is_loaded(&self) -> bool {
        self.0.lock().causes.is_some()
    }

    /// `deliveries`: where they were read, too.
    pub fn load(&self, causes: Vec<KnownCause>, deliveries: Option<Vec<Delivery>>, now: Timestamp) {
        let mut known = self.0.lock();
        if let Some(deliveries) = deliveries {
            known.deliveries.clear();
            for delivery in deliveries {
                known.deliveries.entry(delivery.uid.clone()).or_default().push(delivery);
            }
        }
        known.keep(causes, now);
    }

    pub fn causes(&self) -> Option<Arc<Vec<KnownCause>>> {
        self.0.lock().causes.clone()
    }

    pub fn deliveries_of(&self, uid: &str) -> Vec<Delivery> {
        self.0.lock().deliveries.get(uid).cloned().unwrap_or_default()
    }

    /// What was written.
    pub fn put(&self, causes: &[Cause], deliveries: &[Delivery], now: Timestamp) {
        let mut known = self.0.lock();
        for delivery in deliveries {
            let all = known.deliveries.entry(delivery.uid.clone()).or_default();
            match all.iter_mut().find(|d| d.cause == delivery.cause && d.opened_at == delivery.opened_at) {
                Some(before) => before.clone_from(delivery),
                None => all.push(delivery.clone()),
            }
        }
        if causes.is_empty() {
            return;
        }
        let merged = known.causes.as_deref().map(|all| merged(all, causes)).unwrap_or_default();
        known.keep(merged, now);
    }

    /// What came of calling a Heartbeat's URL. Whether that is news.
    pub fn beat(&self, uid: &str, error: Option<String>, now: Timestamp) -> bool {
        let mut known = self.0.lock();
        match error {
            None => known.beats.remove(uid).is_some(),
            Some(error) => {
                let before = known.beats.get(uid).cloned();
                let since = before.as_ref().map_or(now, |(_, since)| *since);
                known.beats.insert(uid.to_owned(), (error.clone(), since));
                before.is_none_or(|(before, _)| before != error)
            }
        }
    }

    pub fn of_notifier(&self, uid: &str) -> NotifierBook {
        let known = self.0.lock();
        let all = known.deliveries.get(uid).map(Vec::as_slice).unwrap_or_default();
        let failing = all.iter().filter(|d| d.due.is_some() && d.failing_since.is_some());
        let last = failing.max_by_key(|d| (d.not_before, d.attempts));
        let beat = known.beats.get(uid);
        NotifierBook {
            told: all.iter().filter(|d| d.told.is_some()).count(),
            held_back: all.iter().filter(|d| d.due.is_some()).count(),
            error: last.and_then(|d| d.error.clone()).or_else(|| beat.map(|(error, _)| error.clone())),
            failing_since: last.and_then(|d| d.failing_since).or_else(|| beat.map(|(_, since)| *since)),
            refused: last.is_some_and(|d| d.refused),
        }
    }
}

/// With what changed; what people said of a cause ends with it.
pub fn merged(known: &[KnownCause], changed: &[Cause]) -> Vec<KnownCause> {
    let mut all = known.to_vec();
    for cause in changed {
        match all.iter_mut().find(|k| k.cause.key == cause.key && k.cause.opened_at == cause.opened_at) {
            Some(before) => {
                before.acknowledged = before.acknowledged.take().filter(|_| cause.is_open());
                before.cause = cause.clone();
            }
            None => all.push(KnownCause { cause: cause.clone(), acknowledged: None }),
        }
    }
    all
}
