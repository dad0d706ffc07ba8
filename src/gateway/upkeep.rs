//! The loops of a gateway: what is declared, slots in hand, and what calls showed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{core::GatewayCore, view::GatewayView};
use crate::base::tick;
use crate::store::{ProcessIdentity, Topics, WorkerReport};

/// A loop that is silent for longer is stuck: longer than any statement's timeout.
const MAY_BE_SILENT: Duration = Duration::from_secs(120);
/// Slots are looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries while the database is away.
const RETRY: Duration = Duration::from_secs(1);

/// Reads what is declared, whenever it changes.
pub(super) async fn follow(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: what is declared", MAY_BE_SILENT);
    let mut changes = core.store.follow(Topics::WORLD);
    let mut is_registered = false;
    let mut is_failing = false;
    while !ended.is_cancelled() {
        beat.beat();
        let read = async {
            if !is_registered {
                core.store.register_holder(&core.holder, ProcessIdentity::own()).await?;
                is_registered = true;
            }
            GatewayView::read(&*core.store, &core.namespace).await
        };
        let read = read.await;
        let wait = match &read {
            Ok(_) => core.timings.world,
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "the gateway serves what was declared last while the database is away");
                }
                RETRY
            }
        };
        is_failing = read.is_err();
        if let Ok(view) = read {
            *core.view.write() = Arc::new(view);
        }
        let _ = ended.run_until_cancelled(changes.changed(wait)).await;
    }
}

/// Renews slots, and gives back those that nobody knows of.
pub(super) async fn keep(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: slots", MAY_BE_SILENT);
    let mut renewed_at = Instant::now();
    while ended.run_until_cancelled(tick(LOOK)).await.is_some() {
        beat.beat();
        if renewed_at.elapsed() >= core.timings.slot_lease / 3 {
            renewed_at = Instant::now();
            core.slots.renew().await;
        } else {
            core.slots.record_calls().await;
        }
        if let Err(error) = core.give_back_unknown().await {
            tracing::debug!(%error, "slots that nobody knows of are given back later");
        }
    }
}

/// Tells everybody which calls wait: once a second while any do, and once when none does any more. A call that finds a free slot is never
/// told of.
pub(super) async fn wait(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: waiting calls", MAY_BE_SILENT);
    let mut told = false;
    let next = async |told: bool| {
        if told {
            sleep(LOOK).await;
        } else {
            // In parts, so that the loop is seen to be alive.
            let _ = tokio::time::timeout(MAY_BE_SILENT / 4, core.more_wait.notified()).await;
        }
    };
    while ended.run_until_cancelled(next(told)).await.is_some() {
        beat.beat();
        let waits = core.waits();
        if waits.is_empty() && !told {
            continue;
        }
        match core.store.wait_for_slots(&core.holder, &waits).await {
            Ok(()) => told = !waits.is_empty(),
            Err(error) => tracing::debug!(%error, "nobody is told of calls that wait"),
        }
    }
}

/// Tells the leader what calls showed of servers.
pub(super) async fn report(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: reports", MAY_BE_SILENT);
    let mut last = None;
    let mut last_at = Instant::now();
    while ended.run_until_cancelled(core.evidence.report_due(core.timings.report, last_at)).await.is_some() {
        last_at = Instant::now();
        beat.beat();
        let reported_at = Timestamp::now();
        let evidence = core.evidence.all(reported_at);
        if last.as_ref().unwrap_or(&Vec::new()) == &evidence {
            continue;
        }
        let report = WorkerReport {
            holder: core.holder.clone(),
            namespace: core.namespace.clone(),
            // It belongs to none.
            pool: String::new(),
            host: core.host.clone(),
            in_flight: i32::try_from(core.in_flight.load(Ordering::Relaxed)).unwrap_or(i32::MAX),
            effective_concurrency: 0,
            limited_by: "Backends".to_owned(),
            draining: core.closing.is_cancelled(),
            calls: Vec::new(),
            evidence: evidence.clone(),
            reported_at,
        };
        match core.store.report_worker(&report).await {
            Ok(()) => last = Some(evidence),
            Err(error) => tracing::debug!(%error, "no report"),
        }
    }
}
