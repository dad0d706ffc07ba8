//! The book of operations: written before anything is done, read again after a restart of the agent.

use std::{collections::VecDeque, fmt::Display, path::PathBuf};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::disk::{self, StateError};
use crate::{
    agent::{gate::Refused, service::ServiceError},
    host::{AgentRefusal, Instance, OperationRequest, OperationStatus, Phase},
};

const KEEP: SignedDuration = SignedDuration::from_hours(24);
const KEEP_AT_MOST: usize = 500;

/// An operation as a book keeps it.
pub trait OperationRecord: Clone + PartialEq + Serialize + DeserializeOwned {
    type Request: PartialEq;
    type Failure: Display;

    /// A request that was just accepted.
    fn accepted(request: Self::Request, id: String, key: Option<String>, now: Timestamp) -> Self;
    fn request(&self) -> &Self::Request;
    fn id(&self) -> &str;
    fn key(&self) -> Option<&str>;
    /// The service or container, for the log.
    fn subject(&self) -> &str;
    fn action(&self) -> &'static str;
    /// `None` while it waits or runs.
    fn finished_at(&self) -> Option<Timestamp>;
    fn end(&mut self, outcome: &Result<String, Self::Failure>, now: Timestamp);
}

/// An operation on a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceOperationRecord {
    pub request: OperationRequest,
    pub status: OperationStatus,
    /// The process that ran when a Restart began: another one means that the Restart was already done when the agent died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Instance>,
}

impl OperationRecord for ServiceOperationRecord {
    type Request = OperationRequest;
    type Failure = ServiceError;

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

    fn subject(&self) -> &str {
        &self.status.service
    }

    fn action(&self) -> &'static str {
        self.status.action.as_str()
    }

    fn finished_at(&self) -> Option<Timestamp> {
        self.status.finished_at
    }

    fn end(&mut self, outcome: &Result<String, ServiceError>, now: Timestamp) {
        let status = &mut self.status;
        status.finished_at = Some(now);
        (status.phase, status.message) = ended(outcome);
        status.exited_early = outcome.as_ref().is_err_and(ServiceError::exited_early);
    }
}

/// Phase and message of an operation that ended so.
pub fn ended<F: Display>(outcome: &Result<String, F>) -> (Phase, String) {
    match outcome {
        Ok(done) => (Phase::Succeeded, done.clone()),
        Err(failure) => (Phase::Failed, failure.to_string()),
    }
}

#[derive(Debug)]
pub struct OperationBook<E = ServiceOperationRecord> {
    path: PathBuf,
    entries: Mutex<VecDeque<E>>,
}

impl<E: OperationRecord> OperationBook<E> {
    pub fn open(path: PathBuf) -> Result<Self, StateError> {
        let entries = disk::read(&path)?.unwrap_or_default();
        Ok(Self { path, entries: Mutex::new(entries) })
    }

    /// Writes a request down and gives it an id, unless its key came before: then it is that operation. `judge` may refuse a new one.
    /// `true`: it is new. When this returns it will be done or have failed, whatever happens to the agent. Blocks on the disk.
    pub fn accept(
        &self,
        request: E::Request,
        key: Option<String>,
        now: Timestamp,
        judge: impl FnOnce(&E::Request) -> Result<(), Refused>,
    ) -> Result<(E, bool), Refused> {
        let mut entries = self.entries.lock();
        if let Some(known) = key.as_ref().and_then(|key| entries.iter().find(|e| e.key() == Some(key))) {
            return match *known.request() == request {
                true => Ok((known.clone(), false)),
                false => Err(Refused::key_reused(known.id())),
            };
        }
        judge(&request)?;
        let entry = E::accepted(request, Uuid::now_v7().to_string(), key, now);
        let mut new = entries.clone();
        forget(&mut new, now);
        new.push_back(entry.clone());
        self.keep(&mut entries, new).map_err(|error| Refused::new(AgentRefusal::NotRecorded, error.to_string()))?;
        Ok((entry, true))
    }

