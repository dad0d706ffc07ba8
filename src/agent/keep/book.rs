//! The book of operations: written before anything is done, read again after a restart of the agent.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::{self, StateError};
use crate::host::{Instance, OperationRequest, OperationStatus, Phase};

const KEEP: SignedDuration = SignedDuration::from_hours(24);
const KEEP_AT_MOST: usize = 500;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub request: OperationRequest,
    pub status: OperationStatus,
    /// The process that ran when a Restart began: another one means that the Restart was already done when the agent died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Instance>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted {
    New(Entry),
    /// Its key came before, with the same request.
    Known(OperationStatus),
    /// Its key came before, with another request.
    KeyReused(OperationStatus),
}

#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    entries: Mutex<VecDeque<Entry>>,
}

impl Book {
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let entries = disk::read(&path)?.unwrap_or_default();
        Ok(Self { path, entries: Mutex::new(entries) })
    }

    /// Writes a request down and gives it an id, unless its key came before.
    pub fn accept(
        &self,
        request: OperationRequest,
        key: Option<String>,
        now: Timestamp,
    ) -> Result<Accepted, StateError> {
        let mut entries = self.lock();
        if let Some(key) = &key
            && let Some(known) = entries.iter().find(|e| e.status.idempotency_key.as_ref() == Some(key))
        {
            let status = known.status.clone();
            return Ok(if known.request == request { Accepted::Known(status) } else { Accepted::KeyReused(status) });
        }
        let entry = Entry {
            status: OperationStatus {
                id: Uuid::now_v7().to_string(),
                service: request.service.clone(),
                action: request.action,
                phase: Phase::Accepted,
                message: String::new(),
                accepted_at: now,
                started_at: None,
                finished_at: None,
                idempotency_key: key,
                exited_early: false,
            },
            request,
            before: None,
        };
        let mut new = entries.clone();
        forget(&mut new, now);
        new.push_back(entry.clone());
        self.keep(&mut entries, new)?;
        Ok(Accepted::New(entry))
    }

    /// Changes an entry, on disk first.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) -> Result<(), StateError> {
        let mut entries = self.lock();
        let mut new = entries.clone();
        if let Some(entry) = new.iter_mut().find(|e| e.status.id == id) {
            change(entry);
        }
        self.keep(&mut entries, new)
    }

    /// Whether a key came before.
    pub fn knows(&self, key: &str) -> bool {
        self.lock().iter().any(|e| e.status.idempotency_key.as_deref() == Some(key))
    }

    pub fn get(&self, id: &str) -> Option<Entry> {
        self.lock().iter().find(|e| e.status.id == id).cloned()
    }

    /// What is still to be done for a service, in the order in which it was asked.
    pub fn unfinished(&self, service: &str) -> Vec<Entry> {
        self.lock().iter().filter(|e| e.status.service == service && !e.status.phase.is_finished()).cloned().collect()
    }

    fn keep(&self, entries: &mut VecDeque<Entry>, new: VecDeque<Entry>) -> Result<(), StateError> {
        if *entries != new {
            disk::write(&self.path, &new)?;
            *entries = new;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // Replaced whole, so a panic elsewhere can't have left half of one.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets what ended a day ago, and the oldest that ended when there are too many.
fn forget(entries: &mut VecDeque<Entry>, now: Timestamp) {
    entries.retain(|e| e.status.finished_at.is_none_or(|at| now.duration_since(at) < KEEP));
    while entries.len() >= KEEP_AT_MOST {
        let Some(oldest) = entries.iter().position(|e| e.status.phase.is_finished()) else {
            return;
        };
        entries.remove(oldest);
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::host::Action;

    fn now() -> Timestamp {
        "2026-03-01T02:00:00Z".parse().unwrap()
    }

    fn path() -> PathBuf {
        std::env::temp_dir().join(format!("ostler-book-{}.json", Uuid::new_v4().simple()))
    }

    fn id(accepted: Accepted) -> String {
        match accepted {
            Accepted::New(entry) => entry.status.id,
            other => panic!("not new: {other:?}"),
        }
    }

    #[test]
    fn the_same_key_is_the_same_operation_also_after_a_restart() {
        let path = path();
        let book = Book::open(path.clone()).unwrap();
        let ask = |action| OperationRequest::new("ollama", action, "why");
        let first = id(book.accept(ask(Action::Restart), Some("k".into()), now()).unwrap());
        let again = Book::open(path.clone()).unwrap();
        for book in [&book, &again] {
            let known = book.accept(ask(Action::Restart), Some("k".into()), now()).unwrap();
            assert!(matches!(known, Accepted::Known(s) if s.id == first));
            let other = book.accept(ask(Action::Stop), Some("k".into()), now()).unwrap();
            assert!(matches!(other, Accepted::KeyReused(s) if s.id == first));
        }
        assert_ne!(id(book.accept(ask(Action::Stop), None, now()).unwrap()), first);
        assert_eq!(again.unfinished("ollama").len(), 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_what_ended_is_forgotten() {
        let path = path();
        let book = Book::open(path.clone()).unwrap();
        let ask = || OperationRequest::new("ollama", Action::Start, "");
        let open = id(book.accept(ask(), None, now()).unwrap());
        let done = id(book.accept(ask(), None, now()).unwrap());
        book.change(&done, |e| {
            e.status.phase = Phase::Succeeded;
            e.status.finished_at = Some(now());
        })
        .unwrap();
        book.accept(ask(), None, now() + 23.hours()).unwrap();
        assert!(book.get(&done).is_some());
        book.accept(ask(), None, now() + 24.hours()).unwrap();
        assert!(book.get(&done).is_none());
        assert!(book.get(&open).is_some());
        std::fs::remove_file(path).unwrap();
    }
}
