//! What the clock did with each schedule, for its status; and what its object says to the clock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

use crate::platform::Note;

/// A run that is due, and why it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunWait {
    pub reason: &'static str,
    pub message: String,
}

/// What became of a schedule's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleReport {
    /// When it last fired, and how many tasks that were; in this term.
    pub last_run: Option<(Timestamp, i32)>,
    pub waits: Option<RunWait>,
    pub handled_wish: Option<String>,
    pub notes: Vec<Note>,
}

#[derive(Default)]
struct Entry {
    created_at: Option<Timestamp>,
    wish: Option<String>,
    told: ScheduleReport,
}

/// By uid.
#[derive(Clone, Default)]
pub struct ScheduleRuns(Arc<Mutex<HashMap<String, Entry>>>);

impl ScheduleRuns {
    /// The object was seen.
    pub fn known(&self, uid: &str, created_at: Option<Timestamp>, wish: Option<String>) {
        self.with(uid, |entry| (entry.created_at, entry.wish) = (created_at, wish));
    }

    pub fn created_at(&self, uid: &str) -> Option<Timestamp> {
        self.with(uid, |entry| entry.created_at)
    }

    /// A person's wish that was not dealt with yet.
    pub fn wish(&self, uid: &str) -> Option<String> {
        self.with(uid, |entry| entry.wish.clone().filter(|wish| entry.told.handled_wish.as_ref() != Some(wish)))
    }

    pub fn handled(&self, uid: &str, wish: String) {
        self.with(uid, |entry| entry.told.handled_wish = Some(wish));
    }

    pub fn fired(&self, uid: &str, run: Timestamp, tasks: usize) {
        let tasks = i32::try_from(tasks).unwrap_or(i32::MAX).min(100_000);
        self.with(uid, |entry| (entry.told.last_run, entry.told.waits) = (Some((run, tasks)), None));
    }

    /// Returns whether that is news.
    pub fn waits(&self, uid: &str, waits: Option<RunWait>) -> bool {
        self.with(uid, |entry| std::mem::replace(&mut entry.told.waits, waits.clone()) != waits)
    }

    pub fn note(&self, uid: &str, note: Note) {
        self.with(uid, |entry| entry.told.notes.push(note));
    }

    /// What to tell; each note once.
    pub fn told(&self, uid: &str) -> ScheduleReport {
        self.with(uid, |entry| {
            let told = entry.told.clone();
            entry.told.notes.clear();
            told
        })
    }

    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| keep(uid));
    }

    fn with<T>(&self, uid: &str, f: impl FnOnce(&mut Entry) -> T) -> T {
        f(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default())
    }
}
