//! What is projected, as the leader knows it: read once a term, changed through here only. Gates and schedules run from it, so
//! they go on while the API server is away, also at start.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    api::Kind,
    store::{DeclaredRow, Fence, Store, StoreError, seal},
};

const AGAIN: Duration = Duration::from_secs(2);

/// The projections of this term.
#[derive(Clone)]
pub struct ProjectionCache {
    store: Arc<dyn Store>,
    rows: Arc<Mutex<HashMap<String, DeclaredRow>>>,
    loaded: Arc<AtomicBool>,
}

impl ProjectionCache {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, rows: Arc::default(), loaded: Arc::default() }
    }

    /// Reads what earlier leaders projected, until the database gives it.
    pub async fn load(&self, ended: &CancellationToken) {
        while let Err(error) = self.read().await {
            tracing::warn!(%error, "could not read the projections; will retry");
            if ended.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
                return;
            }
        }
        self.loaded.store(true, Ordering::Release);
    }

    async fn read(&self) -> Result<(), StoreError> {
        let projected = Kind::ALL.iter().filter(|kind| !matches!(kind, Kind::LLMBackend | Kind::HostAgent));
        for kind in projected.map(|kind| kind.as_str()).chain([seal::KIND]) {
            for row in self.store.declared(kind).await? {
                // What a pass of this term has projected meanwhile is newer.
                self.rows.lock().entry(row.uid.clone()).or_insert(row);
            }
        }
        Ok(())
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// All of a kind.
    pub fn rows(&self, kind: &str) -> Vec<DeclaredRow> {
        self.rows.lock().values().filter(|row| row.kind == kind).cloned().collect()
    }

    pub fn row(&self, uid: &str) -> Option<DeclaredRow> {
        self.rows.lock().get(uid).cloned()
    }

    /// Whether a resource of this name is projected.
    pub fn has(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.rows.lock().values().any(|row| row.kind == kind.as_str() && row.namespace == namespace && row.name == name)
    }

    /// Writes a row that differs from what is known.
    pub async fn project(&self, fence: &Fence, row: DeclaredRow) -> Result<(), StoreError> {
        if self.rows.lock().get(&row.uid) == Some(&row) {
            return Ok(());
        }
        self.store.project_declared(fence, &row).await?;
        self.rows.lock().insert(row.uid.clone(), row);
        Ok(())
    }

    /// Changes only why something is held.
    pub async fn hold(&self, fence: &Fence, uid: &str, held: Option<String>) -> Result<(), StoreError> {
        match self.row(uid) {
            Some(row) => self.project(fence, DeclaredRow { held, ..row }).await,
            None => Ok(()),
        }
    }

    /// Marks as gone what a complete listing lacks.
    pub async fn sweep(&self, fence: &Fence, kind: &str, complete: &[String]) -> Result<Vec<DeclaredRow>, StoreError> {
        let gone = self.store.sweep_declared(fence, kind, complete).await?;
        self.rows.lock().retain(|uid, row| row.kind != kind || complete.contains(uid));
        Ok(gone)
    }
}
