//! What the clock and the controller of schedules tell each other: what became of runs, and what was requested.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use parking_lot::Mutex;

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
    pub handled_request: Option<String>,
    /// Not published yet.
    pub notes: Vec<Note>,
}

#[derive(Default)]
struct KnownSchedule {
    created_at: Option<Timestamp>,
    request: Option<String>,
    report: ScheduleReport,
}

/// By uid.
#[derive(Clone, Default)]
pub struct ScheduleRuns(Arc<Mutex<HashMap<String, KnownSchedule>>>);

impl ScheduleRuns {
    /// The object was read: its age, and the last run that was requested.
    pub fn known(&self, uid: &str, created_at: Option<Timestamp>, request: Option<String>) {
        self.with(uid, |known| (known.created_at, known.request) = (created_at, request));
    }

    pub fn created_at(&self, uid: &str) -> Option<Timestamp> {
        self.with(uid, |known| known.created_at)
    }

    /// The last request that was not handled yet.
    pub fn request(&self, uid: &str) -> Option<String> {
        self.with(uid, |known| known.request.clone().filter(|of| known.report.handled_request.as_ref() != Some(of)))
    }

    pub fn handled(&self, uid: &str) {
        self.with(uid, |known| known.report.handled_request.clone_from(&known.request));
    }

    pub fn fired(&self, uid: &str, run: Timestamp, tasks: usize) {
        let tasks = i32::try_from(tasks).unwrap_or(i32::MAX).min(100_000);
        self.with(uid, |known| (known.report.last_run, known.report.waits) = (Some((run, tasks)), None));
    }

    /// Returns whether that is news.
    pub fn waits(&self, uid: &str, waits: Option<RunWait>) -> bool {
        self.with(uid, |known| std::mem::replace(&mut known.report.waits, waits.clone()) != waits)
    }

    pub fn note(&self, uid: &str, note: Note) {
        self.with(uid, |known| known.report.notes.push(note));
    }

    pub fn report(&self, uid: &str) -> ScheduleReport {
        self.with(uid, |known| known.report.clone())
    }

    /// The first notes of a report are published: they are not reported again.
    pub fn published(&self, uid: &str, notes: usize) {
        self.with(uid, |known| drop(known.report.notes.drain(..notes.min(known.report.notes.len()))));
    }

    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| keep(uid));
    }

    fn with<T>(&self, uid: &str, f: impl FnOnce(&mut KnownSchedule) -> T) -> T {
        f(self.0.lock().entry(uid.to_owned()).or_default())
    }
}
