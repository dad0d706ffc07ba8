//! The limit of each server as it was last adapted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// By the server's normalized URL.
#[derive(Clone, Default)]
pub struct Limits {
    known: Arc<Mutex<HashMap<String, i32>>>,
}

impl Limits {
    pub fn put(&self, limits: HashMap<String, i32>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// None until it is known in this term.
    pub fn of(&self, server_url: &str) -> Option<i32> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(server_url).copied()
    }
}
