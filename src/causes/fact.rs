//! What is seen of the objects that may be causes or symptoms.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{CauseClass, WhoActs};
use crate::api::ObjectKey;

/// How an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CauseHealth {
    Well,
    /// Nobody can say now: what was known holds.
    Unknown,
    /// A person suspended, stopped or held it.
    Wished,
    /// It is not as declared only if what it waits for is not.
    Waiting,
    Unwell(CauseTrouble),
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseTrouble {
    pub class: CauseClass,
    pub acts: WhoActs,
    /// `None`: it was seen just now.
    pub since: Option<Timestamp>,
    /// One word.
    pub reason: String,
    pub message: String,
    pub tried: Vec<String>,
    /// What a person does next; empty: the kind says it.
    pub next: String,
    /// Nothing comes from it at all.
    pub silent: bool,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseFact {
    pub key: ObjectKey,
    pub health: CauseHealth,
    /// What it depends on, the first that counts first.
    pub points_to: Vec<ObjectKey>,
    /// Of a backend, the host of its URL.
    pub host: Option<String>,
    /// Tasks that wait because of it.
    pub waiting: i64,
}

impl CauseFact {
    pub fn new(key: ObjectKey, health: CauseHealth) -> Self {
        Self { key, health, points_to: Vec::new(), host: None, waiting: 0 }
    }

    pub fn trouble(&self) -> Option<&CauseTrouble> {
        match &self.health {
            CauseHealth::Unwell(trouble) => Some(trouble),
            CauseHealth::Well | CauseHealth::Unknown | CauseHealth::Wished | CauseHealth::Waiting => None,
        }
    }
}

/// Everything that is seen.
#[derive(Clone, Debug, Default)]
pub struct CauseFacts {
    pub objects: Vec<CauseFact>,
    /// Keys of causes that are open: a group stays one until its last member is well.
    pub open: BTreeSet<String>,
}
