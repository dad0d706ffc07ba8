//! What a controller remembers of its objects across passes, leaders and restarts: a document each, committed before acting.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::Kind,
    store::{Fence, Recoveries},
};

use super::{super::error::StepError, NamespacedName};

/// The documents of one kind in this term, by uid: only the leader writes them, so that what was read once holds.
pub struct Memories<M> {
    kind: Kind,
    known: Mutex<HashMap<String, M>>,
}

impl<M: Clone + Default + PartialEq + Serialize + DeserializeOwned> Memories<M> {
    pub fn new(kind: Kind) -> Self {
        Self { kind, known: Mutex::default() }
    }

    /// As it was committed last; read from the database once in a term.
    pub async fn get(
        &self,
        store: &(impl Recoveries + ?Sized),
        uid: &str,
        key: &NamespacedName,
    ) -> Result<M, StepError> {
        if let Some(memory) = self.known.lock().get(uid) {
            return Ok(memory.clone());
        }
        let memory = match store.recovery(uid).await? {
            Some(document) => serde_json::from_value(document).map_err(|e| self.unreadable(key, &e))?,
            None => M::default(),
        };
        self.known.lock().insert(uid.to_owned(), memory.clone());
        Ok(memory)
    }

    /// Writes it if it has changed, and returns what it was before. What cannot be recorded must not be done.
    pub async fn commit(
        &self,
        store: &(impl Recoveries + ?Sized),
        fence: &Fence,
        uid: &str,
        key: &NamespacedName,
        memory: &M,
    ) -> Result<Option<M>, StepError> {
        if self.known.lock().get(uid) == Some(memory) {
            return Ok(None);
        }
        let document = serde_json::to_value(memory).map_err(|e| self.unreadable(key, &e))?;
        store.save_recovery(fence, uid, &document).await?;
        Ok(Some(self.known.lock().insert(uid.to_owned(), memory.clone()).unwrap_or_default()))
    }

    fn unreadable(&self, key: &NamespacedName, error: &serde_json::Error) -> StepError {
        StepError::Memory { what: format!("{} {key}", self.kind), why: error.to_string() }
    }
}
