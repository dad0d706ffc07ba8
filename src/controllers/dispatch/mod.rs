//! What the leader does to tasks: assigns them, takes them back from lost workers, drops old ones, moves servers' limits,
//! counts. Everything is read from the database alone, so that it goes on while the API server is away.

mod assign;
mod count;
mod dead_pods;
mod limits;
mod reap;
mod retain;

pub use limits::limits_of_last_leader;

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use crate::{
    api::LLMBackend,
    store::{Store, StoreError, Term},
    telemetry::{Beat, Metrics},
};

use super::{
    Parts,
    shared::{Limits, Shared, Wishes},
};

/// Loops that have nothing to do for longer than this are stuck.
const SILENCE: Duration = Duration::from_secs(60);

/// What every loop here has.
struct Desk {
    store: Arc<dyn Store>,
    metrics: Metrics,
    term: Term,
    beat: Beat,
}

impl Desk {
    fn new(parts: &Parts, term: &Term, name: &str) -> Self {
        Self {
            store: Arc::clone(&parts.store),
            metrics: parts.metrics.clone(),
            term: term.clone(),
            beat: parts.loops.register(name, SILENCE),
        }
    }

    /// Whether it still leads; says so when what it did was refused.
    fn note<T>(&self, what: &'static str, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(what, %error, "tasks are looked at again soon");
                None
            }
        }
    }
}

/// Runs all of it for one term.
pub async fn run(parts: &Parts, shared: &Shared, term: &Term, trigger: mpsc::UnboundedSender<ObjectRef<LLMBackend>>) {
    let desk = |name: &str| Desk::new(parts, term, name);
    let wishes: Wishes = shared.wishes.clone();
    let known: Limits = shared.limits.clone();
    let loops: Vec<BoxFuture<'_, ()>> = vec![
        Box::pin(assign::run(desk("assign tasks"), wishes)),
        Box::pin(reap::run(desk("reap leases"))),
        Box::pin(dead_pods::run(desk("free what dead pods hold"), Arc::clone(&parts.worker_pods))),
        Box::pin(retain::run(desk("drop old tasks"))),
        Box::pin(limits::run(desk("adapt limits"), known, shared.slots.clone(), trigger)),
        Box::pin(count::run(desk("count tasks"))),
    ];
    join_all(loops).await;
}
