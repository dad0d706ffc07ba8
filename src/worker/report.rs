//! What a worker reports of itself.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    core::Core,
    load::Allowance,
    stats::{self, ServerRoom},
};
use crate::{api::LimitedBy, store::WorkerReport, telemetry::Beat};

/// What the loops tell each other.
#[derive(Default)]
pub struct State {
    allowance: Mutex<Option<Allowance>>,
    pub servers_short: AtomicBool,
}

impl State {
    pub fn allowance(&self) -> Allowance {
        let known = *self.allowance.lock();
        known.unwrap_or(Allowance { most: 0, limited_by: LimitedBy::Concurrency })
    }

    pub fn set(&self, allowance: Allowance) {
        *self.allowance.lock() = Some(allowance);
    }
}

/// Reports how this worker is, every few seconds; at once what changes the verdict over a server.
pub async fn report(core: Arc<Core>, state: Arc<State>, host: String, beat: Beat, ended: CancellationToken) {
    let mut last_at = Instant::now();
    let mut last: Option<(Instant, WorkerReport)> = None;
    while ended.run_until_cancelled(core.evidence.report_due(core.timings.report, last_at)).await.is_some() {
        last_at = Instant::now();
        beat.beat();
        let (allowance, in_flight) = (state.allowance(), core.places.taken());
        let draining = core.draining.is_cancelled();
        let short = !draining && in_flight < allowance.most && state.servers_short.load(Ordering::Relaxed);
        let round = ServerRoom { servers_short: short && waits_for_slots(&core).await };
        let reported_at = Timestamp::now();
        let report = WorkerReport {
            holder: core.holder.clone(),
            namespace: core.namespace.clone(),
            pool: core.pool.clone(),
            host: host.clone(),
            in_flight,
            effective_concurrency: allowance.most,
            limited_by: <&str>::from(stats::limited_by(draining, allowance, in_flight, round)).to_owned(),
            draining,
            calls: core.stats.take(),
            evidence: core.evidence.all(reported_at),
            open_calls: Vec::new(),
            reported_at,
        };
        let said = last.as_ref().filter(|(at, _)| at.elapsed() < core.timings.report_idle).map(|(_, last)| last);
        if in_flight == 0 && said.is_some_and(|said| is_repeated(said, &report)) {
            continue;
        }
        if let Err(error) = core.store.report_worker(&report).await {
            tracing::debug!(%error, "no report");
            core.stats.put_back(report.calls);
            continue;
        }
        last = Some((Instant::now(), report));
    }
}

/// Whether a report says what the last one said.
fn is_repeated(last: &WorkerReport, report: &WorkerReport) -> bool {
    report.calls.is_empty()
        && *last == WorkerReport { calls: last.calls.clone(), reported_at: last.reported_at, ..report.clone() }
}

/// Whether tasks of this pool's queues are due that ask for a model.
async fn waits_for_slots(core: &Core) -> bool {
    let queues: Vec<_> = core.world().queues.keys().cloned().collect();
    core.store.slots_wanted(&queues).await.unwrap_or(false)
}