    /// Writes down how an operation ended.
    pub fn end(&self, entry: &E, outcome: &Result<String, E::Failure>) {
        let (id, subject, action) = (entry.id(), entry.subject(), entry.action());
        match outcome {
            Ok(done) => tracing::info!(id, subject, action, done, "operation done"),
            Err(error) => tracing::warn!(id, subject, action, %error, "operation failed"),
        }
        if let Err(error) = self.change(id, |entry| entry.end(outcome, Timestamp::now())) {
            tracing::error!(id, subject, action, %error, "cannot record the end of the operation");
        }
    }

    /// Changes an entry, on disk first.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut E)) -> Result<(), StateError> {
        let mut entries = self.entries.lock();
        let mut new = entries.clone();
        if let Some(entry) = new.iter_mut().find(|e| e.id() == id) {
            change(entry);
        }
        self.keep(&mut entries, new)
    }

    pub fn get(&self, id: &str) -> Option<E> {
        self.entries.lock().iter().find(|e| e.id() == id).cloned()
    }

    /// What is still to be done, in the order in which it was asked.
    pub fn all_unfinished(&self) -> Vec<E> {
        self.entries.lock().iter().filter(|e| e.finished_at().is_none()).cloned().collect()
    }

    fn keep(&self, entries: &mut VecDeque<E>, new: VecDeque<E>) -> Result<(), StateError> {
        if *entries != new {
            disk::write(&self.path, &new)?;
            *entries = new;
        }
        Ok(())
    }
}

impl OperationBook {
    /// What is still to be done for a service, in the order in which it was asked.
    pub fn unfinished(&self, service: &str) -> Vec<ServiceOperationRecord> {
        self.all_unfinished().into_iter().filter(|e| e.status.service == service).collect()
    }
}

/// Forgets what ended a day ago, and the oldest that ended when there are too many.
fn forget<E: OperationRecord>(entries: &mut VecDeque<E>, now: Timestamp) {
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

    type Book = OperationBook<ServiceOperationRecord>;

    fn accept(
        book: &Book,
        request: OperationRequest,
        key: Option<&str>,
        at: Timestamp,
    ) -> Result<(String, bool), Refused> {
        book.accept(request, key.map(str::to_owned), at, |_| Ok(())).map(|(entry, is_new)| (entry.status.id, is_new))
    }

    fn new(book: &Book, request: OperationRequest, at: Timestamp) -> String {
        let (id, is_new) = accept(book, request, None, at).unwrap();
        assert!(is_new);
        id
    }

    #[test]
    fn the_same_key_is_the_same_operation_also_after_a_restart() {
        let path = path();
        let book = Book::open(path.clone()).unwrap();
        let ask = |action| OperationRequest::new("ollama", action, "why");
        let (first, _) = accept(&book, ask(Action::Restart), Some("k"), now()).unwrap();
        let again = Book::open(path.clone()).unwrap();
        for book in [&book, &again] {
            assert_eq!(accept(book, ask(Action::Restart), Some("k"), now()).unwrap(), (first.clone(), false));
            let other = accept(book, ask(Action::Stop), Some("k"), now()).unwrap_err();
            assert!(other.reason == AgentRefusal::KeyReused && other.message.contains(&first), "{other:?}");
        }
        assert_ne!(new(&book, ask(Action::Stop), now()), first);
        let held = book.accept(ask(Action::Stop), None, now(), |_| Err(Refused::new(AgentRefusal::Held, "")));
        assert_eq!(held.unwrap_err().reason, AgentRefusal::Held);
        assert_eq!(again.unfinished("ollama").len(), 1);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn only_what_ended_is_forgotten() {
        let path = path();
        let book = Book::open(path.clone()).unwrap();
        let ask = || OperationRequest::new("ollama", Action::Start, "");
        let open = new(&book, ask(), now());
        let done = new(&book, ask(), now());
        book.change(&done, |e| {
            e.status.phase = Phase::Succeeded;
            e.status.finished_at = Some(now());
        })
        .unwrap();
        new(&book, ask(), now() + 23.hours());
        assert!(book.get(&done).is_some());
        new(&book, ask(), now() + 24.hours());
        assert!(book.get(&done).is_none());
        assert!(book.get(&open).is_some());
        std::fs::remove_file(path).unwrap();
    }
}
