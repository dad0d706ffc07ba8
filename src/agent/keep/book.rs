//! The book of operations: written before anything is done, read again after a restart of the agent.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::disk::{self, StateError};
use crate::host::{Instance, OperationRequest, OperationStatus, Phase};

const KEEP: SignedDuration = SignedDuration::from_hours(24);
const KEEP_AT_MOST: usize = 500;

/// An operation as a book keeps it.
pub trait Recorded: Clone + PartialEq + Serialize + DeserializeOwned {
    type Request: PartialEq;

    /// A request that was just accepted.
    fn accepted(request: Self::Request, id: String, key: Option<String>, now: Timestamp) -> Self;
    fn request(&self) -> &Self::Request;
    fn id(&self) -> &str;
    fn key(&self) -> Option<&str>;
    /// `None` while it waits or runs.
    fn finished_at(&self) -> Option<Timestamp>;
}

/// An operation on a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub request: OperationRequest,
    pub status: OperationStatus,
    /// The process that ran when a Restart began: another one means that the Restart was already done when the agent died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Instance>,
}

impl Recorded for Entry {
    type Request = OperationRequest;

    fn accepted(request: OperationRequest, id: String, key: Option<String>, now: Timestamp) -> Self {
        let status = OperationStatus {
            id,
            service: request.service.clone(),
            action: request.action,
            phase: Phase::Accepted,
            message: String::new(),
            accepted_at: now,
            started_at: None,
            finished_at: None,
            idempotency_key: key,
            exited_early: false,
        };
        Self { status, request, before: None }
    }

    fn request(&self) -> &OperationRequest {
        &self.request
    }

    fn id(&self) -> &str {
        &self.status.id
    }

    fn key(&self) -> Option<&str> {
        self.status.idempotency_key.as_deref()
    }

    fn finished_at(&self) -> Option<Timestamp> {
        self.status.finished_at
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Accepted<E = Entry> {
    New(E),
    /// Its key came before, with the same request.
    Known(E),
    /// Its key came before, with another request.
    KeyReused(E),
}

#[derive(Debug)]
pub struct Book<E = Entry> {
    path: PathBuf,
    entries: Mutex<VecDeque<E>>,
}

impl<E: Recorded> Book<E> {
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let entries = disk::read(&path)?.unwrap_or_default();
        Ok(Self { path, entries: Mutex::new(entries) })
    }

    /// Writes a request down and gives it an id, unless its key came before.
    pub fn accept(&self, request: E::Request, key: Option<String>, now: Timestamp) -> Result<Accepted<E>, StateError> {
        let mut entries = self.lock();
        if let Some(key) = &key
            && let Some(known) = entries.iter().find(|e| e.key() == Some(key))
        {
            let entry = known.clone();
            return Ok(if *known.request() == request { Accepted::Known(entry) } else { Accepted::KeyReused(entry) });
        }
        let entry = E::accepted(request, Uuid::now_v7().to_string(), key, now);
        let mut new = entries.clone();
        forget(&mut new, now);
        new.push_back(entry.clone());
        self.keep(&mut entries, new)?;
        Ok(Accepted::New(entry))
    }

    /// Changes an entry, on disk first.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut E)) -> Result<(), StateError> {
        let mut entries = self.lock();
        let mut new = entries.clone();
        if let Some(entry) = new.iter_mut().find(|e| e.id() == id) {
            change(entry);
        }
        self.keep(&mut entries, new)
    }

    /// The operation of a key that came before.
    pub fn of_key(&self, key: &str) -> Option<E> {
        self.lock().iter().find(|e| e.key() == Some(key)).cloned()
    }

    pub fn get(&self, id: &str) -> Option<E> {
        self.lock().iter().find(|e| e.id() == id).cloned()
    }

    /// What is still to be done, in the order in which it was asked.
    pub fn all_unfinished(&self) -> Vec<E> {
        self.lock().iter().filter(|e| e.finished_at().is_none()).cloned().collect()
    }

    fn keep(&self, entries: &mut VecDeque<E>, new: VecDeque<E>) -> Result<(), StateError> {
        if *entries != new {
            disk::write(&self.path, &new)?;
            *entries = new;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<E>> {
        // Replaced whole, so a panic elsewhere can't have left half of one.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// What is still to be done for a service, in the order in which it was asked.
    pub fn unfinished(&self, service: &str) -> Vec<Entry> {
        self.all_unfinished().into_iter().filter(|e| e.status.service == service).collect()
    }
}

/// Forgets what ended a day ago, and the oldest that ended when there are too many.
fn forget<E: Recorded>(entries: &mut VecDeque<E>, now: Timestamp) {
    entries.retain(|e| e.finished_at().is_none_or(|at| now.duration_since(at) < KEEP));
    while entries.len() >= KEEP_AT_MOST {
        let Some(oldest) = entries.iter().position(|e| e.finished_at().is_some()) else {
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
        let book = Book::<Entry>::open(path.clone()).unwrap();
        let ask = |action| OperationRequest::new("ollama", action, "why");
        let first = id(book.accept(ask(Action::Restart), Some("k".into()), now()).unwrap());
        let again = Book::<Entry>::open(path.clone()).unwrap();
        for book in [&book, &again] {
            let known = book.accept(ask(Action::Restart), Some("k".into()), now()).unwrap();
            assert!(matches!(known, Accepted::Known(e) if e.status.id == first));
            let other = book.accept(ask(Action::Stop), Some("k".into()), now()).unwrap();
            assert!(matches!(other, Accepted::KeyReused(e) if e.status.id == first));
        }
        assert_ne!(id(book.accept(ask(Action::Stop), None, now()).unwrap()), first);
        assert_eq!(again.unfinished("ollama").len(), 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_what_ended_is_forgotten() {
        let path = path();
        let book = Book::<Entry>::open(path.clone()).unwrap();
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
