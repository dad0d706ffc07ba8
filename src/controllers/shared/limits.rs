//! The limit of each server as it was last adapted, and why.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How many calls a server gets at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLimit {
    pub limit: i32,
    /// Why that is below the declared maximum, for people.
    pub limited_by: Option<String>,
}

/// By the server's normalized URL.
#[derive(Clone, Default)]
pub struct ServerLimits {
    known: Arc<Mutex<HashMap<String, ServerLimit>>>,
}

impl ServerLimits {
    pub fn put(&self, limits: HashMap<String, ServerLimit>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// None until it is known in this term.
    pub fn of(&self, server_url: &str) -> Option<ServerLimit> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(server_url).cloned()
    }
}
