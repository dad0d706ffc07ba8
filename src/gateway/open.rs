//! The calls of this gateway that are open, and what those that ended used.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{client::Client, core::GatewayCore, view::GatewayView};
use crate::{
    protocols::{Refusal, RefusalReason},
    store::{CallerUse, MOST_OPEN_CALLS, OpenCall, StoreError},
};

/// Calls by id.
#[derive(Default)]
pub(super) struct OpenCalls(Mutex<BTreeMap<String, Arc<Client>>>);

impl OpenCalls {
    pub fn add(&self, client: &Arc<Client>) {
        self.0.lock().insert(client.id.clone(), Arc::clone(client));
    }

    pub fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// The oldest first: ids begin with their time.
    fn all(&self) -> Vec<Arc<Client>> {
        self.0.lock().values().cloned().collect()
    }

    /// For whoever looks on.
    pub fn shown(&self) -> Vec<OpenCall> {
        self.0.lock().values().take(MOST_OPEN_CALLS).map(|client| client.shown()).collect()
    }
}

/// What calls used, until the database knows.
#[derive(Default)]
pub(super) struct Uses(Mutex<BTreeMap<String, (i64, i64)>>);

impl Uses {
    pub fn add(&self, caller: String, calls: i64, tokens: i64) {
        let mut uses = self.0.lock();
        let known = uses.entry(caller).or_default();
        *known = (known.0.saturating_add(calls), known.1.saturating_add(tokens));
    }

    fn take(&self) -> Vec<CallerUse> {
        let taken = std::mem::take(&mut *self.0.lock());
        taken.into_iter().map(|(caller, (calls, tokens))| CallerUse { caller, calls, tokens }).collect()
    }
}

impl GatewayCore {
    /// Records what calls used that ended.
    pub async fn count_uses(&self) -> Result<(), StoreError> {
        let uses = self.uses.take();
        if uses.is_empty() {
            return Ok(());
        }
        let counted = self.store.count_use(&uses).await;
        if counted.is_err() {
            for CallerUse { caller, calls, tokens } in uses {
                self.uses.add(caller, calls, tokens);
            }
        }
        counted
    }

    /// Ends the calls that a person wants ended.
    pub async fn end_cancelled(&self) -> Result<(), StoreError> {
        let open = self.open.all();
        if open.is_empty() {
            return Ok(());
        }
        let cancelled = self.store.cancelled_calls().await?;
        for client in open.into_iter().filter(|client| cancelled.contains(&client.id)) {
            let refusal = Refusal::new(RefusalReason::Cancelled, "this call was cancelled by a person");
            tokio::spawn(async move { client.end(&refusal).await });
        }
        Ok(())
    }

    /// Ends the calls whose callers may not call any more.
    pub fn end_withdrawn(&self, view: &GatewayView) {
        for client in self.open.all() {
            if let Err(refusal) = view.may_go_on(&client.asker) {
                tracing::info!(
                    call = client.id,
                    caller = client.asker.caller.id(),
                    "a call is ended: {}",
                    refusal.message
                );
                // A task of its own: whoever reads slowly holds up nobody else's end.
                tokio::spawn(async move { client.end(&refusal).await });
            }
        }
    }
}
