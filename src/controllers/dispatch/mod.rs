//! What the leader does to tasks: assigns them, takes them back from lost workers, drops old ones, moves servers' limits,
//! counts. Everything is read from the database alone, so that it goes on while the API server is away.

mod assign;
mod callbacks;
mod count;
mod dead_pods;
mod limits;
mod namespaces;
mod reap;
mod retain;

pub use limits::limits_of_last_leader;

use std::{sync::Arc, time::Duration};

use crate::{
    notify::Courier,
    store::{Store, StoreError, Term},
    telemetry::{Beat, Metrics},
};

use super::{
    Parts,
    driver::Triggers,
    shared::{ServerLimits, Shared, Wishes},
    supervise::Supervisor,
};

/// Loops that have nothing to do for longer than this are stuck.
const SILENCE: Duration = Duration::from_secs(60);

/// What every loop here has.
struct LoopContext {
    store: Arc<dyn Store>,
    metrics: Metrics,
    term: Term,
    beat: Beat,
}

impl LoopContext {
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
                tracing::warn!(what, %error, "could not finish a round over tasks; will retry");
                None
            }
        }
    }
}

/// Starts all of it for one term.
pub fn start(supervisor: &mut Supervisor, parts: &Parts, shared: &Shared, term: &Term, triggers: Triggers) {
    let context = |name: &'static str| {
        let (parts, term) = (parts.clone(), term.clone());
        move || LoopContext::new(&parts, &term, name)
    };
    let (wishes, known): (Wishes, ServerLimits) = (shared.wishes.clone(), shared.limits.clone());
    let slots = shared.slots.clone();
    let of = context("assign tasks");
    supervisor.run("assign tasks", move || assign::run(of(), wishes.clone()));
    let of = context("reap leases");
    supervisor.run("reap leases", move || reap::run(of()));
    let (of, pods) = (context("free what dead pods hold"), Arc::clone(&parts.worker_pods));
    supervisor.run("free what dead pods hold", move || dead_pods::run(of(), Arc::clone(&pods)));
    let of = context("drop old tasks");
    supervisor.run("drop old tasks", move || retain::run(of()));
    let (of, platform) = (context("tasks of former namespaces"), Arc::clone(&parts.platform));
    supervisor.run("tasks of former namespaces", move || namespaces::run(of(), Arc::clone(&platform)));
    let of = context("adapt limits");
    supervisor.run("adapt limits", move || limits::run(of(), known.clone(), slots.clone(), triggers.clone()));
    let (of, courier) = (context("tell of ends"), Courier::new(shared.secrets.clone(), parts.http.clone()));
    supervisor.run("tell of ends", move || callbacks::run(of(), courier.clone()));
    let of = context("count tasks");
    supervisor.run("count tasks", move || count::run(of()));
}
