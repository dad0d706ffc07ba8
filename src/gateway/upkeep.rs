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
use crate::store::{CallEvidence, OpenCall, ProcessIdentity, Topics, WorkerReport};

/// A loop that is silent for longer is stuck: longer than any statement's timeout.
const MAY_BE_SILENT: Duration = Duration::from_secs(120);
/// Slots are looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Calls that are open are told of again, so that those of a process that is gone are known by their age.
const REPEAT: Duration = Duration::from_secs(10);
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
            GatewayView::read(&*core.store).await
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
            let view = Arc::new(view);
            *core.view.write() = Arc::clone(&view);
            core.known.notify_one();
            core.end_withdrawn(&view);
        }
        let _ = ended.run_until_cancelled(changes.changed(wait)).await;
    }
}

/// Ends the calls that people want ended.
pub(super) async fn cancel(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: cancelled calls", MAY_BE_SILENT);
    let mut wishes = core.store.follow(Topics::WISHES);
    // In parts, so that the loop is seen to be alive.
    while ended.run_until_cancelled(wishes.changed(MAY_BE_SILENT / 4)).await.is_some() {
        beat.beat();
        if let Err(error) = core.end_cancelled().await {
            tracing::debug!(%error, "calls are cancelled later");
        }
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
        if let Err(error) = core.count_uses().await {
            tracing::debug!(%error, "what calls used is counted later");
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
            let _ = tokio::time::timeout(MAY_BE_SILENT / 4, core.queues.more()).await;
        }
    };
    while ended.run_until_cancelled(next(told)).await.is_some() {
        beat.beat();
        let waits = core.queues.waits();
        if waits.is_empty() && !told {
            continue;
        }
        match core.store.wait_for_slots(&core.holder, &waits).await {
            Ok(()) => told = !waits.is_empty(),
            Err(error) => tracing::debug!(%error, "nobody is told of calls that wait"),
        }
    }
}

/// What a report tells.
type ReportContent = (Vec<CallEvidence>, Vec<OpenCall>);

/// Tells the leader what calls showed of servers.
pub(super) async fn report(core: Arc<GatewayCore>, ended: CancellationToken) {
    let beat = core.loops.register("gateway: reports", MAY_BE_SILENT);
    let mut last: Option<(Instant, ReportContent)> = None;
    let mut last_at = Instant::now();
    while ended.run_until_cancelled(core.evidence.report_due(core.timings.report, last_at)).await.is_some() {
        last_at = Instant::now();
        beat.beat();
        let reported_at = Timestamp::now();
        let told = (core.evidence.all(reported_at), core.open.shown());
        let said = last.as_ref().filter(|(at, (_, open))| open.is_empty() || at.elapsed() < REPEAT);
        if said.map_or(told == Default::default(), |(_, said)| *said == told) {
            continue;
        }
        let (evidence, open_calls) = told.clone();
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
            evidence,
            open_calls,
            reported_at,
        };
        match core.store.report_worker(&report).await {
            Ok(()) => last = Some((Instant::now(), told)),
            Err(error) => tracing::debug!(%error, "no report"),
        }
    }
}
